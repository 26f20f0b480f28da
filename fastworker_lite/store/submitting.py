"""How jobs come into the file for which something has to be looked up first: a key, a parent, room in the queue.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process that submits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import JobExists
from ..job import NewJob, Parent
from . import cancelling, dependencies, jobs

#: Seconds for which an idempotency key leads to the job that was submitted with it.
IDEMPOTENCY_WINDOW = 86_400.0


class Stored(NamedTuple):
    """The jobs of one submission."""

    ids: Sequence[int]
    existing: frozenset[int] = frozenset()
    #: Those that were there before.
    ended: Sequence[int] = ()
    #: Other jobs that ended for their sake, or for the sake of a parent that had failed.


def insert(sql: sqlite3.Connection, submitted: Sequence[NewJob], now: float) -> Stored:
    """Store these jobs in their order, but for those that are there already; see `JobOptions.unique` and `idempotency_key`.

    Raises `QueueFull`, `JobExists` and `JobNotFound`; the caller undoes what was stored until then.
    """
    ids: list[int] = []
    existing: set[int] = set()
    ended: list[int] = []
    for job in submitted:
        known = _same(sql, job, ended, now)
        if known is None:
            complete = _with_parents(sql, job, ids)
            ids += jobs.insert(sql, [complete], now)
            dependencies.add_edges(sql, ids[-1], complete.parents)
        else:
            ids.append(known)
            existing.add(known)
    ended += dependencies.resolve(sql, now).cancelled
    return Stored(ids, frozenset(existing), ended)


def _with_parents(sql: sqlite3.Connection, job: NewJob, ids: Sequence[int]) -> NewJob:
    """The job with ids where it names others of its submission, and after the one whose place it takes."""
    if not job.parents and not job.inputs and job.options.on_conflict != "replace":
        return job
    parents = [_outside(parent, ids) for parent in job.parents]
    if job.options.unique is not None:
        parents += [Parent(number, "any") for number in _on_their_way_out(sql, job)]
    once = {parent.number: parent for parent in parents}
    return job._replace(parents=tuple(once.values()), inputs=tuple(_outside(parent, ids) for parent in job.inputs))


def _outside(parent: Parent, ids: Sequence[int]) -> Parent:
    return parent._replace(number=ids[parent.number], is_inside=False) if parent.is_inside else parent


def _on_their_way_out(sql: sqlite3.Connection, job: NewJob) -> list[int]:
    """Jobs with the same key that run and are to be cancelled: they never run beside their successor."""
    rows = sql.execute(
        """
        SELECT id
          FROM job INDEXED BY job_cancel
         WHERE state = 'running'
           AND cancel IS NOT NULL
           AND unique_key = ?
        """,
        (job.options.unique,),
    )
    return [row[0] for row in rows]


# ---- keys


def _same(sql: sqlite3.Connection, job: NewJob, ended: list[int], now: float) -> int | None:
    """The job that is to be returned instead of storing this one. A job whose place it takes is put into *ended*."""
    if job.options.idempotency_key is not None:
        row = sql.execute(
            "SELECT max(id) FROM job WHERE idempotency_key = ? AND created_at > ?",
            (job.options.idempotency_key, now - IDEMPOTENCY_WINDOW),
        ).fetchone()
        if row[0] is not None:
            return int(row[0])
    return None if job.options.unique is None else _conflict(sql, job, job.options.unique, ended, now)


def _conflict(sql: sqlite3.Connection, job: NewJob, key: str, ended: list[int], now: float) -> int | None:
    """What becomes of a job with the same key that waits or runs: its id when it stays, None when there is room."""
    found = cancelling.live_with_key(sql, key)
    if found is None:
        return None
    job_id, state = found
    if job.options.debounce is not None and state != "running":
        _take_over(sql, job_id, job, now)
        return job_id
    if job.options.on_conflict == "fail":
        raise JobExists(job_id, key)
    if job.options.on_conflict != "replace":
        return job_id
    cancelling.cancel(sql, job_id, now, reason="replaced")
    ended.append(job_id)
    return None


def _take_over(sql: sqlite3.Connection, job_id: int, job: NewJob, now: float) -> None:
    """The latest call wins: the job that waits becomes this one, and its start moves back."""
    sql.execute(
        """
        UPDATE job
           SET state = iif(state = 'queued', 'scheduled', state), due_at = :due_at, debounce = :debounce,
               payload = :payload, target = :target, checksum = :checksum
         WHERE id = :id
        """,
        {
            "id": job_id,
            "due_at": job.options.due_at(now),
            "debounce": job.options.debounce,
            "payload": job.payload,
            "target": job.target,
            "checksum": job.checksum,
        },
    )
