"""What keeps a job from running, and what is known of many at a glance.

Each function reads within a transaction that its caller has opened; see `Connection.read`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

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


def failed_ids(sql: sqlite3.Connection) -> list[int]:
    """Every job that has failed."""
    return [row[0] for row in sql.execute("SELECT id FROM job WHERE state = 'failed' ORDER BY id")]


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
