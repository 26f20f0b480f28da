"""Cancel, retry, hold, release, change and remove jobs, and tell whoever has to know.

Runs in: every process that submits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from . import retention
from .errors import JobNotFound
from .job import State
from .sockets import Waker
from .store import cancelling, changing, dependencies, runners, waiters
from .store.connection import Connection

_Found = TypeVar("_Found")


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


def hold(connection: Connection, waker: Waker, job_id: int) -> str:
    """Have a job that has not begun wait for `release`. Returns the state it was found in. Raises `JobNotFound`."""
    return _change(connection, waker, lambda sql, _: changing.hold(sql, job_id))


def release(connection: Connection, waker: Waker, job_id: int) -> str:
    """Let a held job go on. Returns the state it was found in. Raises `JobNotFound`."""
    return _change(connection, waker, lambda sql, now: changing.release(sql, job_id, now))


def change(connection: Connection, waker: Waker, job_id: int, changes: Mapping[str, object]) -> str:
    """Give a job that has not begun these values, by column; see `changing.change` of the store. Raises `JobNotFound`."""
    return _change(connection, waker, lambda sql, now: changing.change(sql, job_id, changes, now))


def _change(connection: Connection, waker: Waker, step: Callable[[sqlite3.Connection, float], _Found]) -> _Found:
    """Do it in one transaction with all that follows from it, and have everybody look at the queues anew."""

    def transact(sql: sqlite3.Connection) -> tuple[_Found, set[str], list[runners.Addresses]]:
        now = time.time()
        found = step(sql, now)
        ended = dependencies.resolve(sql, now).cancelled
        return found, waiters.take(sql, ended) if ended else set(), runners.addresses(sql)

    found, waiting, everybody = connection.write(transact)
    waker.poke_all(waiting)
    for where in everybody:
        waker.poke_all(where)
    return found


class Removal(NamedTuple):
    """What became of a job that was to be removed."""

    found: str
    #: The state it was in.
    is_gone: bool
    log_bytes: int = 0


def remove(connection: Connection, job_id: int) -> Removal:
    """Remove a job that has ended, with its logs. Raises `JobNotFound`.

    It stays while it is the newest, because ids are not given twice, and while somebody is still to be told of its end.
    """
    found, removed = connection.write(changing.remove, job_id)
    if removed is None:
        return Removal(found, False)
    return Removal(found, True, retention.remove_logs(connection, [removed]))
