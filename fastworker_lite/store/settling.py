"""What becomes of a job once a worker has run it, or gives it back.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from ..job import Claimed, Failure, Lane, Outcome, Progress
from ..options import Policy, retry_pause
from ..payloads import result_checksum
from . import limits

_SUCCEED = """
UPDATE job
   SET state = iif(cancel IS NULL, 'succeeded', 'cancelled'),   -- a result that comes after the request is not wanted
       result = iif(cancel IS NULL, ?, NULL), result_checksum = iif(cancel IS NULL, ?, NULL), told = ?,
       started_at = ?, finished_at = ?, exit_code = ?, reason = cancel,
       error = NULL, error_type = NULL, traceback = NULL, signal = NULL
 WHERE id = ?
   AND claim = ?                     -- a worker that was given up on must not speak for the job
   AND state = 'running'
"""

_FAIL = """
UPDATE job
   SET state = iif(cancel IS NULL, :state, 'cancelled'),
       reason = ifnull(cancel, :reason),
       finished_at = iif(cancel IS NULL, :ended_at, :finished_at),
       failures = failures + 1, due_at = :due_at, started_at = :started_at,
       error = :error, error_type = :error_type, traceback = :traceback, exit_code = :exit_code, signal = :signal
 WHERE id = :id
   AND claim = :claim
   AND state = 'running'
"""

_KEEP_ATTEMPT = """
INSERT OR REPLACE INTO attempt (job, number, outcome, started_at, finished_at, reason, error_type, error, traceback,
                                exit_code, signal, worker_pid)
SELECT id, attempt, :outcome, :started_at, :finished_at, :reason, :error_type, :error, :traceback, :exit_code, :signal,
       worker_pid
  FROM job
 WHERE id = :id
   AND claim = :claim
   AND state = 'running'
   AND cancel IS NULL                -- else this try is the last one, and stands in the job
"""


def settle(sql: sqlite3.Connection, outcomes: Sequence[Outcome]) -> int:
    """Store how these attempts ended. Returns how many were accepted; the others had been given up on."""
    good = [_succeed_row(outcome) for outcome in outcomes if outcome.failure is None]
    accepted = sql.executemany(_SUCCEED, good).rowcount if good else 0
    for outcome in outcomes:
        if outcome.failure is not None:
            accepted += _settle_failure(sql, outcome, outcome.failure)
    return accepted


def _succeed_row(outcome: Outcome) -> tuple[Any, ...]:
    result, job = outcome.result, outcome.job
    return (
        result,
        None if result is None else result_checksum(result),
        outcome.told,
        outcome.started_at,
        outcome.finished_at,
        outcome.exit_code,
        job.id,
        job.claim,
    )


def _settle_failure(sql: sqlite3.Connection, outcome: Outcome, failure: Failure) -> int:
    state, due_at = _after_failure(outcome, failure)
    row = {
        "id": outcome.job.id,
        "claim": outcome.job.claim,
        "state": state,
        "outcome": "timed out" if failure.is_timeout else "failed",
        "due_at": due_at,
        "started_at": outcome.started_at,
        "finished_at": outcome.finished_at,
        "ended_at": None if state in ("queued", "scheduled") else outcome.finished_at,
        "reason": failure.reason,
        "error": failure.error,
        "error_type": failure.error_type,
        "traceback": failure.traceback,
        "exit_code": outcome.exit_code,
        "signal": outcome.signal,
    }
    if state in ("queued", "scheduled"):
        sql.execute(_KEEP_ATTEMPT, row)
    return sql.execute(_FAIL, row).rowcount


def _after_failure(outcome: Outcome, failure: Failure) -> tuple[str, float | None]:
    """What becomes of the job: its next state, and when it is due if that is later."""
    job, policy, retries = outcome.job, Policy.read(outcome.job.policy), outcome.job.retries or 0
    if failure.is_cancel:
        return "cancelled", None
    if failure.retry_after is not None:  # the task knows best; only a limit that was given ends it
        is_retried, pause = job.failures < retries or not retries, failure.retry_after
    else:
        is_final = failure.is_final or (failure.is_timeout and not policy.retry_on_timeout)
        is_retried = not is_final and job.failures < retries
        pause = retry_pause(job.failures + 1, job.retry_delay, policy, random.random())
    if not is_retried:
        return "failed", None
    return ("scheduled", outcome.finished_at + pause) if pause else ("queued", None)


# ---- giving back

_GIVE_BACK = """
UPDATE job
   SET state = 'queued', attempt = attempt - 1, started_at = NULL
 WHERE id = ?
   AND claim = ?
   AND state = 'running'
"""

_CHANGE_LANE = """
UPDATE job
   SET state = 'queued', attempt = attempt - 1, started_at = NULL, lane = ?
 WHERE id = ?
   AND claim = ?
   AND state = 'running'
"""

_INTERRUPT = """
UPDATE job
   SET state = 'queued', started_at = NULL, reason = 'interrupted: its worker was stopped'
 WHERE id = ?
   AND claim = ?
   AND state = 'running'
"""

_POSTPONE = """
UPDATE job
   SET state = 'scheduled', attempt = attempt - 1, started_at = NULL, due_at = ?
 WHERE id = ?
   AND claim = ?
   AND state = 'running'
"""

_PARK = """
UPDATE job
   SET state = 'blocked', attempt = attempt - 1, started_at = NULL, reason = ?
 WHERE id = ?
   AND claim = ?
   AND state = 'running'
"""


def give_back(sql: sqlite3.Connection, jobs: Iterable[Claimed]) -> None:
    """Queue jobs again that were claimed and not begun: no attempt is used up."""
    for job in jobs:
        sql.execute(_GIVE_BACK, (job.id, job.claim))


def change_lane(sql: sqlite3.Connection, job: Claimed, lane: Lane) -> None:
    """Give a job back for the other kind of worker."""
    sql.execute(_CHANGE_LANE, (lane, job.id, job.claim))


def set_limits(sql: sqlite3.Connection, job: Claimed) -> None:
    """Give a job back that was not begun, to be claimed again under the limits that its task has."""
    sql.execute("UPDATE job SET limits = ? WHERE id = ? AND claim = ?", (job.limits, job.id, job.claim))
    limits.note(sql, job.id, job.limits or "[]")
    sql.execute(_GIVE_BACK, (job.id, job.claim))


def interrupt(sql: sqlite3.Connection, jobs: Iterable[Claimed], now: float) -> None:
    """Queue jobs again that were stopped half-way because their worker was told to end."""
    for job in jobs:
        keep_attempt(sql, job.id, job.claim, "interrupted", "its worker was stopped", now)
        sql.execute(_INTERRUPT, (job.id, job.claim))


def keep_attempt(sql: sqlite3.Connection, job_id: int, claim: int, outcome: str, reason: str, now: float) -> None:
    """Note a try that ended without anything to show for it, before its job is queued again."""
    row = dict.fromkeys(("error_type", "error", "traceback", "exit_code", "signal"))
    started = sql.execute("SELECT started_at FROM job WHERE id = ?", (job_id,)).fetchone()
    sql.execute(
        _KEEP_ATTEMPT,
        row
        | {
            "id": job_id,
            "claim": claim,
            "outcome": outcome,
            "reason": reason,
            "started_at": started[0] if started else None,
            "finished_at": now,
        },
    )


def postpone(sql: sqlite3.Connection, job: Claimed, due_at: float) -> None:
    """Give a job back that was not begun, to be looked at again at *due_at*."""
    sql.execute(_POSTPONE, (due_at, job.id, job.claim))


def park(sql: sqlite3.Connection, job: Claimed, reason: str) -> None:
    """Have a job wait until a worker that knows its task appears."""
    sql.execute(_PARK, (reason, job.id, job.claim))


def release_parked(sql: sqlite3.Connection, known: str) -> int:
    """Queue the parked jobs whose task is in *known* (a JSON array), or is importable and may now be. Returns how many."""
    return sql.execute(
        """
        UPDATE job
           SET state = 'queued', reason = NULL
         WHERE state = 'blocked'
           AND reason LIKE 'no worker knows task %'
           AND (task IN (SELECT value FROM json_each(?)) OR target IS NOT NULL OR task LIKE '%:%')
        """,
        (known,),
    ).rowcount


def keep_from_rerun(sql: sqlite3.Connection, job: Claimed) -> None:
    """Note that this job must not be started again, as its task says and its submitter did not know."""
    sql.execute("UPDATE job SET on_lost = 'fail' WHERE id = ? AND claim = ?", (job.id, job.claim))


def report_progress(sql: sqlite3.Connection, job_id: int, so_far: Progress) -> None:
    """Note how far a job is."""
    sql.execute(
        "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
        (job_id, so_far.done, so_far.total, so_far.note, so_far.at),
    )
