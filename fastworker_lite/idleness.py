"""Whether a runner has had nothing to do for so long that it may end.

Runs in: the runner's process.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence

from .store import due, runners, schedules
from .store.connection import Connection


class Idleness:
    """How long nothing ran, was queued, or was due soon, and nobody else has written into the file."""

    def __init__(
        self, seconds: float, queues: Sequence[str] | None, clock: Callable[[], float], *, has_cron: bool
    ) -> None:
        """*seconds* are long enough, for who serves these *queues* (None: all), and with *has_cron* the schedules."""
        self._seconds = seconds
        self._queues = queues
        self._clock = clock
        self._has_cron = has_cron
        self._since: float | None = None
        self._version = 0

    def left(self, connection: Connection) -> float | None:
        """The seconds until it has lasted long enough, 0 when it has; None while there is something to do, now or soon."""
        is_over, version = connection.read(lambda sql: (self._has_work(sql), _version(sql)))
        if is_over:
            self._since = None
            return None
        if self._since is None or version != self._version:
            self._since, self._version = time.monotonic(), version
        return max(0.0, self._since + self._seconds - time.monotonic())

    def leave(self, sql: sqlite3.Connection, runner: int) -> bool:
        """Take the runner out of the file, unless there is something to do after all.

        Both in one transaction: whoever submits a job either is noticed here, or finds that nobody serves the file.
        """
        if self._has_work(sql):
            return False
        runners.remove_runner(sql, runner)
        return True

    def _has_work(self, sql: sqlite3.Connection) -> bool:
        moments = [due.next_work(sql, self._queues), schedules.next_at(sql) if self._has_cron else None]
        return any(moment is not None and moment <= self._clock() + self._seconds for moment in moments)


def _version(sql: sqlite3.Connection) -> int:
    """Changes with what other connections write: a job may have come and gone between two looks."""
    return int(sql.execute("PRAGMA data_version").fetchone()[0])
