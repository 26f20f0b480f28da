"""The schedules of a file: registered where they are declared, and seen to when they are due.

Runs in: the runner's process that leads, `fwl drain`, and whoever changes a schedule.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .errors import ConfigError
from .firing import fire_some, tell
from .schedule import Schedule, short_duration
from .sockets import Waker
from .store import outbox, runners, schedules, ticks
from .store.connection import Connection
from .store.runners import Addresses
from .store.schedules import Move, NewSchedule, Row
from .store.ticks import Past

log = logging.getLogger("fastworker_lite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A schedule, and how it is doing."""

    name: str
    origin: str
    #: Where it is declared: `file`, `task` or `api`.
    schedule: Schedule
    task: str
    is_paused: bool
    next_at: float | None
    #: Unix time; None where no job is to come.
    made: int
    #: Jobs so far.
    last: Past | None
    #: The last tick that a job was made for.
    failures: int
    #: Jobs that have failed since one succeeded.
    missed: int
    #: Ticks that nobody was there for, of those that are remembered.


#: A clock that goes back by more seconds than this has been put back.
PUT_BACK = 1.0

# ---- registration


def first_tick(schedule: Schedule, made: int, now: float) -> float | None:
    """The next tick of a schedule that has made so many jobs; None when there is to be none."""
    is_over = schedule.repeat_count is not None and made >= schedule.repeat_count
    return schedule.next(now) if schedule.enabled and not is_over else None


def put(sql: sqlite3.Connection, new: NewSchedule, now: float) -> None:
    """Store a schedule. One with the same ticks as before goes on where it was; another begins with its next tick."""
    old, schedule = schedules.get(sql, new.name), new.schedule
    if old is not None and old.schedule.has_ticks_of(schedule):
        schedules.put(sql, new, old.tick, old.next_at)
        return
    tick = first_tick(schedule, 0 if old is None else old.made, now)
    delay = schedule.delay(outbox.database_id(sql), new.name)
    schedules.put(sql, new, tick, None if tick is None else tick + delay)


def register(
    sql: sqlite3.Connection, declared: Sequence[NewSchedule], sources: Iterable[tuple[str, str]], now: float
) -> None:
    """Store what is declared, and forget what *sources* (origin and source) declared earlier and do not any more."""
    names, known = {new.name for new in declared}, set(sources)
    for row in schedules.everything(sql):
        if (row.origin, row.source) in known and row.name not in names:
            schedules.remove(sql, row.name)
    for new in declared:
        put(sql, new, now)
    rewind(sql, now)
    forget_old(sql, now)


def rewind(sql: sqlite3.Connection, now: float) -> None:
    """The clock may have been put back: have each schedule go on with its first tick after now that has not had its turn."""
    for row in schedules.everything(sql):
        if row.tick is None:
            continue
        schedule, oldest = row.schedule, ticks.oldest(sql, row.name)
        # Before the oldest one that is remembered nobody knows which had theirs.
        tick = schedule.next(now if oldest is None else max(now, oldest - 0.001))
        if tick is not None and tick < row.tick:
            delay = schedule.delay(outbox.database_id(sql), row.name)
            schedules.move(sql, [Move(tick, tick + delay, 0, row.name)])


def forget_old(sql: sqlite3.Connection, now: float) -> None:
    """Forget what became of ticks long ago."""
    for row in schedules.everything(sql):
        ticks.forget(sql, row.name, now - ticks.LONGEST)


def set_paused(sql: sqlite3.Connection, name: str, is_paused: bool, now: float) -> bool:
    """Have a schedule pause, or go on with its next tick: those meanwhile were not wanted. False when there is none."""
    row = schedules.get(sql, name)
    if row is None:
        return False
    schedules.set_paused(sql, name, is_paused)
    if row.paused and not is_paused:
        tick = first_tick(row.schedule, row.made, now)
        delay = row.schedule.delay(outbox.database_id(sql), name)
        schedules.move(sql, [Move(tick, None if tick is None else tick + delay, 0, name)])
    return True


# ---- what callers do


def put_own(connection: Connection, waker: Waker, new: NewSchedule) -> None:
    """Store a schedule of a caller, and tell whoever sees to it. Raises `ConfigError` when its name is declared elsewhere."""

    def transact(sql: sqlite3.Connection) -> list[Addresses]:
        old = schedules.get(sql, new.name)
        if old is not None and old.origin != new.origin:
            where = old.source if old.origin == "file" else f"task {old.source}"
            raise ConfigError(
                f"name: schedule {new.name} is declared in {where}; change it there, or take another name"
            )
        put(sql, new, time.time())
        return runners.addresses(sql)

    for where in connection.write(transact):
        waker.poke(where.control)


def status(sql: sqlite3.Connection) -> list[Status]:
    """All schedules, and how they are doing."""
    return [status_of(sql, row) for row in schedules.everything(sql)]


def status_of(sql: sqlite3.Connection, row: Row) -> Status:
    """How one schedule is doing."""
    last = ticks.last(sql, row.name)
    return Status(
        name=row.name,
        origin=row.origin,
        schedule=row.schedule,
        task=row.task,
        is_paused=bool(row.paused),
        next_at=None if row.paused else row.next_at,
        made=row.made,
        last=last,
        failures=ticks.failures(sql, row.name),
        missed=ticks.count_missed(sql, row.name),
    )


# ---- the duty


class Timetable:
    """The schedules of a file, as one runner sees to them. Used on one thread at a time."""

    def __init__(
        self,
        declare: Callable[[], tuple[list[NewSchedule], set[tuple[str, str]]]],
        waker: Waker,
        clock: Callable[[], float],
    ) -> None:
        """*declare* says which schedules there are to be, and whose they are; see `register`."""
        self._declare = declare
        self._waker = waker
        self._clock = clock
        self._seen = 0.0

    def register(self, connection: Connection) -> None:
        """Have the file know the schedules that are declared."""
        declared, sources = self._declare()
        known = connection.read(schedules.names)
        if declared or known:
            connection.write_fast(register, declared, sources, self._clock())

    def step(self, connection: Connection) -> float | None:
        """Make the jobs that are due. Returns when the next will be, None when nothing is scheduled."""
        now = self._clock()
        if now < self._seen - PUT_BACK:
            log.warning("the clock was put back by %s", short_duration(self._seen - now))
            connection.write(rewind, now)
        self._seen = now
        while (next_at := connection.read(schedules.next_at)) is not None and next_at <= now:
            tell(self._waker, connection.write(fire_some, now))
        return next_at

    def forget_old(self, connection: Connection) -> None:
        """Forget what became of ticks long ago."""
        connection.write_fast(forget_old, self._clock())
