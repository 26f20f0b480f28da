"""What becomes of the jobs of workers that are gone, and of rows whose processes are.

Runs in: the runner's process, on the thread of the scheduler's connection.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable

from . import leases
from .job import Failure, Lane
from .leases import Note, ProcessIdentity
from .output import give_to_job
from .paths import SidePaths
from .processes import WorkerProcess
from .sockets import Waker
from .store import dependencies, events, listeners, queries, recovering, runners, waiters
from .store.connection import Connection
from .store.recovering import Death
from .store.runners import WorkerRow

log = logging.getLogger("fastworker_lite")


class Recovery:
    """Puts right what processes leave behind when they end. Each step is safe to take twice."""

    def __init__(self, paths: SidePaths, waker: Waker, max_log: int, clock: Callable[[], float]) -> None:
        self._paths = paths
        self._waker = waker
        self._max_log = max_log
        self._clock = clock

    def recover_own(self, connection: Connection, worker: WorkerProcess, note: Note, code: int | None) -> bool:
        """Queue again what a worker of this runner held; it is reaped. False when it died before it was ready."""
        row = connection.read(runners.worker_by_lease, worker.setup.lease)
        if row is None:
            return code == 0
        how = "was stopped" if worker.is_stopping else "died"
        reason = f"worker {how}, " + (f"signal {-code}" if code is not None and code < 0 else f"exit {code}")
        leases.end_remains(worker.pid, note)  # its functions' children got the signal before it was reaped
        killed = worker.killed_for
        ended = None if killed is None else (killed.job, killed.claim, killed.failure)
        is_blamed = killed is None and not worker.is_stopping
        self._give_output(connection, worker.setup.lease, note)
        self._recover(connection, _death(row, note, reason, is_blamed=is_blamed, ended=ended))
        return True

    def recover_foreign(self, connection: Connection, own: set[str]) -> None:
        """Queue again what workers held whose lease is free, and forget runners whose lease is. *own* are left alone."""
        dead = [row for row in connection.read(runners.runners) if leases.is_free(self._paths.lease(row.lease))]
        orphaned = {row.id for row in dead}
        for row in connection.read(runners.workers):
            path = self._paths.lease(row.lease)
            if row.lease not in own and (leases.is_free(path) or row.runner in orphaned):
                self._recover_orphan(connection, row, path)
        for runner in dead:
            connection.write_fast(runners.remove_runner, runner.id)
            leases.discard(self._paths.lease(runner.lease))

    def _recover_orphan(self, connection: Connection, row: WorkerRow, path: str) -> None:
        process = ProcessIdentity.parse(row.process)
        if not process.kill():
            return  # not yet gone: its jobs stay its own
        # A power cut takes the note, or leaves an old one.
        is_known = process.is_of_this_boot() and os.path.exists(path)
        note = leases.read_note(path) if is_known else Note()
        if process.is_of_these_numbers():  # else the group's number may be another's by now
            leases.end_remains(process.pid, note)  # the other Python that its functions ran in ends a moment after it
        self._give_output(connection, row.lease, note)
        death = _death(row, note, "worker died with its runner", is_blamed=False)
        self._recover(connection, death._replace(is_known=is_known))
        leases.discard(path)

    def forget_the_dead(self, connection: Connection, lives: list[tuple[str, str]]) -> None:
        """Forget followers and listeners that were registered for the life of a process that is over."""
        for name, lease in lives:
            if leases.is_free(self._paths.lease(lease)):
                connection.write_fast(events.unfollow, name)
                connection.write_fast(listeners.unregister, name)
                leases.discard(self._paths.lease(lease))

    def _give_output(self, connection: Connection, lease: str, note: Note) -> None:
        """What a dead worker's last job has printed is that job's."""
        job = connection.read(queries.get, note.job) if note.is_running else None
        give_to_job(self._paths, lease, job.id if job else 0, job.attempt if job else 0, self._max_log)

    def _recover(self, connection: Connection, death: Death) -> None:
        def transact(sql: sqlite3.Connection) -> tuple[list[int], set[str]]:
            now = self._clock()
            held = recovering.recover(sql, death, now)
            return held, waiters.take(sql, [*held, *dependencies.resolve(sql, now).cancelled])

        held, addresses = connection.write(transact)
        self._waker.poke_all(addresses)
        if held:
            log.info("%d jobs of worker %d recovered: %s", len(held), death.worker, death.reason)
        for where in connection.read(runners.addresses):
            self._waker.poke(where.wake, 1 + len(held))  # it may have died with a datagram that was meant to wake it
            if held:
                self._waker.poke_all((where.wake_async, where.control, where.outbox))


def _death(
    row: WorkerRow,
    note: Note,
    reason: str,
    *,
    is_blamed: bool,
    ended: tuple[int, int, Failure | None] | None = None,
) -> Death:
    return Death(
        worker=row.id,
        reason=reason,
        last_begun=note.job,
        is_blamed=is_blamed,
        is_many_at_once=row.lane == Lane.ASYNC,
        ended=ended,
    )
