"""The one transaction of a worker: settle what was run, and claim what comes next.

Runs in: a worker process, and `fwl run`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import leases, serialization
from .errors import SerializationError
from .job import Claimed, Failure, Lane, Outcome
from .sockets import Waker
from .store import dependencies, jobs, listeners, runners, settling, waiters
from .store.connection import Connection, typed_errors
from .store.jobs import Wanted
from .store.runners import Addresses

#: Seconds for which a runner that is starting may still come to know a task.
STARTING = 2.0


@dataclass(slots=True)
class Report:
    """What a worker tells about the jobs it claimed."""

    outcomes: list[Outcome] = field(default_factory=list)
    returned: list[Claimed] = field(default_factory=list)
    #: Not begun.
    misplaced: list[Claimed] = field(default_factory=list)
    #: For the other kind of worker.
    unknown: list[Claimed] = field(default_factory=list)
    #: Whose task this worker does not know.
    interrupted: list[Claimed] = field(default_factory=list)
    #: Stopped half-way.
    limited: list[Claimed] = field(default_factory=list)
    #: Not begun: with the limits that their task has and their submitter did not know.
    is_prepared: bool = False
    #: The results are there as listeners get them, too, as far as they can be.

    def __bool__(self) -> bool:
        return bool(
            self.outcomes or self.returned or self.misplaced or self.unknown or self.interrupted or self.limited
        )


@dataclass(slots=True)
class _Pokes:
    waiters: set[str] = field(default_factory=set)
    runners: list[Addresses] = field(default_factory=list)
    #: To be told that there is work, or that something changed.
    workers: list[str] = field(default_factory=list)
    #: Where a worker is to look, since a place under a limit is free.
    tellers: list[Addresses] = field(default_factory=list)
    #: To be told that there is something to tell.


Pick = Callable[[list[Claimed]], list[Claimed]]


class _HeardMeanwhile(Exception):
    """Somebody has begun to listen while the jobs ran: he is to be told their results, too."""


class Exchange:
    """A worker's side of the file."""

    def __init__(
        self, connection: Connection, worker: int, lane: Lane, queues: tuple[str, ...] | None, waker: Waker
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._lane = lane
        self._queues = queues
        self._waker = waker
        self._unknown: set[str] = set()

    def has_work(self) -> bool:
        """Whether anything could be claimed: a look that takes no lock."""
        return self._connection.probe(jobs.PROBE, {"lane": self._lane}) is not None

    def swap(self, report: Report, limit: int, pick: Pick) -> list[Claimed]:
        """Settle *report* and claim up to *limit* jobs. Both are in the file when this returns, and everybody is told."""
        wanted = Wanted(
            worker=self._worker,
            lane=self._lane,
            limit=limit,
            pick=pick,
            unknown=json.dumps(sorted(self._unknown)) if self._unknown else None,
            queues=self._queues,
        )
        # A claim alone may be undone by a power cut, and is made again: only what was settled must wait for the disk.
        write = self._connection.write if report else self._connection.write_fast
        claimed, pokes = self._store(write, report, wanted)
        while claimed is None:  # so far it has only put jobs aside for their limits
            self._tell(pokes)
            claimed, pokes = self._store(write, Report(), wanted)
        if any(job.on_lost == "fail" for job in claimed):
            self._connection.sync(always=not report)  # at most once: this claim must survive before the job begins
        self._tell(pokes)
        return claimed

    def tell(self, report: Report) -> None:
        """Settle *report* and claim nothing."""
        _, pokes = self._store(self._connection.write, report, None)
        self._tell(pokes)

    def _store(
        self, write: Callable[..., tuple[list[Claimed] | None, _Pokes]], report: Report, wanted: Wanted | None
    ) -> tuple[list[Claimed] | None, _Pokes]:
        try:
            return write(self._transact, report, wanted, time.time())
        except _HeardMeanwhile:  # nothing is written yet; values are not read within a transaction
            report.outcomes = [_with_told(outcome) for outcome in report.outcomes]
            report.is_prepared = True
            return write(self._transact, report, wanted, time.time())

    def _transact(
        self, sql: sqlite3.Connection, report: Report, wanted: Wanted | None, now: float
    ) -> tuple[list[Claimed] | None, _Pokes]:
        pokes = _Pokes()
        if report:
            self._settle(sql, report, pokes, now)
        before = sql.total_changes
        claimed = [] if wanted is None else jobs.claim(sql, wanted, now)
        if not claimed and sql.total_changes > before:
            pokes.runners = runners.addresses(sql)  # jobs were put aside: for a rate, the time has to be minded
        return claimed, pokes

    def _settle(self, sql: sqlite3.Connection, report: Report, pokes: _Pokes, now: float) -> None:
        outcomes = report.outcomes
        is_heard = bool(outcomes) and listeners.is_anybody(sql)
        if is_heard and not report.is_prepared and any(one.result and one.told is None for one in outcomes):
            raise _HeardMeanwhile
        for job in report.unknown:
            outcome = self._place_unknown(sql, job, now)
            outcomes = outcomes if outcome is None else [*outcomes, outcome]
        if outcomes:
            settling.settle(sql, outcomes)
            followed = dependencies.resolve(sql, now)
            pokes.waiters = waiters.take(sql, [*(outcome.job.id for outcome in outcomes), *followed.cancelled])
            if followed:
                pokes.runners = pokes.tellers = runners.addresses(sql)
            elif any(outcome.job.limits is not None for outcome in outcomes):
                pokes.workers = runners.wake_addresses(sql)
        settling.give_back(sql, report.returned)
        settling.interrupt(sql, report.interrupted, now)
        for job in report.misplaced:
            settling.change_lane(sql, job, Lane(1 - self._lane))
        for job in report.limited:
            settling.set_limits(sql, job)
        if is_heard or any(outcome.job.is_told for outcome in outcomes):
            pokes.tellers = runners.addresses(sql)
        back = (*report.returned, *report.interrupted, *report.misplaced, *report.limited)
        if back:  # some may have been cancelled meanwhile
            cancelled = dependencies.resolve(sql, now).cancelled
            pokes.waiters |= waiters.take(sql, [*(job.id for job in back), *cancelled])
        if back or report.unknown or any(map(_may_be_scheduled, outcomes)):
            pokes.runners = runners.addresses(sql)

    def _place_unknown(self, sql: sqlite3.Connection, job: Claimed, now: float) -> Outcome | None:
        """Leave a job whose task we do not know to whoever does, now or later; or end it, if it asked for that."""
        others = [row for row in runners.runners(sql) if not leases.is_free(self._connection.paths.lease(row.lease))]
        if any(row.tasks is not None and job.task in json.loads(row.tasks) for row in others):
            self._unknown.add(job.task)
            settling.give_back(sql, [job])
            return None
        if any(row.tasks is None and now - row.started_at < STARTING for row in others):
            settling.postpone(sql, job, now + 0.1)
            return None
        if job.park:
            settling.park(sql, job, f"no worker knows task {job.task}")
            return None
        text = f"Task {job.task} not found"
        return Outcome(
            job, now, now, failure=Failure(reason=text, error=text, error_type="TaskNotFound", is_final=True)
        )

    def _tell(self, pokes: _Pokes) -> None:
        self._waker.poke_all(pokes.waiters)
        for where in pokes.runners:
            self._waker.poke_all(where)
        self._waker.poke_all(pokes.workers)
        for where in pokes.tellers:
            self._waker.poke(where.outbox)


def _with_told(outcome: Outcome) -> Outcome:
    if outcome.result is None or outcome.told is not None:
        return outcome
    try:
        value = serialization.decode(outcome.result)
    except SerializationError:
        return outcome
    return outcome._replace(told=serialization.tell(value))


def _may_be_scheduled(outcome: Outcome) -> bool:
    return outcome.failure is not None and (bool(outcome.job.retries) or outcome.failure.retry_after is not None)


def open_lease(connection: Connection, name: str) -> leases.Lease:
    """Take the lease of this process, and have the guard watch it."""
    with typed_errors(connection.paths.database):
        os.makedirs(connection.paths.leases, mode=0o700, exist_ok=True)
        lease = leases.Lease(connection.paths.lease(name))
        connection.watch(lease.path, lease.descriptor)
    return lease


def close_lease(connection: Connection, lease: leases.Lease) -> None:
    """Give up the lease of this process. The connection can still be used, and closed."""
    connection.unwatch(lease.path, lease.descriptor)
    lease.remove()
