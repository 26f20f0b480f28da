"""How jobs come into the file, and how workers claim them.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..job import Claimed, Lane, NewJob

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

CLAIMED = """id, claim, attempt, failures, kind, task, target, payload, checksum, timeout, retries, retry_delay, on_lost, policy,
       park, queue, environment, (callback IS NOT NULL OR EXISTS (SELECT 1 FROM listener)) AS is_told,
       scheduled_for"""

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
