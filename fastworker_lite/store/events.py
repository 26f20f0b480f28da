"""What has happened to jobs, in order: written by triggers, while somebody follows.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple


class Event(NamedTuple):
    """One change of one job."""

    offset: int
    #: Rises with every event; a gap means that some were missed.
    job: int
    event: str
    #: `queued scheduled blocked started progress retrying succeeded failed cancelled expired`.
    at: float
    #: Unix seconds.
    task: str
    queue: str
    attempt: int
    reason: str | None


_FIELDS = ", ".join(Event._fields)
_AFTER = f"SELECT {_FIELDS} FROM event WHERE offset > ? ORDER BY offset LIMIT ?"


def follow(sql: sqlite3.Connection, name: str, lease: str | None) -> None:
    """Have events written from now on, until `unfollow`, or until whoever holds *lease* is gone."""
    sql.execute("INSERT OR REPLACE INTO follower (name, lease) VALUES (?, ?)", (name, lease))


def unfollow(sql: sqlite3.Connection, name: str) -> bool:
    """Follow no more. The log is emptied when nobody does. False when there is no follower of this name."""
    is_known = sql.execute("DELETE FROM follower WHERE name = ?", (name,)).rowcount == 1
    if sql.execute("SELECT 1 FROM follower LIMIT 1").fetchone() is None:
        sql.execute("DELETE FROM event")
    return is_known


def followers(sql: sqlite3.Connection) -> list[tuple[str, str | None]]:
    """Name and lease of everybody who follows."""
    return sql.execute("SELECT name, lease FROM follower ORDER BY name").fetchall()


def for_a_life(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    """Name and lease of those who follow for as long as they live."""
    return sql.execute("SELECT name, lease FROM follower WHERE lease IS NOT NULL").fetchall()


def after(sql: sqlite3.Connection, offset: int, limit: int) -> list[Event]:
    """The next events after *offset*, in order."""
    return [Event._make(row) for row in sql.execute(_AFTER, (offset, limit))]


def newest(sql: sqlite3.Connection) -> int:
    """The highest offset given so far."""
    row = sql.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
    return int(row[0]) if row else 0


#: Of jobs whose beginnings nobody logged, what their rows still tell: not their earlier tries.
_FROM_ROWS = """
WITH newest AS (
    SELECT id, state, created_at, started_at, finished_at, task, queue, attempt, reason
      FROM job
     ORDER BY id DESC
     LIMIT :most),
told (job, event, at, task, queue, attempt, reason, place) AS (
    SELECT id, iif(attempt = 0 AND state IN ('scheduled', 'blocked'), state, 'queued'), created_at, task, queue, 0, NULL, 0
      FROM newest
    UNION ALL
    SELECT id, 'started', started_at, task, queue, attempt, NULL, 1 FROM newest WHERE started_at IS NOT NULL
    UNION ALL
    SELECT id, state, finished_at, task, queue, attempt, reason, 2 FROM newest WHERE finished_at IS NOT NULL)
SELECT 0 AS offset, job, event, at, task, queue, attempt, reason
  FROM told
 WHERE at < ifnull((SELECT at FROM event ORDER BY offset LIMIT 1), 1e999)
 ORDER BY at DESC, place DESC, job DESC
 LIMIT :most
"""


def before_the_log(sql: sqlite3.Connection, most: int) -> list[Event]:
    """The last changes of the newest jobs from before the log, in the order of time, as far as their rows tell them.

    Their offset is 0. At most *most*.
    """
    rows = sql.execute(_FROM_ROWS, {"most": most}).fetchall()
    return [Event._make(row) for row in reversed(rows)]
