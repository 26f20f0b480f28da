"""What time does to jobs: the scheduled become due, those that nobody started expire.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from ..job import Lane
from . import limits


def make_due(sql: sqlite3.Connection, now: float) -> list[int]:
    """Queue the scheduled jobs whose time has come, at most 10,000 of them. Returns how many, by lane."""
    due = sql.execute(
        """
        SELECT id, lane
          FROM job
         WHERE state = 'scheduled'
           AND due_at <= ?
         ORDER BY due_at
         LIMIT 10000
        """,
        (now,),
    ).fetchall()
    sql.executemany("UPDATE job SET state = 'queued' WHERE id = ?", [(row[0],) for row in due])
    return [sum(1 for row in due if row[1] == lane) for lane in Lane]


def expire(sql: sqlite3.Connection, now: float) -> list[int]:
    """End the jobs that nobody has started in time, at most 10,000 of them. Returns their ids."""
    rows = sql.execute(
        """
        SELECT id
          FROM job
         WHERE expires_at <= ?
           AND state IN ('queued', 'scheduled', 'blocked')
         ORDER BY expires_at
         LIMIT 10000
        """,
        (now,),
    ).fetchall()
    sql.executemany(
        "UPDATE job SET state = 'expired', reason = 'expired', error = 'expired', finished_at = ? WHERE id = ?",
        [(now, row[0]) for row in rows],
    )
    return [row[0] for row in rows]


def next_due(sql: sqlite3.Connection) -> float | None:
    """When the next scheduled job is due, the next job expires, or the next one that waits for a rate may begin."""
    due = sql.execute("SELECT min(due_at) FROM job WHERE state = 'scheduled'").fetchone()[0]
    expires = sql.execute(
        "SELECT min(expires_at) FROM job WHERE expires_at IS NOT NULL AND state IN ('queued', 'scheduled', 'blocked')"
    ).fetchone()[0]
    moments = (due, expires, limits.next_release(sql))
    return min((moment for moment in moments if moment is not None), default=None)


#: Whether anything runs, or is queued that who serves these queues would run.
_HAS_WORK = """
SELECT EXISTS (SELECT 1 FROM job WHERE state = 'running')
    OR EXISTS (SELECT 1
                 FROM queue CROSS JOIN job
                WHERE NOT queue.paused
                  AND (:queues IS NULL OR queue.name IN (SELECT value FROM json_each(:queues)))
                  AND job.state = 'queued'
                  AND job.queue = queue.name)
"""


def next_work(sql: sqlite3.Connection, queues: Sequence[str] | None) -> float | None:
    """When there is something to do with jobs, for who serves these *queues* (None: all): 0 for now, None for no time known."""
    served = None if queues is None else json.dumps(list(queues))
    return 0.0 if sql.execute(_HAS_WORK, {"queues": served}).fetchone()[0] else next_due(sql)
