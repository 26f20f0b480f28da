"""How jobs come into the file, and how workers claim them.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..errors import QueueFull
from ..job import Claimed, Lane, NewJob
from ..options import JobOptions
from . import limits

DEFAULT_QUEUE = "default"
#: What stands in `waits_for` of a job that waits for others, or for a person. (Else it is the key of a limit.)
WAITS_FOR_JOBS, HELD = "jobs", "hold"

# ---- submitting

#: What every job has; and what few have. A statement that names the latter costs a simple job a third more.
_COMMON = "state, queue, lane, priority, created_at, kind, task, park, checksum, target, payload"
_RARE_OPTIONS = (
    "due_at, expires_at, name, tags, timeout, retries, retry_delay, on_lost, policy, callback, callback_data, unique_key, "
    "debounce, idempotency_key"
)
_RARE_OWN = "scheduled_for, waits_for, reason, limits, inputs, environment"


def _insert_into(columns: str) -> str:
    return f"INSERT INTO job ({columns}) VALUES ({', '.join('?' for _ in columns.split(','))})"


_INSERT_SIMPLE = _insert_into(_COMMON)
_INSERT = _insert_into(f"{_COMMON}, {_RARE_OPTIONS}, {_RARE_OWN}")
_NO_OPTIONS = (None,) * len(_RARE_OPTIONS.split(","))


def insert(sql: sqlite3.Connection, jobs: Sequence[NewJob], now: float) -> range:
    """Store *jobs* in their order and return their ids. Raises `QueueFull` before anything is stored."""
    _make_queues(sql, jobs)
    environments = {data: _environment(sql, data) for data in {job.environment for job in jobs} if data is not None}
    # Of many jobs most have the same options: those are read once.
    options = {
        id(job.options): _rare_options(job.options, now) for job in {id(job.options): job for job in jobs}.values()
    }
    if all(value == _NO_OPTIONS for value in options.values()) and not any(map(_has_rare_own, jobs)):
        statement, rows = _INSERT_SIMPLE, [_common(job, now) for job in jobs]
    else:
        statement = _INSERT
        rows = [_common(job, now) + options[id(job.options)] + _rare_own(job, environments) for job in jobs]
    if len(rows) == 1:
        last = sql.execute(statement, rows[0]).lastrowid
    else:
        sql.executemany(statement, rows)
        last = sql.execute("SELECT last_insert_rowid()").fetchone()[0]
    assert last is not None
    ids = range(last - len(jobs) + 1, last + 1)
    for job_id, job in zip(ids, jobs, strict=True):
        if job.limits is not None:
            limits.note(sql, job_id, job.limits)
    return ids


def _make_queues(sql: sqlite3.Connection, jobs: Sequence[NewJob]) -> None:
    """Have the queues of these jobs exist, and see to it that they may hold them."""
    for name in {job.options.queue or DEFAULT_QUEUE for job in jobs}:
        row = sql.execute("SELECT max_length FROM queue WHERE name = ?", (name,)).fetchone()
        if row is None:
            sql.execute("INSERT INTO queue (name) VALUES (?)", (name,))
        elif row[0] is not None:
            wanted = sum((job.options.queue or DEFAULT_QUEUE) == name for job in jobs)
            if limits.count_queued(sql, name, row[0]) + wanted > row[0]:
                raise QueueFull(name, row[0])


def _common(job: NewJob, now: float) -> tuple[Any, ...]:
    options = job.options
    state = "queued" if options.due_at(now) is None else "scheduled"
    return (
        "blocked" if job.parents or options.hold else state,
        options.queue or DEFAULT_QUEUE,
        job.lane,
        options.priority or 0,
        now,
        job.kind,
        job.task,
        job.is_parked_if_unknown,
        job.checksum,
        job.target,
        job.payload,
    )


def _rare_options(options: JobOptions, now: float) -> tuple[Any, ...]:
    return (
        options.due_at(now),
        options.expires_at(now),
        options.name,
        options.tags,
        options.timeout,
        options.retries,
        options.retry_delay,
        options.on_lost,
        options.policy(),
        options.callback,
        options.callback_data,
        options.unique,
        options.debounce,
        options.idempotency_key,
    )


def _has_rare_own(job: NewJob) -> bool:
    if job.parents or job.inputs or job.options.hold:
        return True
    return not (job.environment is None and job.limits is None and job.scheduled_for is None)


def _rare_own(job: NewJob, environments: dict[bytes, int]) -> tuple[Any, ...]:
    return (
        job.scheduled_for,
        *_awaited(job),
        job.limits,
        _inputs(job) if job.inputs else None,
        environments.get(job.environment) if job.environment is not None else None,
    )


def _awaited(job: NewJob) -> tuple[str | None, str | None]:
    """What a blocked job waits for, and the same for a person."""
    if job.options.hold:
        return HELD, "held"
    return (WAITS_FOR_JOBS, after([parent.number for parent in job.parents])) if job.parents else (None, None)


def after(parents: Sequence[int]) -> str:
    """Why a job waits that waits for these."""
    more = f" and {len(parents) - 5} more" if len(parents) > 5 else ""
    return f"after {', '.join(map(str, parents[:5]))}{more}"


def _inputs(job: NewJob) -> str:
    ids = [parent.number for parent in job.inputs]
    return json.dumps(ids[0] if job.is_one_input else ids)


def _environment(sql: sqlite3.Connection, data: bytes) -> int:
    try:
        from _blake2 import blake2b  # hashlib has the same one, and loads OpenSSL with it: 3 ms of each `fwl submit`
    except ImportError:
        from hashlib import blake2b

    digest = blake2b(data, digest_size=16).digest()
    sql.execute("INSERT OR IGNORE INTO environment (digest, vars) VALUES (?, ?)", (digest, data))
    row = sql.execute("SELECT id FROM environment WHERE digest = ?", (digest,)).fetchone()
    return int(row[0])


def environment(sql: sqlite3.Connection, environment_id: int) -> bytes:
    """The variables a command was submitted with."""
    row = sql.execute("SELECT vars FROM environment WHERE id = ?", (environment_id,)).fetchone()
    return bytes(row[0])


def environment_of(sql: sqlite3.Connection, job_id: int) -> bytes | None:
    """The variables that this job was submitted with; None for those of its worker."""
    row = sql.execute(
        "SELECT vars FROM job JOIN environment ON environment.id = job.environment WHERE job.id = ?", (job_id,)
    ).fetchone()
    return None if row is None else bytes(row[0])


# ---- claiming

CLAIMED = """id, claim, attempt, failures, kind, task, target, payload, checksum, timeout, retries, retry_delay, on_lost, policy,
       park, queue, environment, (callback IS NOT NULL OR EXISTS (SELECT 1 FROM listener)) AS is_told,
       limits, inputs, scheduled_for"""

_NEXT = f"""
SELECT {CLAIMED}
  FROM job
 WHERE state = 'queued'
   AND queue = :queue                -- named, so that the index is entered at the right place
   AND lane = :lane
   AND (expires_at IS NULL OR expires_at > :now)
 ORDER BY priority DESC, id
 LIMIT :limit
"""

_NEXT_KNOWN = f"""
SELECT {CLAIMED}
  FROM job
 WHERE state = 'queued'
   AND queue = :queue
   AND lane = :lane
   AND (expires_at IS NULL OR expires_at > :now)
   AND task NOT IN (SELECT value FROM json_each(:unknown))   -- left for a worker that knows them
 ORDER BY priority DESC, id
 LIMIT :limit
"""

_NEXT_ONE = f"SELECT {CLAIMED} FROM job WHERE id = ? AND state = 'queued' AND (expires_at IS NULL OR expires_at > ?)"

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


def claim(sql: sqlite3.Connection, wanted: Wanted, now: float) -> list[Claimed] | None:
    """Mark the next jobs as running by this process and return them in the order of their turn.

    None when so many have been put aside for their limits that others should have the gate: there may be more to claim.
    """
    aside = 0
    for queue in limits.open_queues(sql, wanted.queues, now):
        if queue.is_limited and not limits.has_room(sql, queue, now):
            continue
        most = 1 if queue.is_limited else wanted.limit
        while found := _next(sql, queue.name, wanted, most, now):
            admitted = limits.admit(sql, found, now)
            if admitted:
                if queue.is_limited:
                    limits.begin_of(sql, queue, now)
                claimed = _mark_running(sql, wanted.pick(admitted), wanted.worker, now)
                return [job._replace(limits=job.limits or "[]") for job in claimed] if queue.is_limited else claimed
            aside += len(found)
            if aside >= limits.MOST_ASIDE:
                return None
    return []


def _next(sql: sqlite3.Connection, queue: str, wanted: Wanted, most: int, now: float) -> list[Claimed]:
    rows = sql.execute(
        _NEXT if wanted.unknown is None else _NEXT_KNOWN,
        {"queue": queue, "lane": wanted.lane, "limit": most, "unknown": wanted.unknown, "now": now},
    )
    return [Claimed._make(row) for row in rows.fetchall()]


def claim_one(sql: sqlite3.Connection, job_id: int, worker: int, now: float) -> Claimed | None:
    """Mark this one job as running, or return None when it is not queued, or over a limit."""
    row = sql.execute(_NEXT_ONE, (job_id, now)).fetchone()
    admitted = limits.admit(sql, [Claimed._make(row)], now) if row else []
    return _mark_running(sql, admitted, worker, now)[0] if admitted else None


def _mark_running(sql: sqlite3.Connection, jobs: list[Claimed], worker: int, now: float) -> list[Claimed]:
    sql.executemany(_CLAIM, [(worker, os.getpid(), now, job.id) for job in jobs])
    return [job._replace(claim=job.claim + 1, attempt=job.attempt + 1) for job in jobs]
