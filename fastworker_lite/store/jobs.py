"""The life of a job in SQL: stored, claimed, settled, given back, recovered.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from ..job import POISON_DEATHS, Claimed, Failure, Lane, NewJob, Outcome, Policy, Progress, retry_pause
from ..serialization import result_checksum

DEFAULT_QUEUE = "default"

# ---- submitting

_INSERT = """
INSERT INTO job (state, queue, lane, priority, created_at, due_at, expires_at, kind, task, name, timeout, retries,
                 retry_delay, on_lost, policy, callback, callback_data, park, environment, checksum, target, payload)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def insert(sql: sqlite3.Connection, jobs: Sequence[NewJob], now: float) -> range:
    """Store *jobs* in their order and return their ids."""
    environments = {data: _environment(sql, data) for data in {job.environment for job in jobs} if data is not None}
    sql.executemany(
        "INSERT OR IGNORE INTO queue (name) VALUES (?)",
        [(name,) for name in {job.options.queue or DEFAULT_QUEUE for job in jobs}],
    )
    if len(jobs) == 1:
        last = sql.execute(_INSERT, _row(jobs[0], now, environments)).lastrowid
    else:
        sql.executemany(_INSERT, [_row(job, now, environments) for job in jobs])
        last = sql.execute("SELECT last_insert_rowid()").fetchone()[0]
    assert last is not None
    return range(last - len(jobs) + 1, last + 1)


def _row(job: NewJob, now: float, environments: dict[bytes, int]) -> tuple[Any, ...]:
    options = job.options
    due_at = options.due_at(now)
    return (
        "queued" if due_at is None else "scheduled",
        options.queue or DEFAULT_QUEUE,
        job.lane,
        options.priority or 0,
        now,
        due_at,
        options.expires_at(now),
        job.kind,
        job.task,
        options.name,
        options.timeout,
        options.retries,
        options.retry_delay,
        options.on_lost,
        options.policy(),
        options.callback,
        options.callback_data,
        job.is_parked_if_unknown,
        environments.get(job.environment) if job.environment is not None else None,
        job.checksum,
        job.target,
        job.payload,
    )


def _environment(sql: sqlite3.Connection, data: bytes) -> int:
    from hashlib import blake2b  # commands only: not worth its import for everybody

    digest = blake2b(data, digest_size=16).digest()
    sql.execute("INSERT OR IGNORE INTO environment (digest, vars) VALUES (?, ?)", (digest, data))
    row = sql.execute("SELECT id FROM environment WHERE digest = ?", (digest,)).fetchone()
    return int(row[0])


def environment(sql: sqlite3.Connection, environment_id: int) -> bytes:
    """The variables a command was submitted with."""
    row = sql.execute("SELECT vars FROM environment WHERE id = ?", (environment_id,)).fetchone()
    return bytes(row[0])


# ---- claiming

_CLAIMED = """id, claim, attempt, failures, kind, task, target, payload, checksum, timeout, retries, retry_delay, on_lost, policy,
       park, queue, environment, (callback IS NOT NULL OR EXISTS (SELECT 1 FROM listener)) AS is_told"""

_NEXT = f"""
SELECT {_CLAIMED}
  FROM job
 WHERE state = 'queued'
   AND queue = :queue                -- named, so that the index is entered at the right place
   AND lane = :lane
   AND (expires_at IS NULL OR expires_at > :now)
 ORDER BY priority DESC, id
 LIMIT :limit
"""

_NEXT_KNOWN = f"""
SELECT {_CLAIMED}
  FROM job
 WHERE state = 'queued'
   AND queue = :queue
   AND lane = :lane
   AND (expires_at IS NULL OR expires_at > :now)
   AND task NOT IN (SELECT value FROM json_each(:unknown))   -- left for a worker that knows them
 ORDER BY priority DESC, id
 LIMIT :limit
"""

_NEXT_ONE = f"SELECT {_CLAIMED} FROM job WHERE id = ? AND state = 'queued' AND (expires_at IS NULL OR expires_at > ?)"
_RUNNING = f"SELECT {_CLAIMED}, started_at FROM job WHERE id = ? AND claim = ? AND state = 'running'"

_CLAIM = """
UPDATE job
   SET state = 'running', claim = claim + 1, attempt = attempt + 1, worker = ?, worker_pid = ?, started_at = ?,
       reason = NULL, error = NULL, error_type = NULL, traceback = NULL, exit_code = NULL, signal = NULL   -- see attempt
 WHERE id = ?
"""

#: Whether a worker of this lane would find anything to claim.
PROBE = """
SELECT 1
  FROM queue CROSS JOIN job
 WHERE NOT queue.paused
   AND job.state = 'queued'
   AND job.queue = queue.name
   AND job.lane = :lane
 LIMIT 1
"""


class Wanted(NamedTuple):
    """What a worker asks for."""

    worker: int
    lane: Lane
    limit: int
    pick: Callable[[list[Claimed]], list[Claimed]]
    #: Takes as many from the front as it wants to run before it comes back.
    unknown: str | None = None
    #: A JSON array of task names to leave alone.
    queues: tuple[str, ...] | None = None
    #: The queues to serve, None for all.


def claim(sql: sqlite3.Connection, wanted: Wanted, now: float) -> list[Claimed]:
    """Mark the next jobs as running by this process and return them in the order of their turn."""
    for queue in _open_queues(sql, wanted.queues, now):
        found = sql.execute(
            _NEXT if wanted.unknown is None else _NEXT_KNOWN,
            {"queue": queue, "lane": wanted.lane, "limit": wanted.limit, "unknown": wanted.unknown, "now": now},
        ).fetchall()
        if found:
            picked = wanted.pick([Claimed._make(row) for row in found])
            return _mark_running(sql, picked, wanted.worker, now)
    return []


def claim_one(sql: sqlite3.Connection, job_id: int, worker: int, now: float) -> Claimed | None:
    """Mark this one job as running, or return None when it is not queued."""
    row = sql.execute(_NEXT_ONE, (job_id, now)).fetchone()
    return _mark_running(sql, [Claimed._make(row)], worker, now)[0] if row else None


def _open_queues(sql: sqlite3.Connection, served: tuple[str, ...] | None, now: float) -> list[str]:
    names = [row[0] for row in sql.execute("SELECT name FROM queue WHERE NOT paused ORDER BY name")]
    if served is not None:
        names = [name for name in names if name in served]
    if len(names) > 1:  # none may starve behind another: each is first in turn
        first = int(now * 1000) % len(names)
        names = names[first:] + names[:first]
    return names


def _mark_running(sql: sqlite3.Connection, jobs: list[Claimed], worker: int, now: float) -> list[Claimed]:
    sql.executemany(_CLAIM, [(worker, os.getpid(), now, job.id) for job in jobs])
    return [job._replace(claim=job.claim + 1, attempt=job.attempt + 1) for job in jobs]


# ---- settling

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


def interrupt(sql: sqlite3.Connection, jobs: Iterable[Claimed], now: float) -> None:
    """Queue jobs again that were stopped half-way because their worker was told to end."""
    for job in jobs:
        _keep_attempt(sql, job.id, job.claim, "interrupted", "its worker was stopped", now)
        sql.execute(_INTERRUPT, (job.id, job.claim))


def _keep_attempt(sql: sqlite3.Connection, job_id: int, claim: int, outcome: str, reason: str, now: float) -> None:
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


# ---- recovering

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


def recover(sql: sqlite3.Connection, death: Death, now: float) -> list[int]:
    """Queue the jobs of a dead worker again, or end those that must not run twice. Returns their ids."""
    held = sql.execute(_OF_DEAD_WORKER, (death.worker,)).fetchall()
    ids = [row[0] for row in held]
    position = ids.index(death.last_begun) if death.last_begun in ids else -1
    for index, (job_id, claim_number, deaths, on_lost) in enumerate(held):
        is_ended = death.ended is not None and death.ended[:2] == (job_id, claim_number)
        is_begun = death.is_many_at_once or index <= position
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
        _keep_attempt(sql, job_id, claim_number, "lost", reason, now)
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


# ---- time


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
    """When the next scheduled job is due, or the next job expires."""
    due = sql.execute("SELECT min(due_at) FROM job WHERE state = 'scheduled'").fetchone()[0]
    expires = sql.execute(
        "SELECT min(expires_at) FROM job WHERE expires_at IS NOT NULL AND state IN ('queued', 'scheduled', 'blocked')"
    ).fetchone()[0]
    return min((moment for moment in (due, expires) if moment is not None), default=None)


# ---- at a person's word


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


def keep_from_rerun(sql: sqlite3.Connection, job: Claimed) -> None:
    """Note that this job must not be started again, as its task says and its submitter did not know."""
    sql.execute("UPDATE job SET on_lost = 'fail' WHERE id = ? AND claim = ?", (job.id, job.claim))


def retry(sql: sqlite3.Connection, job_id: int) -> str | None:
    """Queue an ended job again: the same id, attempts go on, failures count anew. Returns the state it was in.

    Only a failed, cancelled or expired one changes.
    """
    row = sql.execute("SELECT state FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is not None and row[0] in ("failed", "cancelled", "expired"):
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
                   cancel_grace = NULL, due_at = NULL, expires_at = NULL,
                   started_at = NULL, finished_at = NULL, reason = NULL, error = NULL, error_type = NULL,
                   traceback = NULL, exit_code = NULL, signal = NULL
             WHERE id = ?
            """,
            (job_id,),
        )
    return None if row is None else str(row[0])


def report_progress(sql: sqlite3.Connection, job_id: int, so_far: Progress) -> None:
    """Note how far a job is."""
    sql.execute(
        "INSERT OR REPLACE INTO progress VALUES (?, ?, ?, ?, ?)",
        (job_id, so_far.done, so_far.total, so_far.note, so_far.at),
    )
