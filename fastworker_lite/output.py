"""What jobs print: taken from descriptors 1 and 2, and kept in a file for each attempt.

A worker's descriptors lead into files of its own. When a job has printed something, the file becomes the job's by being
renamed, and a new one takes its place; a job that prints nothing costs two looks at a size.

Runs in: a worker process; `give_to_job` and `trim` also in its runner.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from functools import cache
from typing import Any, TextIO

from .current import running_job
from .paths import SidePaths

STREAMS = ("out", "err")
#: Bytes of a log that is too long that are kept from its beginning, at most.
HEAD = 1024 * 1024
_CHUNK = 1024 * 1024


def open_log(path: str) -> int:
    """A descriptor for a job's output, in a file for this user alone."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def live_path(paths: SidePaths, lease: str, stream: str) -> str:
    """Where the output of the job that this worker runs can be read while it runs."""
    return os.path.join(paths.logs, f"{lease}.{stream}")


def trim(path: str, most: int) -> None:
    """Cut a log of more than *most* bytes in the middle: its head and its tail stay, and a line says what is gone."""
    with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= most:
            return
        head = min(HEAD, most // 2)
        tail = most - head
        file.seek(head)
        file.write(f"\n... {size - most} bytes left out ...\n".encode())
        _move(file, size - tail, tail)
        file.truncate()


def _move(file: io.BufferedRandom, source: int, length: int) -> None:
    """Copy *length* bytes from further back to the current place."""
    target = file.tell()
    if source < target:  # the mark is longer than what it stands for
        length -= target - source
        source = target
    while length > 0:
        file.seek(source)
        data = file.read(min(_CHUNK, length))
        file.seek(target)
        file.write(data)
        source, target, length = source + len(data), target + len(data), length - len(data)


def give_to_job(paths: SidePaths, lease: str, job_id: int, attempt: int, most: int) -> None:
    """Make what a worker that is gone has printed its job's, and remove what is left of its files."""
    for stream in STREAMS:
        path = live_path(paths, lease, stream)
        with contextlib.suppress(OSError):
            if job_id and os.path.getsize(path):
                os.rename(path, paths.log(job_id, attempt, stream))
                trim(paths.log(job_id, attempt, stream), most)
            else:
                os.unlink(path)


@cache
def own_stderr() -> int:
    """A descriptor of what stderr was when this was first called: for the worker's own words."""
    return os.dup(2)


class Capture:
    """Descriptors 1 and 2 of a worker, job by job."""

    def __init__(self, paths: SidePaths, lease: str, most: int) -> None:
        """Take them over. *most* is how many bytes of each are kept of one attempt."""
        self._paths = paths
        self._lease = lease
        self._most = most
        self._own = own_stderr()
        self._inodes = [0, 0]
        for index in (0, 1):
            self._renew(index)
        self._texts = (_text(1), _text(2))
        sys.stdout, sys.stderr = self._texts

    def _renew(self, index: int) -> None:
        descriptor = open_log(live_path(self._paths, self._lease, STREAMS[index]))
        self._inodes[index] = os.fstat(descriptor).st_ino
        os.dup2(descriptor, index + 1)
        if descriptor != index + 1:
            os.close(descriptor)

    def keep(self, job_id: int, attempt: int) -> None:
        """Make what was printed since the last time this job's, and put back what it did to stdout and stderr."""
        for index in (0, 1):
            size = self._flushed_size(index)
            if size:
                self._keep_stream(index, job_id, attempt, size)

    def _flushed_size(self, index: int) -> int:
        try:
            self._texts[index].flush()
            found = os.fstat(index + 1)
        except (OSError, ValueError):  # the task closed it
            found = None
        if found is None or found.st_ino != self._inodes[index]:
            self._put_back(index)
            found = os.fstat(index + 1)
        if (sys.stdout, sys.stderr)[index] is not self._texts[index]:
            sys.stdout, sys.stderr = self._texts
        return found.st_size

    def _put_back(self, index: int) -> None:
        """The task closed or replaced the descriptor: have it lead to our file again. It may have closed stdin, too."""
        try:
            os.fstat(0)
        except OSError:
            os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free, which is 0
            os.set_inheritable(0, True)
        path = live_path(self._paths, self._lease, STREAMS[index])
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            if descriptor != index + 1:
                os.dup2(descriptor, index + 1)
                os.close(descriptor)
            else:
                os.set_inheritable(descriptor, True)
            self._inodes[index] = os.fstat(index + 1).st_ino
        except FileNotFoundError:
            self._renew(index)
        self._texts = (_text(1), self._texts[1]) if index == 0 else (self._texts[0], _text(2))

    def _keep_stream(self, index: int, job_id: int, attempt: int, size: int) -> None:
        target = self._paths.log(job_id, attempt, STREAMS[index])
        os.rename(live_path(self._paths, self._lease, STREAMS[index]), target)
        self._renew(index)
        if size > self._most:
            trim(target, self._most)

    def discard(self) -> None:
        """Pass on to the worker's own stderr what was printed while no job ran: imports, most of all."""
        for index in (0, 1):
            size = self._flushed_size(index)
            if size:
                os.write(self._own, os.pread(index + 1, min(size, 65536), 0))
                os.ftruncate(index + 1, 0)

    def close(self) -> None:
        """Remove the worker's files: it ends, holding no job."""
        self.discard()
        for stream in STREAMS:
            with contextlib.suppress(OSError):
                os.unlink(live_path(self._paths, self._lease, stream))


def _text(descriptor: int, *, is_owned: bool = False) -> TextIO:
    """Lines are written at once, so that they can be followed."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=is_owned)


def log_to_stderr() -> None:
    """Have the `logging` of tasks end up on stderr, from INFO up, unless their modules have arranged something else."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


class JobStream:
    """stdout or stderr of a process that runs many coroutines: each one's words go to its own job's log."""

    def __init__(self, paths: SidePaths, stream: str, other: TextIO) -> None:
        """*other* takes what is printed outside of any job."""
        self._paths = paths
        self._stream = stream
        self._other = other
        self._files: dict[str, TextIO] = {}

    def write(self, text: str) -> int:
        job = running_job()
        if job is None:
            return self._other.write(text)
        file = self._files.get(job.id)
        if file is None:
            path = self._paths.log(int(job.id), job.attempt, self._stream)
            file = self._files[job.id] = _text(open_log(path), is_owned=True)
        return file.write(text)

    def flush(self) -> None:
        job = running_job()
        file = self._other if job is None else self._files.get(job.id)
        if file is not None:
            file.flush()

    def end(self, job_id: str, attempt: int, most: int) -> None:
        """The job has ended: close its log."""
        file = self._files.pop(job_id, None)
        if file is not None:
            file.close()
            trim(self._paths.log(int(job_id), attempt, self._stream), most)

    def fileno(self) -> int:
        return self._other.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other, name)
