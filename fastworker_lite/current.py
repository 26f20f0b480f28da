"""What a running task can say and learn of its own job.

Runs in: a worker process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple

from .errors import NotInJob
from .job import Claimed, Progress, utc

#: Seconds between two reports of a job's progress that reach the file.
PROGRESS_PAUSE = 0.2
#: Seconds for which an answer to `cancelled` holds.
CANCELLED_PAUSE = 0.05


#: A task may hand its job to threads of its own.
_lock = threading.Lock()


class CurrentJob:
    """The job that this code runs in."""

    __slots__ = ("_asked", "_is_cancelled", "_job", "_last", "_pending", "_port")

    def __init__(self, job: Claimed, port: Port) -> None:
        self._job = job
        self._port: Port | None = port
        self._pending: tuple[float, float | None, str | None] | None = None
        self._last = self._asked = 0.0
        self._is_cancelled = False

    @property
    def id(self) -> str:
        """The job's id."""
        return str(self._job.id)

    @property
    def attempt(self) -> int:
        """Which try this is, counting from 1."""
        return self._job.attempt

    @property
    def queue(self) -> str:
        """The queue the job came from."""
        return self._job.queue

    @property
    def scheduled_for(self) -> datetime | None:
        """The time of the schedule's tick that this job is for, in UTC; None where no schedule made it."""
        return utc(self._job.scheduled_for)

    @property
    def log(self) -> logging.Logger:
        """A logger whose lines go to the job's log."""
        return logging.getLogger("fastworker_lite.job")

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the job is. May be called as often as wanted: five times a second it is written down."""
        now = time.monotonic()
        self._pending = done, total, note
        if now - self._last >= PROGRESS_PAUSE:
            self._last = now
            self._report()

    def _report(self) -> None:
        with _lock:
            said, self._pending = self._pending, None
            if said is not None and self._port is not None:
                done, total, note = said
                text = None if note is None else str(note)[:200].encode(errors="replace").decode()
                so_far = Progress(
                    done=float(done), total=None if total is None else float(total), note=text, at=time.time()
                )
                self._port.report(self._job.id, so_far)

    def end(self) -> None:
        """The job has ended: write down what it said last, and listen no more. For the worker."""
        if self._pending is not None:
            self._report()
        self._port = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the end of this job. A task that looks here is asked first, and killed after `kill_grace`."""
        now = time.monotonic()
        if not self._is_cancelled and now - self._asked >= CANCELLED_PAUSE:
            self._asked = now
            with _lock:
                self._is_cancelled = self._port is not None and self._port.is_cancelled(self._job.id)
        return self._is_cancelled


class Port(NamedTuple):
    """Where a job's words go: given by the worker."""

    report: Callable[[int, Progress], None]
    is_cancelled: Callable[[int], bool]


_current: ContextVar[CurrentJob | None] = ContextVar("fastworker_job", default=None)


def current_job() -> CurrentJob:
    """The job that this code runs in: its `id`, `attempt`, `queue`, `log`, `progress()` and `cancelled`.

    Raises `NotInJob` where no job is running.
    """
    job = _current.get()
    if job is None:
        raise NotInJob
    return job


def enter_job(job: CurrentJob | None) -> None:
    """From here on, in this thread or coroutine, *job* is the current one."""
    _current.set(job)


def running_job() -> CurrentJob | None:
    """As `current_job`, None where no job is running."""
    return _current.get()
