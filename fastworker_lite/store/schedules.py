"""Schedules: when they make jobs, and which. For what became of their ticks see ticks.py.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from ..job import Kind, Lane, NewJob
from ..options import JobOptions
from ..schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSchedule:
    """What is to be stored: when, and the job that each tick makes."""

    name: str
    origin: str
    #: `file`, `task` or `api`.
    source: str | None
    #: The file it stands in, or the task that declares it.
    schedule: Schedule
    job: NewJob


class Row(NamedTuple):
    """A schedule as it stands in the file, without its job."""

    name: str
    origin: str
    source: str | None
    spec: str
    paused: int
    made: int
    tick: float | None
    next_at: float | None
    task: str

    @property
    def schedule(self) -> Schedule:
        return Schedule.from_json(self.spec)


_ROW = "name, origin, source, spec, paused, made, tick, next_at, task"
_JOB = "kind, task, lane, park, options, checksum, target, payload, environment, limits"
_ALL = f"SELECT {_ROW} FROM schedule ORDER BY name"
_ONE = f"SELECT {_ROW} FROM schedule WHERE name = ?"
_ONES_JOB = f"SELECT {_JOB} FROM schedule WHERE name = ?"
_DUE = f"""
SELECT {_ROW}, {_JOB},
       EXISTS (SELECT 1 FROM tick INDEXED BY tick_open WHERE tick.schedule = schedule.name AND tick.open),
       EXISTS (SELECT 1 FROM tick WHERE tick.schedule = schedule.name AND tick.at >= schedule.tick)
  FROM schedule
 WHERE next_at <= ?
   AND NOT paused
 ORDER BY next_at
 LIMIT ?
"""


def everything(sql: sqlite3.Connection) -> list[Row]:
    """All schedules, by name."""
    return [Row._make(row) for row in sql.execute(_ALL)]


def names(sql: sqlite3.Connection) -> list[str]:
    """What the schedules are called."""
    return [row[0] for row in sql.execute("SELECT name FROM schedule ORDER BY name")]


def get(sql: sqlite3.Connection, name: str) -> Row | None:
    """The schedule of this name."""
    row = sql.execute(_ONE, (name,)).fetchone()
    return None if row is None else Row._make(row)


def put(sql: sqlite3.Connection, new: NewSchedule, tick: float | None, next_at: float | None) -> None:
    """Store a schedule, in place of the one of its name. Whether that was paused stays as it was, and so does its history."""
    sql.execute(
        """
        INSERT INTO schedule (name, origin, source, spec, tick, next_at, kind, task, lane, park, options, checksum,
                              target, payload, environment, limits)
        VALUES (:name, :origin, :source, :spec, :tick, :next_at, :kind, :task, :lane, :park, :options, :checksum,
                :target, :payload, :environment, :limits)
        ON CONFLICT (name) DO UPDATE
           SET origin = excluded.origin, source = excluded.source, spec = excluded.spec, tick = excluded.tick,
               next_at = excluded.next_at, kind = excluded.kind, task = excluded.task, lane = excluded.lane,
               park = excluded.park, options = excluded.options, checksum = excluded.checksum,
               target = excluded.target, payload = excluded.payload, environment = excluded.environment,
               limits = excluded.limits
        """,
        {
            "name": new.name, "origin": new.origin, "source": new.source, "spec": new.schedule.to_json(),
            "tick": tick, "next_at": next_at,
        } | _job_row(new.job),
    )  # fmt: skip


def remove(sql: sqlite3.Connection, name: str) -> bool:
    """Forget a schedule and its history. Its jobs stay, and wait for each other still. False when there is none of this name."""
    sql.execute("DELETE FROM tick WHERE schedule = ? AND NOT open", (name,))
    return sql.execute("DELETE FROM schedule WHERE name = ?", (name,)).rowcount > 0


class Move(NamedTuple):
    """Where a schedule goes on."""

    tick: float | None
    next_at: float | None
    made: int
    #: So many more jobs were made.
    name: str


def move(sql: sqlite3.Connection, moves: Sequence[Move]) -> None:
    """Note which ticks are the next ones."""
    sql.executemany("UPDATE schedule SET tick = ?, next_at = ?, made = made + ? WHERE name = ?", moves)


def set_paused(sql: sqlite3.Connection, name: str, is_paused: bool) -> None:
    """Have a schedule make no jobs, or make them again."""
    sql.execute("UPDATE schedule SET paused = ? WHERE name = ?", (is_paused, name))


def next_at(sql: sqlite3.Connection) -> float | None:
    """When the next job is to be made; None when nothing is scheduled."""
    row = sql.execute("SELECT min(next_at) FROM schedule WHERE next_at IS NOT NULL AND NOT paused").fetchone()
    return None if row[0] is None else float(row[0])


class Due(NamedTuple):
    """A schedule whose time has come."""

    row: Row
    job: NewJob
    is_busy: bool
    #: Whether a job of it has not ended.
    is_seen: bool
    #: Whether any of its ticks that are due may have had its turn before.


def due(sql: sqlite3.Connection, now: float, limit: int) -> list[Due]:
    """The schedules whose time has come, the first ones first."""
    return [
        Due(Row._make(row[:9]), _job(row[9:-2]), bool(row[-2]), bool(row[-1]))
        for row in sql.execute(_DUE, (now, limit))
    ]


def job_of(sql: sqlite3.Connection, name: str) -> NewJob | None:
    """The job that a schedule makes."""
    row = sql.execute(_ONES_JOB, (name,)).fetchone()
    return None if row is None else _job(row)


# ---- the job of a schedule


def _job_row(job: NewJob) -> dict[str, Any]:
    return {
        "kind": job.kind, "task": job.task, "lane": job.lane, "park": job.is_parked_if_unknown,
        "options": _write_options(job.options), "checksum": job.checksum, "target": job.target, "payload": job.payload,
        "environment": job.environment, "limits": job.limits,
    }  # fmt: skip


def _job(row: Sequence[Any]) -> NewJob:
    kind, task, lane, park, options, checksum, target, payload, environment, limits = row
    return NewJob(
        kind=Kind(kind),
        task=task,
        payload=payload,
        checksum=checksum,
        target=target,
        lane=Lane(lane),
        options=_read_options(options),
        is_parked_if_unknown=bool(park),
        environment=environment,
        limits=limits,
    )


def _write_options(options: JobOptions) -> str:
    given = {name: value for name, value in options._asdict().items() if value is not None}
    given.pop("key", None)  # what came of it stands in the limits
    if isinstance(options.expires, timedelta):
        given["expires"] = {"seconds": options.expires.total_seconds()}
    return json.dumps(given)


def _read_options(text: str) -> JobOptions:
    if text == "{}":
        return JobOptions()
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(text).items()
    }
    if isinstance(given.get("expires"), dict):
        given["expires"] = timedelta(**given["expires"])
    return JobOptions(**given)
