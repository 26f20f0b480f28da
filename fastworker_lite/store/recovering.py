"""What becomes of the jobs of a worker that is gone.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from ..job import POISON_DEATHS, Claimed, Failure, Outcome
from .jobs import CLAIMED
from .settling import keep_attempt, settle

_RUNNING = f"SELECT {CLAIMED}, started_at FROM job WHERE id = ? AND claim = ? AND state = 'running'"

_OF_DEAD_WORKER = """
SELECT id, claim, deaths, on_lost
  FROM job
 WHERE state = 'running'
   AND worker = ?
 ORDER BY priority DESC, id          -- as they were claimed, so as they were begun
"""

_REQUEUE = """
UPDATE job
   SET state = 'queued', attempt = attempt - :unused, deaths = deaths + :blamed, reason = :reason
 WHERE id = :id
   AND claim = :claim
   AND state = 'running'
"""


class Death(NamedTuple):
    """What is known of a worker that is gone."""

    worker: int
    reason: str
    #: `worker died, signal 9`
    last_begun: int
    #: The id of the job it began last, 0 for none.
    is_blamed: bool
    #: Whether that job may have killed it: it was running, and nobody else did.
    is_many_at_once: bool
    #: An async worker had begun every job it held.
    ended: tuple[int, int, Failure | None] | None = None
    #: The job (id, claim) for whose sake the runner killed it, and what that is called; None where it was cancelled.
    is_known: bool = True
    #: Whether it is known what it began: not after a power cut. A job that must not run twice may have begun then.


def recover(sql: sqlite3.Connection, death: Death, now: float) -> list[int]:
    """Queue the jobs of a dead worker again, or end those that must not run twice. Returns their ids."""
    held = sql.execute(_OF_DEAD_WORKER, (death.worker,)).fetchall()
    ids = [row[0] for row in held]
    position = ids.index(death.last_begun) if death.last_begun in ids else -1
    for index, (job_id, claim_number, deaths, on_lost) in enumerate(held):
        is_ended = death.ended is not None and death.ended[:2] == (job_id, claim_number)
        is_begun = death.is_many_at_once or index <= position or (on_lost == "fail" and not death.is_known)
        is_blamed = death.is_blamed and (death.is_many_at_once or index == position)
        if is_ended and death.ended is not None and death.ended[2] is not None:
            _end_killed(sql, job_id, claim_number, death.ended[2], now)
        elif is_begun and on_lost == "fail" and not is_ended:
            _end_lost(sql, job_id, claim_number, f"lost: {death.reason}", now)
        elif is_blamed and deaths + 1 >= POISON_DEATHS:
            _end_lost(sql, job_id, claim_number, f"poison: killed its worker {deaths + 1} times", now)
        else:
            # A coroutine that went down with a worker that was killed for another one's sake has not used a try.
            is_used = is_begun and not (death.is_many_at_once and death.ended is not None and not is_ended)
            _requeue(sql, job_id, claim_number, f"lost: {death.reason}", is_used=is_used, is_blamed=is_blamed, now=now)
    sql.execute("DELETE FROM worker WHERE id = ?", (death.worker,))
    return ids


def _requeue(
    sql: sqlite3.Connection, job_id: int, claim_number: int, reason: str, *, is_used: bool, is_blamed: bool, now: float
) -> None:
    if is_used:
        keep_attempt(sql, job_id, claim_number, "lost", reason, now)
    row = {"id": job_id, "claim": claim_number, "unused": not is_used, "blamed": is_blamed}
    sql.execute(_REQUEUE, row | {"reason": reason if is_used else None})


def _end_lost(sql: sqlite3.Connection, job_id: int, claim_number: int, reason: str, now: float) -> None:
    sql.execute(
        """
        UPDATE job
           SET state = iif(cancel IS NULL, 'failed', 'cancelled'), reason = ifnull(cancel, ?), error = ?, finished_at = ?
         WHERE id = ?
           AND claim = ?
           AND state = 'running'
        """,
        (reason, reason, now, job_id, claim_number),
    )


def _end_killed(sql: sqlite3.Connection, job_id: int, claim_number: int, failure: Failure, now: float) -> None:
    row = sql.execute(_RUNNING, (job_id, claim_number)).fetchone()
    if row is not None:
        job = Claimed._make(row[:-1])
        settle(sql, [Outcome(job=job, started_at=row[-1], finished_at=now, failure=failure)])
