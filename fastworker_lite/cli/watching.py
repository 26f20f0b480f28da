"""Watching jobs until they have ended, or begun.

A socket is poked when one ends, so that nobody looks at the file again and again. Nobody is poked when one begins: who waits
for that looks when the file has been written.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..job import TERMINAL, Job
from ..sockets import WakeSocket, socket_directory, wait_readable
from ..store import queries, queues, waiters
from ..store.connection import Connection
from ..store.queries import Standing

if TYPE_CHECKING:
    from ..watches import FileWatch

#: Seconds after which is looked again, whatever was not told.
LOOK_AGAIN = 1.0
#: Seconds between two looks at a file that is written all the time, at least.
PAUSE = 0.05


class Look(NamedTuple):
    """What has become of the jobs since the last look."""

    over: list[Job]
    #: That have ended; or begun, where that is waited for.
    gone: list[int]
    #: Whose records were removed, or never were.
    left: dict[int, Standing]
    #: That are still waited for.


def watch(connection: Connection, ids: Sequence[int], seconds: float | None = None) -> Iterator[Job]:
    """These jobs as they end; it stops early when *seconds* are over, and for jobs that are gone."""
    for look in looks(connection, ids, seconds):
        yield from look.over


def looks(
    connection: Connection, ids: Iterable[int], seconds: float | None = None, *, is_for_start: bool = False
) -> Generator[Look, None, None]:
    """A look at these jobs now, then whenever one of them ends, and once a second, until none is left or *seconds* are over.

    With *is_for_start* a job is over as soon as it has begun.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    bell = None
    try:
        look = connection.read(_look, list(dict.fromkeys(ids)), is_for_start)
        while True:
            yield look
            rest = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - time.monotonic())
            if not look.left or rest <= 0:
                return
            if bell is None:
                bell = _Bell(connection, is_for_start=is_for_start)
                look = connection.write_fast(_look_and_register, look.left, is_for_start, bell.address)
            else:
                bell.wait(rest)
                look = connection.read(_look, look.left, is_for_start)
    finally:
        if bell is not None:
            bell.close()


def until_drained(
    connection: Connection, queue: str, seconds: float | None = None
) -> Generator[Look | None, None, None]:
    """Again and again a look at what keeps a queue from being empty, then None once nothing of it is queued or runs.

    None does not come when *seconds* are over first. To wait for the end of what is last in the queue spares looking at all
    that come before it.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    while live := connection.read(queues.live, queue):
        rest = None if deadline is None else deadline - time.monotonic()
        with contextlib.closing(looks(connection, live, rest)) as course:
            for look in course:
                if not connection.read(queues.live, queue):
                    break
                yield look
        if deadline is not None and time.monotonic() >= deadline and connection.read(queues.live, queue):
            return
    yield None


def _look(sql: sqlite3.Connection, ids: Iterable[int], is_for_start: bool) -> Look:
    standings = queries.standings(sql, ids)
    over = {job_id for job_id, one in standings.items() if one.state in TERMINAL or (is_for_start and one.has_started)}
    return Look(
        over=queries.get_many(sql, over) if over else [],
        gone=[job_id for job_id in ids if job_id not in standings],
        left={job_id: one for job_id, one in standings.items() if job_id not in over},
    )


def _look_and_register(sql: sqlite3.Connection, ids: Iterable[int], is_for_start: bool, address: str) -> Look:
    """A look, in the transaction that has *address* poked when those end that have not."""
    look = _look(sql, ids, is_for_start)
    waiters.add(sql, look.left, address)
    return look


class _Bell:
    """Rings when a job of ours has ended; with *is_for_start* whenever the file was written."""

    def __init__(self, connection: Connection, *, is_for_start: bool) -> None:
        self._connection = connection
        self.address = os.path.join(socket_directory(connection.paths), f"res-{os.getpid()}-{os.urandom(4).hex()}")
        self._socket = WakeSocket(self.address)
        self._file: FileWatch | None = None
        if is_for_start:
            from ..watches import FileWatch  # and with it ctypes, which few need

            self._file = FileWatch(connection.paths.wal)
            self._file.arm()

    def wait(self, seconds: float) -> None:
        if self._file is None:
            wait_readable([self._socket.fileno()], seconds)
        else:
            wait_readable([self._socket.fileno(), self._file.fileno()], seconds)
            time.sleep(min(PAUSE, seconds))
            self._file.clear()
            self._file.arm()
        self._socket.clear()

    def close(self) -> None:
        """Remove the socket, and the rows that name it."""
        if self._file is not None:
            self._file.close()
        self._socket.close()
        self._connection.write_fast(waiters.forget, self.address)
