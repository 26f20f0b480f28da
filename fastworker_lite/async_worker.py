"""Runs coroutines, many at a time, on one event loop.

Runs in: a worker process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from . import execution
from .exchange import Exchange, Report
from .execution import UnknownTask
from .job import Claimed, Outcome
from .leases import Lease, Note
from .processes import WorkerSetup
from .serialization import Target
from .sockets import drain
from .worker import stop_descriptor, store_patiently

#: Jobs in one claim: their results come back in as few transactions.
_CLAIM = 100


class AsyncWorker:
    """Claims while there is room, and settles whatever has ended meanwhile in the same transaction."""

    def __init__(self, setup: WorkerSetup, lease: Lease, exchange: Exchange) -> None:
        self._setup = setup
        self._lease = lease
        self._exchange = exchange
        self._pid = os.getpid()
        self._stop = stop_descriptor()
        self._wake = socket.socket(fileno=setup.wake)
        # The file is used on one thread, so that no coroutine waits for the gate.
        self._thread = ThreadPoolExecutor(1, "fastworker-file", _block_signals)
        self._running: dict[asyncio.Task[None], Claimed] = {}
        self._report = Report()
        self._is_stopping = False
        self._something_happened: asyncio.Event

    def run(self) -> None:
        """Work until told to stop, and until the last coroutine has ended."""
        with asyncio.Runner() as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._something_happened = asyncio.Event()
        loop.add_reader(self._stop, self._on_stop)
        loop.add_reader(self._wake.fileno(), self._on_wake)
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        while not self._is_stopping or self._running or self._report:
            self._something_happened.clear()
            claimed = await self._swap()
            for job in claimed:
                self._begin(job)
            if not claimed and not self._report and (self._running or not self._is_stopping):
                await self._something_happened.wait()

    async def _swap(self) -> list[Claimed]:
        report, self._report = self._report, Report()
        room = 0 if self._is_stopping else min(_CLAIM, self._setup.max_coroutines - len(self._running))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._swap_now, report, room)

    def _swap_now(self, report: Report, room: int) -> list[Claimed]:
        if room > 0 and (report or self._exchange.has_work()):
            return store_patiently(lambda: self._exchange.swap(report, room, list), self._stop) or []
        if report:
            store_patiently(lambda: self._exchange.tell(report), self._stop)
        return []

    def _begin(self, job: Claimed) -> None:
        try:
            target = execution.find_target(job)
        except UnknownTask:
            self._report.unknown.append(job)
            return
        except BaseException as error:
            now = time.time()
            self._report.outcomes.append(Outcome(job, now, now, failure=execution.describe(error)))
            return
        if not target.is_async:
            self._report.misplaced.append(job)
            return
        task = asyncio.get_running_loop().create_task(self._await(job, target), name=f"job {job.id}")
        self._running[task] = job
        task.add_done_callback(self._end)
        self._lease.note(Note(job.id, job.claim, 0, time.monotonic(), 0.0))

    async def _await(self, job: Claimed, target: Target) -> None:
        outcome = await execution.run_coroutine(job, target, self._setup.max_result)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and its child came back here
        self._report.outcomes.append(outcome)

    def _end(self, task: asyncio.Task[None]) -> None:
        job = self._running.pop(task)
        if task.cancelled():
            self._report.interrupted.append(job)
        if not self._running:
            self._lease.note_ended(job.id, job.claim)
        self._something_happened.set()

    def _on_wake(self) -> None:
        drain(self._wake)
        self._something_happened.set()

    def _on_stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._stop)
        self._is_stopping = True
        self._something_happened.set()

    def _on_terminate(self) -> None:
        self._is_stopping = True
        for task in self._running:
            task.cancel("the worker was told to end")
        self._something_happened.set()


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
