"""Jobs that an application submits in a transaction of its own database: there is a job if, and only if, it commits.

The job is first a row of a table in that database. Whoever leads brings it over: it is stored here, durably, under a key of
its own, and then deleted there. Should the two be torn apart by a crash, the key tells that it has been stored.

Runs in: every process that submits, and the runner's process that leads.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from .errors import ConfigError, DatabaseBusy, QueueFull, StorageError
from .job import Kind, Lane, NewJob
from .options import JobOptions
from .sockets import Waker
from .store import relays, runners
from .store.connection import Connection

#: In the application's database. Nothing in it is pickled but the arguments, which only a worker reads.
TABLE = """
CREATE TABLE IF NOT EXISTS fastworker_submitted (
    key     TEXT PRIMARY KEY,
    job     TEXT NOT NULL,          -- JSON: all of it but these two
    target  BLOB,
    payload BLOB NOT NULL
)
"""
INSERT = "INSERT INTO fastworker_submitted (key, job, target, payload) VALUES (?, ?, ?, ?)"
_SELECT = "SELECT key, job, target, payload FROM fastworker_submitted ORDER BY rowid LIMIT 500"
_DELETE = "DELETE FROM fastworker_submitted WHERE key = ?"

#: Seconds for which a look waits for an application that writes, and those between looks, growing, at a source that has been
#: announced: its transaction may take a while to commit.
PATIENCE = 0.1
FIRST_LOOK, LAST_LOOK = 0.005, 60.0


def row_of(job: NewJob) -> tuple[str, str, bytes | None, bytes]:
    """A job as the application's database has it; the first value is its key. Raises `ConfigError`."""
    options = job.options
    if job.parents or options.on_conflict == "fail" or options.debounce is not None:
        raise ConfigError(
            'submit_in takes no after, no debounce, and no on_conflict="fail": nobody could be told of a refusal'
        )
    key = options.idempotency_key or secrets.token_hex(16)
    now = time.time()
    options = options._replace(
        idempotency_key=key, key=None, delay=None, eta=options.due_at(now), expires=options.expires_at(now)
    )
    said = {name: value for name, value in options._asdict().items() if value is not None}
    text = json.dumps(
        {
            "kind": job.kind,
            "task": job.task,
            "checksum": job.checksum,
            "lane": job.lane,
            "is_parked_if_unknown": job.is_parked_if_unknown,
            "limits": job.limits,
            "options": said,
        }
    )
    return key, text, job.target, job.payload


def _job_of(text: str, target: bytes | None, payload: bytes) -> NewJob:
    read = json.loads(text)
    known = set(JobOptions._fields)
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in read.pop("options").items()
        if name in known
    }
    options = JobOptions(**said)
    kind, lane = Kind(read.pop("kind")), Lane(read.pop("lane"))
    return NewJob(kind=kind, lane=lane, options=options, target=target, payload=payload, **read)


def path_of(database_list: list[tuple[Any, ...]]) -> str:
    """The file of an application's connection, from its PRAGMA database_list. Raises `ConfigError` when it has none."""
    path = next((row[2] for row in database_list if row[1] == "main"), "")
    if not path:
        raise ConfigError("submit_in needs a connection to a database file: one in memory ends with its process")
    return os.path.abspath(path)


def announce(connection: Connection, waker: Waker, path: str) -> None:
    """Have whoever leads look into this database, now and a few times more."""
    if path not in connection.read(relays.sources):
        connection.write(relays.register, path)
    for where in connection.read(runners.addresses):
        waker.poke(where.control)


class Relay:
    """Brings over what applications have committed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[str, sqlite3.Connection] = {}

    def look(self, connection: Connection) -> tuple[int, str | None]:
        """Bring over what there is. Returns how many jobs that were, and what went wrong, if anything."""
        count, trouble = 0, None
        for path in connection.read(relays.sources):
            try:
                while moved := self._bring(connection, path):
                    count += moved
            except (sqlite3.Error, OSError, ValueError, KeyError, TypeError) as error:
                trouble = f"{path}: {error}"
            except (QueueFull, DatabaseBusy, StorageError) as error:
                trouble = str(error)
        return count, trouble

    def _bring(self, connection: Connection, path: str) -> int:
        source = self._source(path)
        if source is None:
            return 0
        rows = source.execute(_SELECT).fetchall()
        if rows:
            submitted = [_job_of(text, target, payload) for _, text, target, payload in rows]
            connection.write(relays.take_over, submitted, self._clock())
            with source:
                source.executemany(_DELETE, [(row[0],) for row in rows])
        return len(rows)

    def _source(self, path: str) -> sqlite3.Connection | None:
        """A connection that is kept: to open and close one each time would cost more than the look."""
        if path not in self._open:
            if not os.path.exists(path):
                return None
            self._open[path] = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
        source = self._open[path]
        is_there = source.execute("SELECT 1 FROM sqlite_master WHERE name = 'fastworker_submitted'").fetchone()
        return source if is_there else None

    def close(self) -> None:
        for source in self._open.values():
            source.close()
        self._open.clear()
