"""What keeps a job from running, and what is known of many at a glance.

Each function reads within a transaction that its caller has opened; see `Connection.read`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ..job import Progress


def is_paused(sql: sqlite3.Connection, queue: str) -> bool:
    """Whether nothing of this queue is begun for now."""
    row = sql.execute("SELECT paused FROM queue WHERE name = ?", (queue,)).fetchone()
    return row is not None and bool(row[0])


def count_ahead(sql: sqlite3.Connection, job_id: int) -> int:
    """How many queued jobs come before this one: in its queue, and for the same kind of worker."""
    row = sql.execute(
        """
        SELECT count(*)
          FROM job AS mine JOIN job AS other ON other.queue = mine.queue AND other.lane = mine.lane
         WHERE mine.id = ?
           AND other.state = 'queued'
           AND other.id <> mine.id
           AND (other.priority > mine.priority OR (other.priority = mine.priority AND other.id < mine.id))
        """,
        (job_id,),
    ).fetchone()
    return int(row[0])


def next_schedule(sql: sqlite3.Connection) -> tuple[str, float] | None:
    """Name and Unix time of what makes the next job by the clock."""
    found: tuple[str, float] | None = sql.execute(
        "SELECT name, next_at FROM schedule WHERE next_at IS NOT NULL AND NOT paused ORDER BY next_at LIMIT 1"
    ).fetchone()
    return found


def progress_of(sql: sqlite3.Connection, ids: Sequence[int]) -> dict[int, Progress]:
    """How far those of these jobs are that have said so."""
    rows = sql.execute(
        "SELECT job, done, total, note, at FROM progress WHERE job IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    )
    return {row[0]: Progress(done=row[1], total=row[2], note=row[3], at=row[4]) for row in rows}


class RunningJob(NamedTuple):
    """A job that a worker has claimed."""

    worker: int | None
    id: int
    task: str
    name: str | None
    queue: str
    started_at: float | None


def running(sql: sqlite3.Connection) -> list[RunningJob]:
    """The jobs that workers have claimed, at most 10,000."""
    rows = sql.execute(
        "SELECT worker, id, task, name, queue, started_at FROM job WHERE state = 'running' ORDER BY worker, id LIMIT 10000"
    )
    return [RunningJob._make(row) for row in rows]


class Waiting(NamedTuple):
    """A job that could run, and since when."""

    id: int
    since: float


# The first few of each priority, found by steps in the index of queued jobs: its cost is that of the priorities, not of the
# jobs. A job that was tried before and is queued again has no time that says since when, unless it was due.
_QUEUED_LONGEST = """
WITH RECURSIVE head (queue, lane, priority, step) AS (
    SELECT queue.name, lane.number,
           (SELECT max(priority) FROM job WHERE state = 'queued' AND queue = queue.name AND lane = lane.number), 1
      FROM queue CROSS JOIN (SELECT 0 AS number UNION ALL SELECT 1) AS lane
     WHERE NOT queue.paused
    UNION ALL
    SELECT queue, lane,
           (SELECT max(priority)
              FROM job
             WHERE state = 'queued'
               AND queue = head.queue
               AND lane = head.lane
               AND priority < head.priority),
           step + 1
      FROM head
     WHERE priority IS NOT NULL
       AND step < 100
)
SELECT job.id,
       max(job.created_at, ifnull(job.due_at, 0),
           ifnull((SELECT max(parent.finished_at)
                     FROM edge JOIN job AS parent ON parent.id = edge.parent
                    WHERE edge.child = job.id), 0)) AS since
  FROM head CROSS JOIN job
 WHERE head.priority IS NOT NULL
   AND job.id IN (SELECT next.id
                    FROM job AS next
                   WHERE next.state = 'queued'
                     AND next.queue = head.queue
                     AND next.lane = head.lane
                     AND next.priority = head.priority
                   ORDER BY next.id
                   LIMIT 20)
   AND (job.attempt = 0 OR job.due_at IS NOT NULL)
 ORDER BY since
 LIMIT 1
"""
_OVERDUE = "SELECT id, due_at FROM job WHERE state = 'scheduled' AND due_at <= ? ORDER BY due_at LIMIT 1"


def oldest_waiting(sql: sqlite3.Connection, now: float) -> Waiting | None:
    """The job that has waited longest for a worker, or for the runner that would queue it; None when none waits.

    Paused queues are left out.
    """
    rows = [sql.execute(_QUEUED_LONGEST).fetchone(), sql.execute(_OVERDUE, (now,)).fetchone()]
    return min((Waiting._make(row) for row in rows if row is not None), key=lambda one: one.since, default=None)


def count_failed(sql: sqlite3.Connection, since: float, most: int) -> int:
    """How many jobs have failed since then and are not tried again, counted up to *most*."""
    row = sql.execute(
        "SELECT count(*) FROM (SELECT 1 FROM job WHERE state = 'failed' AND finished_at >= ? LIMIT ?)", (since, most)
    ).fetchone()
    return int(row[0])
