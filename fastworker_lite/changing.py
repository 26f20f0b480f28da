"""Hold, release, change and remove jobs, and tell whoever has to know.

Runs in: every process that submits.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from . import retention
from .sockets import Waker
from .store import changing, dependencies, runners, waiters
from .store.connection import Connection

_Found = TypeVar("_Found")


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
