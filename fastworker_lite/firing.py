"""Sees to the ticks that are due: which of them get a job, and the one transaction that makes it.

A tick and its job come into the file together, so that it does not matter how many runners there are, when they are
killed, and what becomes of the clock.

Runs in: the runner's process that leads, and `fwl drain`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from .errors import QueueFull
from .job import Lane, NewJob
from .schedule import ON_TIME, Schedule, short_duration
from .sockets import Waker
from .store import cancelling, dependencies, jobs, outbox, runners, schedules, ticks, waiters
from .store.runners import Addresses
from .store.schedules import Due, Move, Row
from .store.ticks import Tick

#: Schedules that are seen to in one transaction, and ticks of each: the gate is for others, too.
MOST_AT_ONCE = 1000


class Decision(NamedTuple):
    """What is to become of one tick."""

    at: float
    is_wanted: bool
    #: Whether it gets a job, if the schedule's earlier jobs allow that.
    is_late: bool


def decide(schedule: Schedule, tick: float, end: float) -> list[Decision]:
    """What is to become of the ticks from *tick* to *end*, as far as their times say. Ends early where they are many."""
    on_time = end - ON_TIME
    window = min(end - schedule.catch_up_window, on_time)
    since = tick - 0.001
    if schedule.catch_up == "all":
        too_old = schedule.newest(since, window, MOST_AT_ONCE) if window > since else []
        found = [*too_old, *islice(schedule.ticks(max(since, window), end), MOST_AT_ONCE)]
    else:
        found = schedule.newest(since, end, MOST_AT_ONCE)
    return [
        Decision(
            at,
            at >= on_time
            or (schedule.catch_up == "all" and at > window)
            or (schedule.catch_up == "latest" and at > window and at == found[-1]),
            at < on_time,
        )
        for at in found
    ]


# ---- one transaction


class _Made(NamedTuple):
    """A job that is to be made."""

    schedule: str
    at: float
    job: NewJob
    reason: str | None
    is_held: bool
    #: Until the schedule's earlier jobs have ended.


class Fired(NamedTuple):
    """What one transaction has done."""

    in_lane: tuple[int, int]
    #: Jobs it has queued, for functions and for coroutines.
    runners: list[Addresses]
    waiting: set[str]
    #: To be told of jobs that were cancelled.
    is_replacing: bool


class Firing:
    """The ticks that are due, seen to in one transaction."""

    def __init__(self, sql: sqlite3.Connection, now: float) -> None:
        self._sql = sql
        self._now = now
        self._database_id = outbox.database_id(sql)
        self._made: list[_Made] = []
        self._noted: list[tuple[str, Tick]] = []
        self._moves: list[Move] = []
        self._cancelled: list[int] = []

    def run(self) -> Fired:
        """See to the ticks of up to `MOST_AT_ONCE` schedules."""
        for one in schedules.due(self._sql, self._now, MOST_AT_ONCE):
            self._see_to(one)
        schedules.move(self._sql, self._moves)
        return self._store()

    def run_now(self, row: Row, job: NewJob) -> tuple[Tick, Fired]:
        """Make one job of a schedule as if there were a tick now. The schedule goes on as if there had been none."""
        earlier = ticks.open_jobs(self._sql, row.name)
        self._place(row, job, [Decision(self._now, True, False)], earlier, "by hand")
        fired = self._store()
        return self._noted[0][1], fired

    def _see_to(self, found: Due) -> None:
        row = found.row
        schedule, delay = row.schedule, row.schedule.delay(self._database_id, row.name)
        assert row.tick is not None
        end = max(self._now - delay, row.tick)  # what was added may not come off to the last bit
        decisions = decide(schedule, row.tick, end)
        last = decisions[-1].at if decisions else end
        if found.is_seen:
            decisions = [one for one in decisions if not ticks.has_made(self._sql, row.name, one.at)]
        left = None if schedule.repeat_count is None else schedule.repeat_count - row.made
        if left is not None:
            decisions = _at_most(decisions, left)
        earlier = ticks.open_jobs(self._sql, row.name) if found.is_busy and schedule.overlap != "allow" else []
        count = self._place(row, found.job, decisions, earlier, None)
        tick = None if left is not None and count >= left else schedule.next(last)
        self._moves.append(Move(tick, None if tick is None else tick + delay, count, row.name))

    def _place(
        self, row: Row, job: NewJob, decisions: Sequence[Decision], earlier: list[tuple[int, str]], reason: str | None
    ) -> int:
        """Decide what the schedule's earlier jobs make of each tick. Returns how many jobs are made."""
        name, schedule, count = row.name, row.schedule, len(earlier)
        wanted = [one.at for one in decisions if one.is_wanted]
        before = len(self._made)
        for one in decisions:
            if not one.is_wanted:
                self._noted.append(
                    (name, Tick(one.at, None, "missed", _why_missed(schedule, self._now, one.at, wanted)))
                )
                continue
            overlap = _overlap(schedule, one)
            if overlap == "replace" and one.at != wanted[-1]:
                self._noted.append((name, Tick(one.at, None, "skipped", "the next one replaces it")))
                continue
            if overlap == "replace":
                count = self._cancel(earlier)
            if count and (overlap == "skip" or (overlap == "queue_one" and count > 1)):
                self._noted.append((name, Tick(one.at, None, "skipped", _why_skipped(earlier))))
                continue
            late = f"catch-up, {short_duration(round(self._now - one.at))} late" if one.is_late else reason
            self._made.append(_Made(name, one.at, job, late, bool(count) and overlap != "allow"))
            count += 1
        return len(self._made) - before

    def _cancel(self, earlier: list[tuple[int, str]]) -> int:
        """Cancel the jobs that are to make room. Returns how many still run."""
        for job_id, _ in earlier:
            cancelling.cancel(self._sql, job_id, self._now, "replaced by the next job of its schedule")
        self._cancelled += [job_id for job_id, _ in earlier]
        return sum(1 for _, state in earlier if state == "running")

    def _store(self) -> Fired:
        ids = self._insert([one.job._replace(scheduled_for=one.at) for one in self._made])
        made = [(one, job_id) for one, job_id in zip(self._made, ids, strict=True) if isinstance(job_id, int)]
        ticks.hold(
            self._sql,
            [
                (job_id, f"waits for the job before it of schedule {one.schedule}")
                for one, job_id in made
                if one.is_held
            ],
        )
        self._noted += [(one.schedule, Tick(one.at, job_id, "queued", one.reason)) for one, job_id in made]
        self._noted += [
            (one.schedule, Tick(one.at, None, "skipped", str(error)))
            for one, error in zip(self._made, ids, strict=True)
            if isinstance(error, QueueFull)
        ]
        ticks.add(self._sql, self._noted)
        if self._cancelled:
            self._cancelled += dependencies.resolve(self._sql, self._now).cancelled
        lanes = [one.job.lane for one, _ in made if not one.is_held]
        return Fired(
            (lanes.count(Lane.SYNC), lanes.count(Lane.ASYNC)),
            runners.addresses(self._sql),
            waiters.take(self._sql, self._cancelled),
            bool(self._cancelled),
        )

    def _insert(self, new: list[NewJob]) -> list[int | QueueFull]:
        """Store the jobs. One whose queue is full is not made, and does not keep the others from being made."""
        if not new:
            return []
        try:
            self._sql.execute("SAVEPOINT made")
            return list(jobs.insert(self._sql, new, self._now))
        except QueueFull as error:
            self._sql.execute("ROLLBACK TO made")
            if len(new) == 1:
                return [error]
        finally:
            self._sql.execute("RELEASE made")
        return [stored for one in new for stored in self._insert([one])]


def _at_most(decisions: list[Decision], count: int) -> list[Decision]:
    """The decisions up to the one that gives the last of *count* jobs."""
    kept: list[Decision] = []
    for one in decisions:
        if count <= 0:
            break
        kept.append(one)
        count -= one.is_wanted
    return kept


def _overlap(schedule: Schedule, one: Decision) -> str:
    """Ticks that are all made up for are not skipped for each other's sake: they come one after the other."""
    if one.is_late and schedule.catch_up == "all" and schedule.overlap != "allow":
        return "queue_all"
    return schedule.overlap


def _why_skipped(earlier: Sequence[tuple[int, str]]) -> str:
    return f"job {earlier[0][0]} was still {earlier[0][1]}" if earlier else "the one before it had not begun"


def _why_missed(schedule: Schedule, now: float, at: float, wanted: Sequence[float]) -> str:
    if schedule.catch_up == "none":
        return "no runner was there"
    if wanted and schedule.catch_up == "latest":
        return "no runner was there; a later one makes up for it"
    return f"no runner was there for more than {short_duration(schedule.catch_up_window)}"


def fire_some(sql: sqlite3.Connection, now: float) -> Fired:
    """See to the ticks that are due at this moment, of up to `MOST_AT_ONCE` schedules."""
    return Firing(sql, now).run()


def tell(waker: Waker, fired: Fired) -> None:
    """Wake whoever can run what was made, once it is in the file."""
    waker.poke_all(fired.waiting)
    for where in fired.runners:
        waker.poke(where.wake, fired.in_lane[Lane.SYNC])
        waker.poke(where.wake_async, fired.in_lane[Lane.ASYNC])
        if fired.is_replacing:
            waker.poke_all((where.wake_async, where.control, where.outbox))
