"""The workers of one runner: started, replaced, and ended when their jobs must be.

Runs in: the runner's process, on the scheduler's thread.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from . import leases
from .execution import timed_out
from .job import Failure, Lane
from .leases import Note
from .options import Policy
from .paths import SidePaths
from .processes import Ending, WorkerProcess, WorkerSetup
from .store.cancelling import Asked
from .worker import main as worker_main

log = logging.getLogger("fastworker_lite")

#: Seconds after which a job that is asked to end, and has not begun yet, is looked at again.
SOON = 0.02


class Pool:
    """Worker processes, and the jobs of theirs that are being ended."""

    def __init__(
        self,
        paths: SidePaths,
        count: int,
        make_setup: Callable[[Lane, str], WorkerSetup],
        on_death: Callable[[WorkerProcess, Note, int | None], None],
    ) -> None:
        """*on_death* is called with a worker that is gone, what it did last, and its exit status."""
        self._paths = paths
        self._count = count
        self._make_setup = make_setup
        self._on_death = on_death
        self.workers: list[WorkerProcess] = []
        self.is_closed = False
        #: When true, nobody is replaced.

    # ---- who is there

    def refill(self) -> None:
        """Start as many workers for functions and commands as are missing."""
        alive = sum(1 for worker in self.workers if worker.setup.lane is Lane.SYNC)
        for _ in range(self._count - alive):
            self._spawn(Lane.SYNC)

    @property
    def has_async(self) -> bool:
        """Whether there is a worker for coroutines."""
        return any(worker.setup.lane is Lane.ASYNC for worker in self.workers)

    def ensure_async(self) -> bool:
        """Start the worker for coroutines unless there is one. True when it was started."""
        if self.is_closed or self.has_async:
            return False
        self._spawn(Lane.ASYNC)
        return True

    def _spawn(self, lane: Lane) -> None:
        if self.is_closed:
            return
        setup = self._make_setup(lane, leases.new_name("w"))
        worker = WorkerProcess(worker_main, setup, self._paths.lease(setup.lease))
        self.workers.append(worker)
        loop = asyncio.get_running_loop()
        if worker.watch is None:
            loop.call_soon(self._on_end, worker)
        else:
            loop.add_reader(worker.watch, self._on_end, worker)

    def _on_end(self, worker: WorkerProcess) -> None:
        loop = asyncio.get_running_loop()
        if worker.watch is not None:
            loop.remove_reader(worker.watch)
        try:
            note = worker.note()
        except OSError as error:  # without it, a job that was begun would be taken for one that was not
            log.warning("what a dead worker was doing is read in a second: %s", error)
            loop.call_later(1.0, self._on_end, worker)
            return
        code = worker.reap()
        self._on_death(worker, note, code)

    def remove(self, worker: WorkerProcess) -> None:
        """Forget a worker that is gone."""
        self.workers.remove(worker)

    def leases(self) -> set[str]:
        """The names of the leases that our workers hold."""
        return {worker.setup.lease for worker in self.workers}

    # ---- all of them at once

    def close(self) -> None:
        """Ask every worker to end after what it runs, and replace none."""
        self.is_closed = True
        for worker in self.workers:
            worker.ask_to_stop()

    def terminate(self) -> None:
        """Have every worker end what it runs."""
        for worker in self.workers:
            worker.terminate()

    def kill(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.kill()

    # ---- jobs that must end

    def end_late(self) -> float | None:
        """Ask jobs past their timeout to end, and kill those that were asked and have not. Returns the seconds to the next."""
        left = []
        for worker in self.workers:
            note = worker.note()
            _drop_those_that_are_over(worker, note)
            if note.is_running and note.timeout and not any(ending.is_of(note) for ending in worker.endings):
                left.append(note.began + note.timeout)
                if time.monotonic() >= left[-1]:
                    self._begin(worker, note, timed_out(note.timeout), note.grace)
            for ending in worker.endings:
                if worker.setup.lane is Lane.SYNC or ending.failure is not None:
                    left.append(ending.kill_at)
                    self._kill_if_it_went_on(worker, ending)
        return None if not left else max(0.0, min(left) - time.monotonic())

    def _begin(
        self, worker: WorkerProcess, note: Note, failure: Failure | None, grace: float, number: int = signal.SIGTERM
    ) -> None:
        ending = Ending(job=note.job, claim=note.claim, failure=failure, kill_at=time.monotonic() + grace)
        worker.endings.append(ending)
        if worker.setup.lane is Lane.SYNC:  # a coroutine is cancelled by its worker
            worker.ask_to_end(ending, number)

    def _kill_if_it_went_on(self, worker: WorkerProcess, ending: Ending) -> None:
        if time.monotonic() < ending.kill_at:
            return
        ending.kill_at = float("inf")
        if worker.setup.lane is Lane.SYNC:
            worker.kill_for(ending)
        else:
            worker.killed_for = ending
            worker.kill()

    def end_asked(self, asked: Iterable[Asked], lease_of: Mapping[int, str]) -> float | None:
        """Ask the jobs that somebody wants cancelled to end. Returns the seconds until one must be looked at again."""
        by_worker: dict[str, list[Asked]] = {}
        for one in asked:
            by_worker.setdefault(lease_of.get(one.worker, ""), []).append(one)
        left: list[float] = []
        for worker in self.workers:
            wanted = by_worker.get(worker.setup.lease, [])
            if worker.setup.lane is Lane.ASYNC:
                left += self._end_coroutines(worker, wanted)
            else:
                left += self._end_functions(worker, wanted)
        return min(left, default=None)

    def _end_functions(self, worker: WorkerProcess, wanted: list[Asked]) -> list[float]:
        """Give each its time to end. Returns the seconds until each must be looked at again.

        One that waits in the worker's batch will have begun, ended, or been given back in a moment.
        """
        note, left = worker.note(), []
        for one in wanted:
            grace = note.grace if one.grace is None else one.grace
            ending = next((known for known in worker.endings if (known.job, known.claim) == (one.id, one.claim)), None)
            if ending is not None and ending.kill_at < float("inf"):
                if one.grace is not None:  # asked again, with less patience
                    ending.kill_at = min(ending.kill_at, time.monotonic() + grace)
                left.append(max(0.0, ending.kill_at - time.monotonic()))
            elif ending is None and note.is_running and (note.job, note.claim) == (one.id, one.claim):
                self._begin(worker, note, None, grace, one.signal or signal.SIGTERM)
                left.append(grace)
            elif ending is None:
                left.append(SOON)
        return left

    def _end_coroutines(self, worker: WorkerProcess, wanted: list[Asked]) -> list[float]:
        """Give each its time to end; its worker cancels it. Returns the seconds to each one's last moment."""
        still = {(one.id, one.claim) for one in wanted}
        worker.endings = [
            ending for ending in worker.endings if ending.failure is not None or (ending.job, ending.claim) in still
        ]
        known = {(ending.job, ending.claim): ending for ending in worker.endings}
        for one in wanted:
            said = Policy.read(one.policy).kill_grace if one.grace is None else one.grace
            grace = worker.setup.kill_grace if said is None else said
            ending = known.get((one.id, one.claim))
            if ending is None:
                self._begin(worker, Note(one.id, one.claim), None, grace)
            elif one.grace is not None and ending.kill_at < float("inf"):
                ending.kill_at = min(ending.kill_at, time.monotonic() + grace)  # asked again, with less patience
        cancelled = [ending for ending in worker.endings if ending.failure is None]
        for ending in cancelled:
            self._kill_if_it_went_on(worker, ending)
        return [max(0.0, ending.kill_at - time.monotonic()) for ending in cancelled if ending.kill_at < float("inf")]


def _drop_those_that_are_over(worker: WorkerProcess, note: Note) -> None:
    """A coroutine's cancel is not in the note: whether that is over, only the file tells."""
    worker.endings = [
        ending
        for ending in worker.endings
        if ending.is_of(note) or (worker.setup.lane is Lane.ASYNC and ending.failure is None)
    ]
    if worker.killed_for is not None and worker.killed_for not in worker.endings:
        worker.killed_for = None  # its function handled the signal, and ended by itself
