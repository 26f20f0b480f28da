"""What a person may do with a job: cancel it, and have it tried again.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from ..errors import JobExists
from ..options import Policy


class Manner(NamedTuple):
    """How a running job is to end."""

    reason: str | None
    #: Why somebody asked for its end; None where nobody has.
    signal: int | None
    #: What it gets first, None for TERM.
    grace: float | None
    #: Seconds until it gets KILL, None for what the runner's configuration says.


def set_manner(sql: sqlite3.Connection, job_id: int, grace: float | None, first_signal: int | None) -> None:
    """Note how this job is to end, if it runs. To be called before `cancel` marks it."""
    sql.execute(
        """
        UPDATE job
           SET cancel_signal = ifnull(:signal, cancel_signal), cancel_grace = ifnull(:grace, cancel_grace)
         WHERE id = :id
           AND state = 'running'
        """,
        {"id": job_id, "grace": grace, "signal": first_signal},
    )


def manner(sql: sqlite3.Connection, job_id: int) -> Manner:
    """How this job is to end, as far as somebody said."""
    row = sql.execute("SELECT cancel, cancel_signal, cancel_grace, policy FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return Manner(None, None, None)
    return Manner(row[0], row[1], Policy.read(row[3]).kill_grace if row[2] is None else row[2])


def lone_process(sql: sqlite3.Connection, job_id: int) -> str | None:
    """The process that runs this job without a runner to look after it, as `ProcessIdentity` reads it; None for others."""
    row = sql.execute(
        """
        SELECT worker.process
          FROM job JOIN worker ON worker.id = job.worker
         WHERE job.id = ?
           AND job.state = 'running'
           AND worker.runner IS NULL
        """,
        (job_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def cancel(sql: sqlite3.Connection, job_id: int, now: float, reason: str = "cancelled") -> str | None:
    """Cancel a job that has not begun; ask for the end of one that runs. Returns the state it was in, None for no job."""
    row = sql.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is not None and row[0] in ("queued", "scheduled", "blocked"):
        sql.execute(
            "UPDATE job SET state = 'cancelled', reason = ?, finished_at = ? WHERE id = ?", (reason, now, job_id)
        )
    elif row is not None and row[0] == "running":
        sql.execute("UPDATE job SET cancel = ? WHERE id = ? AND cancel IS NULL", (reason, job_id))
    return None if row is None else str(row[0])


class Asked(NamedTuple):
    """A running job whose end was asked for."""

    id: int
    claim: int
    worker: int
    policy: str | None
    signal: int | None
    grace: float | None
    #: How it is to end, as far as somebody said; see `cancelling.set_manner`.


def asked_to_stop(sql: sqlite3.Connection) -> list[Asked]:
    """The running jobs that somebody wants cancelled."""
    rows = sql.execute(
        "SELECT id, claim, worker, policy, cancel_signal, cancel_grace FROM job INDEXED BY job_cancel"
        " WHERE state = 'running' AND cancel IS NOT NULL"
    )
    return [Asked._make(row) for row in rows]


_LIVE_WITH_KEY = """
SELECT id, state
  FROM job INDEXED BY job_unique
 WHERE unique_key IS NOT NULL AND cancel IS NULL AND (debounce IS NULL OR claim = 0)
   AND (state = 'queued' OR state = 'scheduled' OR state = 'blocked' OR state = 'running')
   AND unique_key = ?
"""


def live_with_key(sql: sqlite3.Connection, key: str) -> tuple[int, str] | None:
    """Id and state of the job that waits or runs with this unique key."""
    found: tuple[int, str] | None = sql.execute(_LIVE_WITH_KEY, (key,)).fetchone()
    return found


def retry(sql: sqlite3.Connection, job_id: int) -> str | None:
    """Queue an ended job again: the same id, attempts go on, failures count anew. Returns the state it was in.

    Only a failed, cancelled or expired one changes. Raises `JobExists` when another has its unique key by now.
    """
    row = sql.execute("SELECT state, unique_key FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is not None and row[0] in ("failed", "cancelled", "expired"):
        if row[1] is not None and (other := live_with_key(sql, row[1])) is not None:
            raise JobExists(other[0], row[1])
        sql.execute(
            """
            INSERT OR REPLACE INTO attempt (job, number, outcome, started_at, finished_at, reason, error_type, error,
                                            traceback, exit_code, signal, worker_pid)
            SELECT id, attempt, CASE WHEN reason LIKE 'timed out%' THEN 'timed out'
                                     WHEN reason LIKE 'lost:%' OR reason LIKE 'poison:%' THEN 'lost'
                                     ELSE state END,
                   started_at, finished_at, reason, error_type, error, traceback, exit_code, signal, worker_pid
              FROM job
             WHERE id = :id
               AND attempt > 0
               AND started_at IS NOT NULL
            """,
            {"id": job_id},
        )
        sql.execute(
            """
            UPDATE job
               SET state = 'queued', failures = 0, deaths = 0, cancel = NULL, cancel_signal = NULL,
                   cancel_grace = NULL, due_at = NULL, expires_at = NULL, waits_for = NULL,
                   started_at = NULL, finished_at = NULL, reason = NULL, error = NULL, error_type = NULL,
                   traceback = NULL, exit_code = NULL, signal = NULL
             WHERE id = ?
            """,
            (job_id,),
        )
    return None if row is None else str(row[0])
