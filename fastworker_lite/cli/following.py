"""Watching a job that another process runs: its output as it comes, until it ends.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import time

from ..errors import JobNotFound
from ..job import ACTIVE, Job, State
from ..store import queries
from ..store.connection import Connection
from .session import live_runners

#: Seconds between two looks at the logs of a running job.
PAUSE = 0.1
#: Seconds between two looks at whether anybody is there to run it.
LOOK_FOR_RUNNER = 1.0
_CHUNK = 65536


class _Tail:
    """A growing file, copied to a descriptor."""

    def __init__(self, path: str, target: int) -> None:
        self._path = path
        self._target = target
        self._offset = 0

    def copy(self) -> None:
        """Copy what is new."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(self._offset)
            while data := file.read(_CHUNK):
                self._offset += len(data)
                write_all(self._target, data)


def follow(connection: Connection, job_id: int, *, is_shown: bool) -> Job | None:
    """Show the output of a job until it has ended. None when nobody is left who would run it."""
    tails: dict[int, list[_Tail]] = {}
    looked = time.monotonic()
    while True:
        job = connection.read(queries.get, job_id)
        if job is None:
            raise JobNotFound(job_id)
        if is_shown and job.attempt:
            for tail in tails.setdefault(job.attempt, _tails(connection, job)):
                tail.copy()
        if job.state not in ACTIVE:
            return job
        if job.state is State.QUEUED and time.monotonic() - looked > LOOK_FOR_RUNNER:
            looked = time.monotonic()
            if not live_runners(connection):
                return None
        time.sleep(PAUSE)


def _tails(connection: Connection, job: Job) -> list[_Tail]:
    paths = connection.paths
    return [_Tail(paths.log(job.id, job.attempt, "out"), 1), _Tail(paths.log(job.id, job.attempt, "err"), 2)]


def replay(connection: Connection, job: Job) -> None:
    """The output of a job's last attempt, after the fact."""
    if job.attempt:
        for tail in _tails(connection, job):
            tail.copy()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*, however little fits at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
