"""Whether a file is whole, and a copy of it.

Each function reads within a transaction that its caller has opened; see `Connection.read`.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3

from ..paths import sync_directory
from .create import read_schema

_TERMINAL = "('succeeded', 'failed', 'cancelled', 'expired')"

#: What no transaction of ours leaves behind: some ids, and what is said of them.
_IMPOSSIBLE = (
    (
        "SELECT id FROM job"
        f" WHERE state NOT IN ('queued', 'scheduled', 'blocked', 'running') AND state NOT IN {_TERMINAL} LIMIT 10",
        "in a state that there is not",
    ),
    ("SELECT id FROM job WHERE state = 'running' AND worker IS NULL LIMIT 10", "running without a worker"),
    ("SELECT id FROM job WHERE state = 'scheduled' AND due_at IS NULL LIMIT 10", "scheduled for no time"),
    (f"SELECT id FROM job WHERE state IN {_TERMINAL} AND finished_at IS NULL LIMIT 10", "at an end without its time"),
    (
        f"SELECT id FROM job WHERE state NOT IN {_TERMINAL} AND finished_at IS NOT NULL LIMIT 10",
        "not at an end, but have its time",
    ),
)


def faults(sql: sqlite3.Connection) -> list[str]:
    """What is wrong with the file: what SQLite finds, and jobs that cannot be. Reads all of it."""
    found = damage(sql, is_quick=False) or missing(sql)
    for statement, what in () if found else _IMPOSSIBLE:
        ids = [str(row[0]) for row in sql.execute(statement)]
        if ids:
            found.append(f"jobs are {what}: {', '.join(ids)}{', …' if len(ids) == 10 else ''}")
    return found


def damage(sql: sqlite3.Connection, *, is_quick: bool) -> list[str]:
    """What SQLite finds wrong with the file; *is_quick* leaves out whether indexes and tables agree."""
    rows = sql.execute("PRAGMA quick_check(20)" if is_quick else "PRAGMA integrity_check(20)")
    return [line for row in rows for line in str(row[0]).splitlines() if line != "ok"]


def missing(sql: sqlite3.Connection) -> list[str]:
    """What of the schema somebody has dropped."""
    schema, fresh = read_schema(), sqlite3.connect(":memory:")
    try:
        fresh.executescript(schema)
        wanted = fresh.execute(_OBJECTS).fetchall()
    finally:
        fresh.close()
    there = set(sql.execute(_OBJECTS))
    return [f"the {kind} {name} is missing" for kind, name in wanted if (kind, name) not in there]


_OBJECTS = "SELECT type, name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type DESC, name"


def back_up(sql: sqlite3.Connection, path: str) -> int:
    """Copy the database, as it is at one moment, into a new file for this user alone. Returns its bytes.

    Raises `FileExistsError` when there is a file; nothing is left of a copy that could not be finished.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    try:
        _copy(sql, path)
        return _sync(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _copy(sql: sqlite3.Connection, path: str) -> None:
    copy = sqlite3.connect(path, isolation_level=None)
    try:
        # Nobody else knows of the file yet, and what is not finished is removed: it needs no journal.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        sql.backup(copy)
    finally:
        copy.close()


def _sync(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
    sync_directory(os.path.dirname(os.path.abspath(path)))
    return size


def newest_moment(sql: sqlite3.Connection) -> float | None:
    """When the newest job was submitted, None when there is none."""
    row = sql.execute("SELECT created_at FROM job ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else float(row[0])


def has_queued(sql: sqlite3.Connection) -> bool:
    """Whether anything could be run now."""
    return bool(sql.execute("SELECT EXISTS (SELECT 1 FROM job WHERE state = 'queued')").fetchone()[0])
