"""How a database comes into being, and how a file is told from one that is not ours.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import struct

from ..errors import NotOurDatabase, SchemaTooNew, StorageError
from ..paths import SidePaths, sync_directory
from .guard import identity, is_open_here

#: "FWL1", in the header of every database of this package.
APPLICATION_ID = 0x46574C31
SCHEMA_VERSION = 1

_MAGIC = b"SQLite format 3\0"
_VERSION_OFFSET, _APPLICATION_OFFSET = 60, 68


def read_header(path: str) -> int | None:
    """The application id of the file at *path*, None when there is no file yet or an empty one.

    Reads 100 bytes and opens nothing with SQLite, so that a file which is not ours stays as it is. A database that this
    process has open is left alone: closing any descriptor of it would drop SQLite's locks.
    Raises `StorageError` when there can be no database at this path, `NotOurDatabase` or `SchemaTooNew`.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            raise StorageError(f"{path}: there is no such folder; create it: mkdir -p {folder}") from None
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: {getattr(error, 'strerror', None) or error}; name another file") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise StorageError(f"{path} is {what}; name a file for the database")
    if status.st_nlink > 1:
        raise StorageError(f"{path} has {status.st_nlink} hard links; a database under two names would lose jobs")
    if is_open_here(identity(status)):
        return APPLICATION_ID
    with open(path, "rb") as file:
        header = file.read(100)
    return _check_header(path, header) if header else None


def _check_header(path: str, header: bytes) -> int:
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise NotOurDatabase(f"{path} is not a SQLite database; name another file")
    (application,) = struct.unpack_from(">I", header, _APPLICATION_OFFSET)
    if application != APPLICATION_ID:
        raise NotOurDatabase(f"{path} is a database of another program; name another file")
    (version,) = struct.unpack_from(">I", header, _VERSION_OFFSET)
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(path, version, SCHEMA_VERSION)
    return APPLICATION_ID


def check_owner(paths: SidePaths) -> None:
    """Raise `StorageError` when another user may have made one of the files: whatever is in them, this one would run.

    Where others may write, such as /tmp, they can put a database or a log there before we do. SQLite would read the log
    into our database.
    """
    for path in (paths.database, paths.wal, paths.shm, paths.database + "-journal"):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if status.st_uid != os.geteuid():
            raise StorageError(f"{path} belongs to user {status.st_uid}, not to you; choose another place")
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise StorageError(f"{path} is in the way: it must be a file of its own")


def create_database(paths: SidePaths) -> None:
    """Create the database unless it exists. Called inside the gate.

    It is written aside and moved into place whole, so that no crash leaves half of one behind.
    """
    if read_header(paths.database) is not None:
        return
    for stale in (paths.wal, paths.shm):  # of a database that was deleted: a new one must not read them
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stale)
    aside = os.path.join(paths.directory, "new.db")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    _write_schema(aside)
    os.rename(aside, paths.database)
    sync_directory(os.path.dirname(paths.database))


def read_schema() -> str:
    """The statements that make a new database."""
    from importlib import resources  # 2 ms, for the one process that makes the file

    return resources.files(__package__).joinpath("schema.sql").read_text()


def _write_schema(path: str) -> None:
    sql = sqlite3.connect(path, isolation_level=None)
    try:
        sql.execute("PRAGMA page_size = 4096")
        sql.execute("PRAGMA auto_vacuum = INCREMENTAL")
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA fullfsync = ON")
        schema = read_schema()
        sql.executescript(
            f"BEGIN; {schema}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
        )
        sql.execute("PRAGMA journal_mode = WAL")
    finally:
        sql.close()
