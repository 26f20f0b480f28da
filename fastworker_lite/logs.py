"""Reading what jobs have printed, and following those that run.

Runs in: every process that looks at jobs.
"""

from __future__ import annotations

import codecs
import os
import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial

from . import leases, producer
from .errors import JobNotFound
from .job import Job, Kind, State
from .paths import SidePaths
from .sockets import WakeSocket, socket_directory, wait_readable
from .store import queries, runners, waiters
from .store.connection import Connection
from .watches import FileWatch

STREAMS = ("out", "err")
#: Seconds after which a follower looks again, whatever it was not told.
LOOK_AGAIN = 1.0
_CHUNK = 65536


def log_paths(paths: SidePaths, job: Job, attempt: int | None = None) -> list[str]:
    """The files that hold the stdout and stderr of an attempt, the last one by default. They need not exist."""
    return [paths.log(job.id, attempt or job.attempt, stream) for stream in STREAMS]


def written_paths(connection: Connection, job: Job) -> list[str]:
    """The files that a job's last attempt prints to, or has printed to. They need not exist."""
    if not _has_begun(connection, job):
        return []
    return [tail.live or tail.path for tail in _tails(connection, job)]


@dataclass(slots=True)
class _Tail:
    """A growing file: what of it has been read."""

    path: str
    live: str | None
    #: Where its beginning is while the job runs, if that is another place.
    file: int = -1

    def read(self, is_its: Callable[[], bool]) -> bytes:
        """What is new. *is_its* says whether the live file is this job's, and not the next one's already."""
        if self.file < 0:
            self.file = _open(self.path)
        if self.file < 0 and self.live is not None:
            self.file = _open(self.live)
            if not is_its():
                self.close()
                self.file = _open(self.path)
        return os.read(self.file, _CHUNK) if self.file >= 0 else b""

    def close(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return -1


def follow(
    connection: Connection, job_id: int, *, is_followed: bool = True
) -> Generator[tuple[str, bytes], None, None]:
    """What a job prints, as (`out` or `err`, bytes), attempt after attempt, until it has ended.

    Without *is_followed*: what its last attempt has printed so far. An empty piece comes while there is nothing to tell,
    at least once a second, so that the caller can look at something else. Raises `JobNotFound`.
    """
    os.makedirs(connection.paths.logs, mode=0o700, exist_ok=True)
    watch = FileWatch(connection.paths.logs)
    bell = WakeSocket(os.path.join(socket_directory(connection.paths), f"log-{os.getpid()}-{secrets.token_hex(4)}"))
    tails: dict[int, list[_Tail]] = {}
    try:
        if is_followed:
            producer.wait_for(connection, [job_id], bell.address)  # its end changes nothing in the folder
        while True:
            watch.arm()
            job = connection.read(queries.get, job_id)
            if job is None:
                raise JobNotFound(job_id)
            if job.attempt and job.attempt not in tails and _has_begun(connection, job):
                tails[job.attempt] = _tails(connection, job)
            for tail, stream in (
                (tail, stream) for own in tails.values() for tail, stream in zip(own, STREAMS, strict=True)
            ):
                while data := tail.read(partial(_has_begun, connection, job)):
                    yield stream, data
            if job.has_ended or not is_followed:
                return
            yield "out", b""
            wait_readable([watch.fileno(), bell.fileno()], LOOK_AGAIN)
            watch.clear()
            bell.clear()
    finally:
        watch.close()
        bell.close()
        if is_followed:
            connection.write_fast(waiters.forget, bell.address)
        for own in tails.values():
            for tail in own:
                tail.close()


def _has_begun(connection: Connection, job: Job) -> bool:
    """A job in a batch is claimed before its turn; the worker's file is another's until then."""
    if job.state is not State.RUNNING:
        return True
    lease = _lease(connection, job)
    return lease is None or leases.read_note(connection.paths.lease(lease)).job == job.id


def _lease(connection: Connection, job: Job) -> str | None:
    """The worker that runs this job and whose own output is the job's; None for a command or a coroutine."""
    row = connection.read(runners.worker, job.worker or 0) if job.kind is Kind.CALL else None
    return row.lease if row is not None and row.lane == 0 else None


def _tails(connection: Connection, job: Job) -> list[_Tail]:
    lease = _lease(connection, job) if job.state is State.RUNNING else None
    live = [os.path.join(connection.paths.logs, f"{lease}.{stream}") if lease else None for stream in STREAMS]
    return [_Tail(path, where) for path, where in zip(log_paths(connection.paths, job), live, strict=True)]


def log_lines(database: str, job_id: int, *, is_followed: bool) -> Generator[str, None, None]:
    """The lines of a job's stdout and stderr as text; with *is_followed* until it has ended. Raises `JobNotFound`."""
    connection = Connection(database, blocks_signals=True)
    try:
        yield from _lines(follow(connection, job_id, is_followed=is_followed))
    finally:
        connection.close()


def _lines(pieces: Iterator[tuple[str, bytes]]) -> Iterator[str]:
    texts = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in STREAMS}
    rests = dict.fromkeys(STREAMS, "")
    for stream, data in pieces:
        *whole, rests[stream] = (rests[stream] + texts[stream].decode(data)).split("\n")
        yield from whole
    yield from (rest for rest in rests.values() if rest)
