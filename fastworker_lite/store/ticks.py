"""What became of the ticks of schedules: one row for one tick, whoever saw to it and however often somebody tried.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

#: Ticks that are kept of each schedule, and for how many seconds.
MOST_TICKS, LONGEST = 1000, 90 * 86400.0


class Tick(NamedTuple):
    """One tick, and what became of it."""

    at: float
    job: int | None
    outcome: str
    reason: str | None


def open_jobs(sql: sqlite3.Connection, schedule: str) -> list[tuple[int, str]]:
    """The jobs of a schedule that have not ended, with their states, the oldest first."""
    return sql.execute(
        """
        SELECT tick.job, job.state
          FROM tick INDEXED BY tick_open
               JOIN job ON job.id = tick.job
         WHERE tick.schedule = ?
           AND tick.open
         ORDER BY tick.job
        """,
        (schedule,),
    ).fetchall()


def has_made(sql: sqlite3.Connection, schedule: str, at: float) -> bool:
    """Whether this tick has had its turn. One that was missed has not: its time may come again, when a clock is put back."""
    row = sql.execute("SELECT outcome FROM tick WHERE schedule = ? AND at = ?", (schedule, at)).fetchone()
    return row is not None and row[0] != "missed"


def add(sql: sqlite3.Connection, ticks: Sequence[tuple[str, Tick]]) -> None:
    """Note what became of ticks of schedules. Raises `sqlite3.IntegrityError` rather than make a second job of one."""
    added = sql.executemany(
        """
        INSERT INTO tick (schedule, at, job, outcome, reason, open)
        VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (schedule, at) DO UPDATE
           SET job = excluded.job, outcome = excluded.outcome, reason = excluded.reason, open = excluded.open
         WHERE outcome = 'missed'
        """,
        [(name, *tick, tick.job is not None) for name, tick in ticks],
    )
    if ticks and added.rowcount != len(ticks):
        raise sqlite3.IntegrityError("a tick has had its turn before")


def hold(sql: sqlite3.Connection, jobs: Sequence[tuple[int, str]]) -> None:
    """Have new jobs wait until an earlier one of their schedule has ended, for this reason."""
    sql.executemany(
        "UPDATE job SET state = 'blocked', reason = ? WHERE id = ? AND state = 'queued'",
        [(reason, job_id) for job_id, reason in jobs],
    )


def schedules_of(sql: sqlite3.Connection, jobs: Sequence[int]) -> dict[int, tuple[str, float]]:
    """Which schedule made each of these jobs, and for which tick; those that none made are missing."""
    rows = sql.execute(
        "SELECT job, schedule, at FROM tick WHERE job IS NOT NULL AND job IN (SELECT value FROM json_each(?))",
        (json.dumps(list(jobs)),),
    )
    return {job: (schedule, at) for job, schedule, at in rows}


def oldest(sql: sqlite3.Connection, schedule: str) -> float | None:
    """The oldest tick that is remembered."""
    row = sql.execute("SELECT min(at) FROM tick WHERE schedule = ?", (schedule,)).fetchone()
    return None if row[0] is None else float(row[0])


def forget(sql: sqlite3.Connection, schedule: str, before: float) -> int:
    """Forget what became of ticks before a moment, and of the oldest of more than `MOST_TICKS`. Returns how many."""
    return sql.execute(
        """
        DELETE FROM tick
         WHERE schedule = :schedule
           AND NOT open
           AND at < max(:before, ifnull((SELECT at FROM tick WHERE schedule = :schedule ORDER BY at DESC
                                          LIMIT 1 OFFSET :most), :before))
        """,
        {"schedule": schedule, "before": before, "most": MOST_TICKS - 1},
    ).rowcount


class Past(NamedTuple):
    """A tick, and how its job is doing."""

    at: float
    job: int | None
    outcome: str
    reason: str | None
    state: str | None
    #: None where there was no job, or its record is gone.
    job_reason: str | None
    created_at: float | None
    started_at: float | None
    finished_at: float | None


def history(sql: sqlite3.Connection, schedule: str, limit: int) -> list[Past]:
    """The last ticks of a schedule, the newest first."""
    rows = sql.execute(
        """
        SELECT tick.at, tick.job, tick.outcome, tick.reason,
               job.state, job.reason, job.created_at, job.started_at, job.finished_at
          FROM tick LEFT JOIN job ON job.id = tick.job
         WHERE tick.schedule = ?
         ORDER BY tick.at DESC
         LIMIT ?
        """,
        (schedule, limit),
    )
    return [Past._make(row) for row in rows]


def last(sql: sqlite3.Connection, schedule: str) -> Past | None:
    """The last tick that a job was made for."""
    return next((past for past in history(sql, schedule, MOST_TICKS) if past.job is not None), None)


def failures(sql: sqlite3.Connection, schedule: str) -> int:
    """How many of the last jobs of a schedule have failed since one succeeded."""
    count = 0
    for past in history(sql, schedule, MOST_TICKS):
        if past.state == "succeeded":
            break
        count += past.state == "failed"
    return count


def count_missed(sql: sqlite3.Connection, schedule: str) -> int:
    """How many of the ticks that are remembered nobody was there for."""
    row = sql.execute("SELECT count(*) FROM tick WHERE schedule = ? AND outcome = 'missed'", (schedule,)).fetchone()
    return int(row[0])
