"""The producer's side without asyncio: what a call becomes, and how it gets into the file and its result out of it.

`Client` ships these functions to a thread, `SyncClient` and the command line call them directly.

Runs in: every process that submits.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .errors import (
    ConfigError,
    FastWorkerError,
    JobNotFound,
    QueueFull,
)
from .job import Job, Lane, NewJob, State
from .options import QUEUE_RULES, parse_queue
from .sockets import Waker
from .store import cancelling, dependencies, listeners, queries, queues, runners, submitting, waiters
from .store import jobs as job_store
from .store.connection import Connection
from .store.listeners import ENDS
from .store.queries import Ended
from .store.submitting import Stored

if TYPE_CHECKING:
    pass

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


class _Cancelled(NamedTuple):
    found: str | None
    waiting: set[str]
    runners: list[runners.Addresses]
    process: str | None
    #: Who runs it without a runner, see `cancelling.lone_process`.


def cancel(
    connection: Connection,
    waker: Waker,
    job_id: int,
    *,
    grace: float | None = None,
    first_signal: int | None = None,
) -> str:
    """Cancel a job that has not begun, or ask for the end of one that runs. Returns the state it was found in.

    A running job gets *first_signal* (TERM), and KILL *grace* seconds later; None leaves that to its `kill_grace`.
    Raises `JobNotFound`.
    """

    def transact(sql: sqlite3.Connection) -> _Cancelled:
        cancelling.set_manner(sql, job_id, grace, first_signal)
        now = time.time()
        found = cancelling.cancel(sql, job_id, now)
        waiting = waiters.take(sql, [job_id, *dependencies.resolve(sql, now).cancelled])
        return _Cancelled(found, waiting, runners.addresses(sql), cancelling.lone_process(sql, job_id))

    cancelled = connection.write(transact)
    waker.poke_all(cancelled.waiting)
    for where in cancelled.runners:
        if cancelled.found == State.RUNNING:
            waker.poke(where.wake_async)
            waker.poke(where.control)
        else:
            waker.poke_all(where)  # it is over: somebody may listen, or have waited for it
    if cancelled.process is not None:
        _tell_to_end(cancelled.process)
    if cancelled.found is None:
        raise JobNotFound(job_id)
    return cancelled.found


def _tell_to_end(process: str) -> None:
    """A process that runs its job itself looks into the file when it is told to end, and does as the cancel says."""
    import signal

    from .leases import ProcessIdentity  # and with it subprocess, which no other submitter needs

    ProcessIdentity.parse(process).signal(signal.SIGTERM)


def retry(connection: Connection, waker: Waker, job_id: int) -> str:
    """Queue a failed, cancelled or expired job again, under its own id. Returns the state it was found in.

    Raises `JobNotFound`.
    """

    def transact(sql: sqlite3.Connection) -> tuple[str | None, list[runners.Addresses]]:
        return cancelling.retry(sql, job_id), runners.addresses(sql)

    found, everybody = connection.write(transact)
    if found is None:
        raise JobNotFound(job_id)
    for where in everybody:
        waker.poke(where.wake)
        waker.poke(where.wake_async)
    return found


#: The states that a job leaves when it is cancelled, at once; and those in which it can be tried again.
UNBEGUN = frozenset({"queued", "scheduled", "blocked"})
RETRIED = frozenset({"failed", "cancelled", "expired"})


# ---- queues


def queue_settings(given: Mapping[str, object]) -> dict[str, int | str | None]:
    """The settings of a queue, checked: `workers`, `max_length`, `rate`; None takes one away. Raises `ConfigError`."""
    unknown = given.keys() - QUEUE_RULES.keys()
    if unknown:
        raise ConfigError(f'a queue has no setting "{min(unknown)}"; it may have {", ".join(QUEUE_RULES)}')
    return {name: None if value is None else QUEUE_RULES[name](name, value) for name, value in given.items()}


def change_queue(connection: Connection, waker: Waker, name: str, settings: Mapping[str, int | str | None]) -> None:
    """Give a queue these settings, and have every runner look at it anew. Makes it if there is none of this name."""

    def transact(sql: sqlite3.Connection) -> list[runners.Addresses]:
        queues.change(sql, name, settings)
        return runners.addresses(sql)

    for where in connection.write(transact):
        waker.poke_all((where.wake, where.wake_async), times=11)
        waker.poke(where.control)


# ---- listeners


class NewListener(NamedTuple):
    """A registration, checked."""

    name: str
    address: str
    task: str
    queue: str | None
    ends: tuple[str, ...]
    lease: str | None = None


def new_listener(address: str, task: str, queue: str | None, on: Sequence[str], name: str | None) -> NewListener:
    """Raises `ConfigError` for what cannot be."""
    from .streams import callback_path

    path = callback_path(address)
    ends = (on,) if isinstance(on, str) else tuple(on)
    if not ends or not set(ends) <= set(ENDS):
        raise ConfigError(f"on must be some of {', '.join(ENDS)}, got {on!r:.80}")
    for what, text in (("task", task), ("name", name or path)):
        if not isinstance(text, str) or not text or "\0" in text or len(text) > 500:
            raise ConfigError(f"{what} must be a text of 1 to 500 characters, got {text!r:.80}")
    return NewListener(name or path, path, task, None if queue is None else parse_queue(queue), ends)


def tell_soon(connection: Connection) -> None:
    """Have the runner that leads look at what is to be told."""
    waker = Waker()
    for where in connection.read(runners.addresses):
        waker.poke(where.outbox)
    waker.close()


def register_listener(connection: Connection, listener: NewListener) -> str:
    """Store a registration, and return its name."""
    connection.write(listeners.register, *listener, time.time())
    return listener.name


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
