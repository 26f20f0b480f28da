"""What `fwl top` shows: read from the file where that has changed, from logs and processes each time.

Runs in: the command line.
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import leases, logs
from ..job import Job, Lane, State
from ..leases import ProcessIdentity
from ..schedule import Schedule
from ..store import figures, queries, runners
from ..store.connection import Connection
from ..store.figures import Coming, Ended, QueueRow
from ..store.runners import RunnerRow, WorkerRow
from . import render
from .records import Record, as_json, read_records
from .top_usage import Meter, Usage

#: Seconds that the figures of ended jobs are over, and over how many jobs at most.
WINDOW, MOST_ENDED = 120.0, 1_000
MOST_RUNNING, MOST_FAILURES, MOST_SCHEDULES = 100, 50, 50
#: Seconds that one column of a queue's history stands for, and how many columns are kept.
COLUMN, COLUMNS = 5.0, 120
_TAIL = 4096


class Pace(NamedTuple):
    """How fast jobs end, and how long they wait and run."""

    per_second: float
    failed_per_second: float
    wait: tuple[float | None, float | None]
    #: Seconds from when a job could begin to when it did: half of the jobs waited no longer, and 95 of 100.
    run: tuple[float | None, float | None]


class Worker(NamedTuple):
    pid: int
    role: str
    #: `functions`, `coroutines`, or `alone`: without a runner.
    job: int | None
    usage: Usage
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything at one moment."""

    at: float
    counts: dict[State, int]
    running: list[Record]
    last_lines: dict[int, str]
    queues: list[QueueRow]
    pace: Pace
    workers: list[Worker]
    is_served: bool
    #: Whether a runner is there to start jobs.
    schedules: list[Coming]
    failures: list[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """What the file says."""

    counts: dict[State, int]
    running: list[Job]
    queues: list[QueueRow]
    ended: list[Ended]
    serving: list[RunnerRow]
    workers: list[WorkerRow]
    schedules: list[Coming]
    failures: list[Job]


def _read(sql: sqlite3.Connection, now: float) -> _Stored:
    failures = queries.get_many(sql, figures.failed_ids(sql, MOST_FAILURES))
    return _Stored(
        counts=queries.counts(sql),
        running=queries.running(sql, MOST_RUNNING),
        queues=figures.queues(sql),
        ended=figures.ended(sql, now - WINDOW),
        serving=runners.runners(sql),
        workers=runners.workers(sql),
        schedules=figures.coming(sql, MOST_SCHEDULES),
        failures=sorted(failures, key=lambda job: job.finished_at or 0.0, reverse=True),
    )


class Observer:
    """Looks again and again."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._version: object = None
        self._stored: _Stored
        self._records: tuple[list[Record], list[Record]]
        self._meter = Meter()
        self.history: dict[str, History] = {}

    def forget(self) -> None:
        """This process has changed the file itself, which the file's version does not tell it."""
        self._version = None

    def look(self) -> Figures:
        """What is going on now."""
        now, connection = time.time(), self._connection
        connection.check_paths()
        version = connection.probe("PRAGMA data_version", {})
        if version != self._version:
            self._stored = connection.read(_read, now)
            self._records = (
                read_records(connection, self._stored.running),
                read_records(connection, self._stored.failures),
            )
            self._version = version
        stored, (running, failures) = self._stored, self._records
        self._note_depths(now)
        return Figures(
            at=now,
            counts=stored.counts,
            running=running,
            last_lines={job.id: last_line(logs.written_paths(connection, job)) for job in stored.running},
            queues=stored.queues,
            pace=pace(stored.ended, now),
            workers=self._workers(),
            is_served=any(not leases.is_free(connection.paths.lease(row.lease)) for row in stored.serving),
            schedules=stored.schedules,
            failures=failures,
        )

    def _note_depths(self, now: float) -> None:
        self.history = {row.name: self.history.get(row.name) or History() for row in self._stored.queues}
        for row in self._stored.queues:
            self.history[row.name].note(now, row.queued)

    def _workers(self) -> list[Worker]:
        paths = self._connection.paths
        rows = [row for row in self._stored.workers if not leases.is_free(paths.lease(row.lease))]
        identities = [ProcessIdentity.parse(row.process) for row in rows]
        usages = self._meter.read(identities)
        jobs = {job.worker: job.id for job in self._stored.running}
        return [
            Worker(
                identity.pid, _role(row), jobs.get(row.id), usages.get(identity.pid, Usage(None, None)), row.started_at
            )
            for row, identity in zip(rows, identities, strict=True)
        ]


def _role(row: WorkerRow) -> str:
    if row.runner is None:
        return "alone"
    return "coroutines" if row.lane == Lane.ASYNC else "functions"


@dataclass(slots=True)
class History:
    """How many jobs waited in a queue: the most in each stretch of time, the last one still going on."""

    depths: deque[int] = field(default_factory=lambda: deque(maxlen=COLUMNS))
    _stretch: int = -1

    def note(self, now: float, depth: int) -> None:
        stretch = int(now // COLUMN)
        if stretch == self._stretch:
            self.depths[-1] = max(self.depths[-1], depth)
        else:
            self.depths.append(depth)
            self._stretch = stretch


def pace(ended: Sequence[Ended], now: float) -> Pace:
    """The figures of what has ended of late; of the last ones only where they are very many."""
    last = [one for one in ended if now - WINDOW <= one.finished_at][-MOST_ENDED:]
    seconds = WINDOW if len(last) < MOST_ENDED else max(now - last[0].finished_at, 0.001)
    begun = [one for one in last if one.started_at is not None]
    return Pace(
        per_second=len(last) / seconds,
        failed_per_second=sum(1 for one in last if one.state == State.FAILED) / seconds,
        wait=_percentiles(max(0.0, one.started_at - one.ready_at) for one in begun if one.started_at is not None),
        run=_percentiles(one.finished_at - one.started_at for one in begun if one.started_at is not None),
    )


def _percentiles(values: Iterable[float]) -> tuple[float | None, float | None]:
    sorted_values = sorted(values)
    if not sorted_values:
        return None, None
    return sorted_values[(len(sorted_values) - 1) // 2], sorted_values[math.ceil(len(sorted_values) * 0.95) - 1]


def last_line(paths: Iterable[str]) -> str:
    """The last line that was written to any of these files, as far as it is in the last few kilobytes."""
    newest, found = -1.0, ""
    for path in paths:
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                if not status.st_size or status.st_mtime < newest:
                    continue
                file.seek(max(0, status.st_size - _TAIL))
                lines = [line for line in file.read(_TAIL).decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            continue
        if lines:
            newest, found = status.st_mtime, lines[-1]
    return found


# ---- JSON


def put_json(seen: Figures) -> None:
    """One document, `fwl.top/1`. Keys may be added, never renamed."""
    pace = seen.pace
    document: dict[str, Any] = {
        "schema": "fwl.top/1",
        "at": render.rfc3339(seen.at),
        "jobs": {str(state): count for state, count in seen.counts.items()},
        "running": [as_json(one) | {"last_line": seen.last_lines.get(one.job.id)} for one in seen.running],
        "queues": [row._asdict() | {"paused": bool(row.paused)} for row in seen.queues],
        "window_s": WINDOW,
        "ended_per_s": round(pace.per_second, 3),
        "failed_per_s": round(pace.failed_per_second, 3),
        "wait_s": dict(zip(("p50", "p95"), pace.wait, strict=True)),
        "run_s": dict(zip(("p50", "p95"), pace.run, strict=True)),
        "is_served": seen.is_served,
        "workers": [
            {
                "pid": one.pid,
                "role": one.role,
                "job": one.job,
                "cpu_percent": None if one.usage.cpu is None else round(one.usage.cpu, 1),
                "rss_bytes": one.usage.memory,
                "started_at": render.rfc3339(one.started_at),
            }
            for one in seen.workers
        ],
        "schedules": [
            {
                "name": one.name,
                "schedule": Schedule.from_json(one.spec).text,
                "paused": bool(one.paused),
                "next_at": None if one.paused else render.rfc3339(one.next_at),
            }
            for one in seen.schedules
        ],
        "failures": [as_json(one) for one in seen.failures],
    }
    render.put_json(document)
