"""Running one job in this process, when no worker is there to do it: under a lease, as a worker would.

Runs in: the command line.
"""

from __future__ import annotations

import sqlite3
import time

from .. import changing, leases, registration
from ..errors import JobNotFound
from ..exchange import Exchange, Report, open_lease
from ..job import Claimed, Job, Lane, State
from ..leases import ProcessIdentity
from ..sockets import Waker, wait_readable
from ..store import dependencies, due, jobs, limits, queries, runners, waiters
from ..store.connection import Connection
from ..watches import FileWatch
from . import abandoned
from .attending import Attendant
from .session import Session, live_runners
from .signals import ENDING, Signals
from .terminals import Shown

#: Seconds between two looks at a job that waits for its next attempt: somebody may cancel it.
LOOK_AGAIN = 0.2


def run_here(session: Session, job_id: int, signals: Signals, shown: Shown) -> Job | None:
    """Run the job until it has ended, retries included. None when somebody else has taken it."""
    with session.open() as connection:  # its own: a connection that minds a lease is of no use without it
        lease = open_lease(connection, leases.new_name("run"))
        me = ProcessIdentity.mine().text()
        worker = connection.write_fast(runners.add_worker, lease.name, None, Lane.SYNC, me, time.time())
        attendant = Attendant(connection, lease, signals, session.config, shown)
        job = _run_until_ended(session, connection, worker, job_id, attendant, signals)
        # Not in a finally: whoever runs next must find a worker that died holding a job, and queue the job again.
        is_done = connection.write_fast(runners.remove_worker, worker)
    if is_done:
        lease.remove()
    return job


def _run_until_ended(
    session: Session, connection: Connection, worker: int, job_id: int, attendant: Attendant, signals: Signals
) -> Job | None:
    waker = Waker()
    exchange = Exchange(connection, worker, Lane.SYNC, None, waker)
    while True:
        claimed = None if signals.count else _claim(connection, waker, job_id, worker)
        if claimed is not None:
            if claimed.on_lost == "fail":
                connection.sync()
            exchange.tell(Report(outcomes=[attendant.run(claimed)]))
        job = _find(connection, job_id)
        if not job.has_ended and signals.count:  # who wanted it to end does not want another attempt
            changing.cancel(connection, waker, job_id)
            job = _find(connection, job_id)
        if job.state is State.SCHEDULED:
            _sleep(signals, (job.due_at or 0.0) - time.time())
        elif job.state is State.BLOCKED and not live_runners(connection):
            _wait_for_room(session, connection, waker, job, signals)
        elif job.has_ended or claimed is None:
            return job if job.has_ended else None


def _claim(connection: Connection, waker: Waker, job_id: int, worker: int) -> Claimed | None:
    """Begin the job if its time has come and is not over, as the leader among runners would see to."""

    def transact(sql: sqlite3.Connection) -> tuple[Claimed | None, list[int], set[str]]:
        now = time.time()
        expired = due.expire(sql, now)
        due.make_due(sql, now)
        limits.release_by_time(sql, now)
        ended = [*expired, *dependencies.resolve(sql, now).cancelled]
        return jobs.claim_one(sql, job_id, worker, now), ended, waiters.take(sql, ended)

    claimed, ended, waiting = connection.write(transact)
    waker.poke_all(waiting)
    if ended:
        registration.tell_soon(connection)
    return claimed


def _wait_for_room(session: Session, connection: Connection, waker: Waker, job: Job, signals: Signals) -> None:
    """Wait until somebody writes into the file, or gives up a place under a limit by dying: nobody else would notice."""
    holders = connection.read(limits.holders, job.id)
    abandoned.recover(session, connection, waker, holders)
    watch = FileWatch(connection.paths.wal)
    try:
        watch.arm()
        if _find(connection, job.id).state is State.BLOCKED:
            wait_readable([signals.fileno(), watch.fileno()], 1.0)
    finally:
        watch.close()
    signals.count += sum(1 for number in signals.take() if number in ENDING)


def _find(connection: Connection, job_id: int) -> Job:
    job = connection.read(queries.get, job_id)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _sleep(signals: Signals, seconds: float) -> None:
    """Wait for the next attempt, or for a signal: there is no command that could have it."""
    wait_readable([signals.fileno()], min(max(0.0, seconds), LOOK_AGAIN))
    signals.count += sum(1 for number in signals.take() if number in ENDING)
