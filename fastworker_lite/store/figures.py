"""What is going on, for somebody who looks every second: each query reads a bounded number of rows, however many jobs there are.

Each function reads within a transaction that its caller has opened; see `Connection.read`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

#: Rows below a place of interest that are looked at, and rows in all: for jobs that have ended of late,
LATELY = (2_000, 6_000)
#: and for failures.
FAILURES = (20_000, 40_000)


class QueueRow(NamedTuple):
    name: str
    paused: int
    queued: int
    running: int


class Ended(NamedTuple):
    """A job that has ended: when it could have begun, when it did, and when it was over."""

    state: str
    ready_at: float
    started_at: float | None
    finished_at: float


class Coming(NamedTuple):
    """A schedule, and when it makes its next job."""

    name: str
    paused: int
    next_at: float | None
    spec: str


_QUEUES = """
SELECT name, paused,
       (SELECT count(*) FROM job WHERE state = 'queued' AND queue = queue.name),
       ifnull(running.jobs, 0)
  FROM queue
       LEFT JOIN (SELECT queue, count(*) AS jobs FROM job WHERE state = 'running' GROUP BY queue) AS running
       ON running.queue = queue.name
 ORDER BY name
"""

#: There is no index over the ends: they would pay for it at every job. Those of late are close below the newest job, below
#: the jobs that run, or below the one that is next in its queue.
_PLACES = (
    "SELECT id + 1 FROM job ORDER BY id DESC LIMIT 1",  # max(id) + 1 would read all of them
    "SELECT id FROM job INDEXED BY job_running WHERE state = 'running'",  # or they are read by id, ended ones and all
    """
    SELECT (SELECT id
              FROM job
             WHERE state = 'queued' AND queue = queue.name AND lane = lane.number
             ORDER BY priority DESC, id
             LIMIT 1) AS next
      FROM queue CROSS JOIN (SELECT 0 AS number UNION ALL SELECT 1) AS lane
     WHERE next IS NOT NULL
    """,
)

_ENDED = """
SELECT state, max(created_at, ifnull(due_at, created_at)), started_at, finished_at
  FROM job
 WHERE id >= ?
   AND id < ?
   AND finished_at >= ?
"""

_FAILED = """
SELECT id
  FROM job
 WHERE id >= ?
   AND id < ?
   AND state = 'failed'
 ORDER BY id DESC
 LIMIT ?
"""

_COMING = "SELECT name, paused, next_at, spec FROM schedule ORDER BY paused, next_at IS NULL, next_at, name LIMIT ?"


def queues(sql: sqlite3.Connection) -> list[QueueRow]:
    """Every queue, with how many jobs wait in it and how many run."""
    return [QueueRow._make(row) for row in sql.execute(_QUEUES)]


def ended(sql: sqlite3.Connection, since: float) -> list[Ended]:
    """The jobs that have ended since then, the last ones last; where they are very many, not all of them."""
    found = [
        Ended._make(row) for first, end in _ranges(sql, *LATELY) for row in sql.execute(_ENDED, (first, end, since))
    ]
    return sorted(found, key=lambda one: one.finished_at)


def failed_ids(sql: sqlite3.Connection, limit: int) -> list[int]:
    """The failed jobs with the highest ids, newest first; those of long ago may be missing."""
    found: list[int] = []
    for first, end in _ranges(sql, *FAILURES):
        found += [row[0] for row in sql.execute(_FAILED, (first, end, limit - len(found)))]
    return found


def _ranges(sql: sqlite3.Connection, depth: int, most: int) -> list[tuple[int, int]]:
    """Where jobs may have ended of late: ids from (first) to below (end), each once, the highest first."""
    places = {row[0] for statement in _PLACES for row in sql.execute(statement)}
    ranges: list[tuple[int, int]] = []
    left, above = most, max(places, default=0)
    for place in sorted(places, reverse=True):
        end = min(place, above)
        first = max(1, place - depth, end - left)
        if first < end:
            ranges.append((first, end))
            left -= end - first
            above = first
    return ranges


def coming(sql: sqlite3.Connection, limit: int) -> list[Coming]:
    """The schedules that are next."""
    return [Coming._make(row) for row in sql.execute(_COMING, (limit,))]
