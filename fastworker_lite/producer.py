"""The producer's side without asyncio: how jobs get into the file, and how their ends get out of it.

`Client` ships these functions to a thread, `SyncClient` and the command line call them directly.

Runs in: every process that submits.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .errors import FastWorkerError, JobNotFound, QueueFull
from .job import Job, Lane, NewJob
from .sockets import Waker
from .store import jobs as job_store
from .store import queries, runners, submitting, waiters
from .store.connection import Connection
from .store.queries import Ended
from .store.submitting import Stored

# ---- submitting


class Submission(NamedTuple):
    """Jobs to be stored together, and who wants to be told when they end."""

    jobs: Sequence[NewJob]
    waiter: str | None = None


def submit(connection: Connection, waker: Waker, submissions: Sequence[Submission]) -> list[Stored | FastWorkerError]:
    """Store all *submissions* in one transaction and wake whoever can run them.

    They are durable when this returns. For each there is what was stored, or why nothing of it was: `QueueFull`, `JobExists`
    or `JobNotFound`. Raises what `Connection.write` raises, and `StorageFull`.
    """
    connection.check_room()
    stored, addresses, waiting = connection.write(_insert, submissions, time.time())
    waker.poke_all(waiting)
    _wake(waker, addresses, [job for submission in submissions for job in submission.jobs])
    return stored


def submit_one(connection: Connection, waker: Waker, submission: Submission) -> Stored:
    """As `submit`, for one; raises what kept it from being stored."""
    [stored] = submit(connection, waker, [submission])
    if isinstance(stored, FastWorkerError):
        raise stored
    return stored


def _insert(
    sql: sqlite3.Connection, submissions: Sequence[Submission], now: float
) -> tuple[list[Stored | FastWorkerError], list[runners.Addresses], set[str]]:
    everything = [job for submission in submissions for job in submission.jobs]
    stored: list[Stored | FastWorkerError] = []
    if all(job.is_plain for job in everything):
        with contextlib.suppress(QueueFull):  # for somebody's jobs: then each submission by itself
            stored += _insert_together(sql, submissions, everything, now)
    if not stored:
        stored = [_insert_alone(sql, submission.jobs, now) for submission in submissions]
    waiting: set[str] = set()
    for submission, one in zip(submissions, stored, strict=True):
        if isinstance(one, Stored):
            if submission.waiter is not None:
                waiters.add(sql, one.ids, submission.waiter)
            if one.ended:
                waiting |= waiters.take(sql, one.ended)
    return stored, runners.addresses(sql), waiting


def _insert_together(
    sql: sqlite3.Connection, submissions: Sequence[Submission], everything: Sequence[NewJob], now: float
) -> list[Stored]:
    inserted = job_store.insert(sql, everything, now) if everything else range(0)
    stored, start = [], 0
    for submission in submissions:
        stored.append(Stored(inserted[start : start + len(submission.jobs)]))
        start += len(submission.jobs)
    return stored


def _insert_alone(sql: sqlite3.Connection, jobs: Sequence[NewJob], now: float) -> Stored | FastWorkerError:
    """All of one submission or nothing of it, whatever becomes of the others in the transaction."""
    sql.execute("SAVEPOINT submission")
    try:
        return submitting.insert(sql, jobs, now)
    except FastWorkerError as refused:
        sql.execute("ROLLBACK TO submission")
        return refused
    finally:
        sql.execute("RELEASE submission")


def _wake(waker: Waker, addresses: Iterable[runners.Addresses], submitted: Sequence[NewJob]) -> None:
    due = [job.lane for job in submitted if job.is_due_at_once]
    in_lane = [due.count(Lane.SYNC), due.count(Lane.ASYNC)]
    for where in addresses:
        waker.poke(where.wake, in_lane[Lane.SYNC])
        waker.poke(where.wake_async, in_lane[Lane.ASYNC])
        if not all(
            job.is_plain and job.is_due_at_once for job in submitted
        ):  # it may be due later, or may begin at once, or have ended another
            waker.poke_all(where)


# ---- results


def wait_for(connection: Connection, ids: Sequence[int], address: str) -> list[Ended]:
    """Those of these jobs that have ended; for the others *address* is poked when they do.

    Raises `JobNotFound` for one that does not exist.
    """

    def transact(sql: sqlite3.Connection) -> list[Ended]:
        found = queries.ended(sql, ids)
        waiting = set(ids).difference(one.job.id for one in found)
        for job_id in waiting.difference(queries.existing(sql, waiting)):
            raise JobNotFound(job_id)
        waiters.add(sql, waiting, address)
        return found

    return connection.write_fast(transact)


def parse_id(task_id: object) -> int | None:
    """A job's number from what a caller has; None when it cannot be one."""
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        number = task_id
    elif isinstance(task_id, str) and task_id.isascii() and task_id.isdigit() and len(task_id) < 19:
        number = int(task_id)
    else:
        return None
    return number if 0 < number < 2**63 else None


def job_or_raise(job: Job | None, job_id: object) -> Job:
    if job is None:
        raise JobNotFound(str(job_id))
    return job
