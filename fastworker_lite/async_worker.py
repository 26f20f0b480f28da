"""Runs coroutines, many at a time, on one event loop.

Runs in: a worker process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TextIO, cast

from . import execution
from .current import CurrentJob, Port, enter_job
from .exchange import Exchange, Report
from .execution import UnknownTask
from .job import Claimed, Outcome, Progress
from .leases import Lease, Note
from .output import JobStream, log_to_stderr
from .processes import WorkerSetup
from .serialization import Target
from .sockets import Waker, drain
from .store import cancelling, queries, settling
from .store.connection import Connection
from .store.queries import Ended
from .worker import insist, keep_from_rerun, kill_grace, resident_bytes, stop_descriptor, store_patiently

#: Jobs in one claim: their results come back in as few transactions.
_CLAIM = 100


class AsyncWorker:
    """Claims while there is room, and settles whatever has ended meanwhile in the same transaction."""

    def __init__(self, setup: WorkerSetup, connection: Connection, lease: Lease, exchange: Exchange) -> None:
        self._setup = setup
        self._connection = connection
        self._lease = lease
        self._exchange = exchange
        self._pid = os.getpid()
        self._stop = stop_descriptor()
        self._wake = socket.socket(fileno=setup.wake)
        self._waker = Waker()
        # The file is used on one thread, so that no coroutine waits for the gate.
        self._thread = ThreadPoolExecutor(1, "fastworker-file", _block_signals)
        self._running: dict[asyncio.Task[None], Claimed] = {}
        self._began: dict[int, Note] = {}
        #: The jobs with a timeout, by id.
        self._cancelled: set[int] = set()
        self._streams = [JobStream(connection.paths, stream, other) for stream, other in _streams()]
        self._port = Port(self._report_progress, self._cancelled.__contains__)
        self._report = Report()
        self._jobs = 0
        self._is_stopping = False
        self._must_look_for_cancels = False
        self._something_happened: asyncio.Event

    def run(self) -> None:
        """Work until told to stop, and until the last coroutine has ended."""
        sys.stdout, sys.stderr = cast(list[TextIO], self._streams)
        log_to_stderr()
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
        if self._must_look_for_cancels:
            self._must_look_for_cancels = False
            await self._cancel_those_asked_for()
        if not self._is_stopping and self._is_worn_out():
            self._is_stopping = True
        report, self._report = self._report, Report()
        room = 0 if self._is_stopping else min(_CLAIM, self._setup.max_coroutines - len(self._running))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._swap_now, report, room)

    def _swap_now(self, report: Report, room: int) -> list[Claimed]:
        if room > 0 and (report or store_patiently(self._exchange.has_work, self._stop)):
            return store_patiently(lambda: self._exchange.swap(report, room, list), self._stop) or []
        if report:
            store_patiently(lambda: self._exchange.tell(report), self._stop)
        return []

    async def _cancel_those_asked_for(self) -> None:
        asked = await asyncio.get_running_loop().run_in_executor(
            self._thread,
            lambda: store_patiently(lambda: self._connection.read(cancelling.asked_to_stop), self._stop),
        )
        wanted = {(one.id, one.claim) for one in asked or ()}
        for task, job in self._running.items():
            if (job.id, job.claim) in wanted and job.id not in self._cancelled:
                self._cancelled.add(job.id)
                task.cancel("cancelled")

    def _is_worn_out(self) -> bool:
        most_jobs, most_memory = self._setup.max_jobs, self._setup.max_memory
        return bool((most_jobs and self._jobs >= most_jobs) or (most_memory and resident_bytes() > most_memory))

    def _begin(self, job: Claimed) -> None:
        if self._setup.python is not None:  # its workers await coroutines, too
            self._report.misplaced.append(job)
            return
        try:
            target = execution.find_target(job)
        except UnknownTask:
            self._report.unknown.append(job)
            return
        except BaseException as error:
            now = time.time()
            self._report.outcomes.append(Outcome(job, now, now, failure=execution.describe(error, job)))
            return
        if not target.is_async:
            self._report.misplaced.append(job)
            return
        if (limited := execution.under_its_tasks_limits(job, target)) is not None:
            self._report.limited.append(limited)
            return
        told = job.over(target.options)
        is_news = told.on_lost == "fail" and job.on_lost is None
        task = asyncio.get_running_loop().create_task(self._await(told, target, is_news), name=f"job {job.id}")
        self._running[task] = told
        self._jobs += 1
        task.add_done_callback(self._end)
        self._note(told)

    def _note(self, job: Claimed) -> None:
        """Write down the job whose time is over first, for the runner to see to; else the one that began last."""
        if job.timeout is not None:
            grace = kill_grace(job, self._setup.kill_grace)
            self._began[job.id] = Note(job.id, job.claim, 0, time.monotonic(), job.timeout, grace)
        self._lease.note(self._soonest() or Note(job.id, job.claim, 0, time.monotonic()))
        if job.timeout is not None:
            self._waker.poke(self._setup.control)

    def _soonest(self) -> Note | None:
        return min(self._began.values(), key=lambda note: note.began + note.timeout, default=None)

    async def _await(self, job: Claimed, target: Target, must_be_kept_from_rerun: bool) -> None:
        if must_be_kept_from_rerun:
            await self._keep_from_rerun(job)
        results = await self._results(execution.parents_whose_results(job))
        current = CurrentJob(job, self._port)
        enter_job(current)
        try:
            outcome = await execution.run_coroutine(job, target, self._setup.max_result, results)
        finally:
            if os.getpid() != self._pid:
                os._exit(0)  # the task forked and its child came back here
            current.end()
            for stream in self._streams:
                stream.end(current.id, job.attempt, self._setup.max_log)
        self._report.outcomes.append(outcome)

    async def _results(self, parents: list[int]) -> Sequence[Ended]:
        if not parents:
            return ()
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: insist(lambda: self._connection.read(queries.ended, parents), self._stop)
        )

    async def _keep_from_rerun(self, job: Claimed) -> None:
        """Its submitter may not have known that it must not be started twice; that has to be on disk first."""

        await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: insist(lambda: keep_from_rerun(self._connection, job), self._stop)
        )

    def _report_progress(self, job_id: int, progress: Progress) -> None:
        self._thread.submit(self._connection.write_fast, settling.report_progress, job_id, progress)

    def _end(self, task: asyncio.Task[None]) -> None:
        job = self._running.pop(task)
        self._cancelled.discard(job.id)
        if task.cancelled():
            self._report.interrupted.append(job)
        elif task.exception() is not None:  # told to stop before the file gave what it needs to begin
            self._report.returned.append(job)
        if self._began.pop(job.id, None) is not None and (soonest := self._soonest()) is not None:
            self._lease.note(soonest)
        if not self._running:
            self._lease.note_ended(job.id, job.claim)
        self._something_happened.set()

    def _on_wake(self) -> None:
        drain(self._wake)
        self._must_look_for_cancels = bool(self._running)
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


def _streams() -> list[tuple[str, TextIO]]:
    return [("out", sys.stdout), ("err", sys.stderr)]


def _block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
