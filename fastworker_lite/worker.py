"""Takes jobs from the file and runs them: settle what ended, claim what is next, run it, again.

Runs in: a worker process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import parent_process
from typing import TYPE_CHECKING, Protocol, TypeVar

from . import execution, leases, payloads
from .batches import Batch, BatchWatcher, Estimates
from .current import CurrentJob, Port, enter_job
from .errors import DatabaseBusy, DatabaseGone, ImportTrouble, NotOurDatabase, StorageError
from .exchange import Exchange, Report, open_lease
from .execution import UnknownTask
from .job import Claimed, Kind, Lane, Outcome, Progress
from .leases import STARTING, Lease, Note, ProcessIdentity
from .options import Policy
from .output import STREAMS, Capture, live_path, log_to_stderr, open_log, own_stderr, trim
from .paths import SidePaths
from .processes import WorkerSetup, bind_to_parent
from .serialization import Target
from .sockets import TurnOnWake, Waker, drain, wait_readable
from .store import jobs, queries, runners, settling
from .store.connection import Connection
from .store.queries import Ended
from .surroundings import Surroundings

if TYPE_CHECKING:
    from .foreign import Interpreter

T = TypeVar("T")

#: Exit statuses: the import of a task module failed; the file cannot be used any more.
EXIT_IMPORT, EXIT_STORAGE = 2, 74


def main(setup: WorkerSetup) -> None:
    """What a spawned process does from its first to its last instant."""
    bind_to_parent(setup.runner_pid)
    os.setsid()  # what it has started is known by its session, whoever ends it and when
    # A handler, where SIG_IGN would be inherited by commands: Ctrl-C in the runner's terminal is for the runner.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    _redirect(setup.output)
    faulthandler.enable()
    try:
        code = _serve(setup)
    except (StorageError, DatabaseBusy, OSError) as error:
        say(f"worker {os.getpid()} stops: {error}")
        code = EXIT_STORAGE
    os._exit(code)  # threads and exit handlers that a task left behind must not keep the worker


def _serve(setup: WorkerSetup) -> int:
    stop = stop_descriptor()
    connection = store_patiently(lambda: Connection(setup.database, is_worker=True, blocks_signals=True), stop)
    lease = None if connection is None else store_patiently(lambda: open_lease(connection, setup.lease), stop)
    if connection is None or lease is None:
        return 0
    capture = Capture(connection.paths, setup.lease, setup.max_log) if setup.lane is Lane.SYNC else None
    interpreter = None
    try:
        if setup.python is None:
            for module in setup.modules:
                importlib.import_module(module)
        elif capture is not None:
            interpreter = _start_interpreter(setup, setup.python, connection.paths)
    except ImportTrouble as trouble:
        say(f"worker {os.getpid()} cannot begin: {trouble}")
        return EXIT_IMPORT
    except Exception as error:
        say(f"worker {os.getpid()} cannot import its tasks: {type(error).__name__}: {error}")
        return EXIT_IMPORT
    execution.know(setup.tasks)
    me = ProcessIdentity.mine().text()
    worker_id = store_patiently(
        lambda: connection.write_fast(runners.add_worker, setup.lease, setup.runner, setup.lane, me, time.time()), stop
    )
    if worker_id is None:
        return 0
    exchange = Exchange(connection, worker_id, setup.lane, setup.queues, Waker())
    if capture is None:
        from .async_worker import AsyncWorker  # asyncio is not for those who never await

        AsyncWorker(setup, connection, lease, exchange).run()
    else:
        Worker(setup, connection, lease, exchange, capture, interpreter).run()
        capture.close()
        if interpreter is not None:
            interpreter.close()
    if not connection.write_fast(runners.remove_worker, worker_id):
        say(f"worker {os.getpid()} was told to stop before the file took what it had done")
        return EXIT_STORAGE
    connection.close()
    lease.remove()
    return 0


def _start_interpreter(setup: WorkerSetup, python: str, paths: SidePaths) -> Interpreter:
    from .foreign import Interpreter, Setup

    output = tuple(live_path(paths, setup.lease, stream) for stream in STREAMS)
    return Interpreter(Setup(python, setup.path, setup.modules, output, setup.max_result), setup.tasks)


def _redirect(output: str | None) -> None:
    """Read nothing from the runner's terminal, and write to *output* if it is given."""
    _lead(0, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    if output is not None:
        _lead(1, os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
        os.dup2(1, 2)


def _lead(number: int, descriptor: int) -> None:
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)


def say(text: str) -> None:
    """A line of the worker's own, past what it takes from its jobs."""
    with contextlib.suppress(OSError):
        os.write(own_stderr(), f"{text}\n".encode(errors="backslashreplace"))


def stop_descriptor() -> int:
    """Becomes readable when the runner asks for the end, or has come to its own."""
    parent = parent_process()
    assert parent is not None, "a worker is started by its runner"
    return int(parent.sentinel)


def store_patiently(transact: Callable[[], T], stop: int) -> T | None:
    """Call *transact* until the file takes it: a result must not die of a full disk. None when told to stop meanwhile."""
    pause = 0.05
    while True:
        try:
            return transact()
        except (DatabaseGone, NotOurDatabase):
            raise
        except (StorageError, DatabaseBusy) as error:
            say(f"worker {os.getpid()} tries again in {pause:g} s: {error}")
        if wait_readable([stop], pause):
            return None
        pause = min(pause * 2, 2.0)


def insist(transact: Callable[[], T], stop: int) -> T:
    """As `store_patiently`, for what a job cannot begin without. Raises `StorageError` when told to stop meanwhile."""
    done = store_patiently(transact, stop)
    if done is None:
        raise StorageError("told to stop while the file could not be used")
    return done


def keep_from_rerun(connection: Connection, job: Claimed) -> bool:
    """Have it on disk that *job* must not be started twice: its submitter did not know."""
    connection.write(settling.keep_from_rerun, job)
    connection.sync()
    return True


class Functions(Protocol):
    """Where functions are found and called: in this process, as execution.py does, or by an `Interpreter`."""

    def find_target(self, job: Claimed) -> Target: ...

    def under_its_tasks_limits(self, job: Claimed, target: Target) -> Claimed | None: ...

    def run_call(self, job: Claimed, target: Target, max_result: int, results: Sequence[Ended] = ()) -> Outcome: ...


class Worker:
    """Runs functions and commands, one at a time, on the main thread."""

    def __init__(
        self,
        setup: WorkerSetup,
        connection: Connection,
        lease: Lease,
        exchange: Exchange,
        capture: Capture,
        interpreter: Interpreter | None,
    ) -> None:
        self._setup = setup
        self._connection = connection
        self._lease = lease
        self._exchange = exchange
        self._capture = capture
        self._interpreter = interpreter
        self._functions: Functions = interpreter or execution
        self._pid = os.getpid()
        self._estimates = Estimates()
        self._watcher = BatchWatcher(self._open_tell)
        self._stop = stop_descriptor()
        self._wake = socket.socket(fileno=setup.wake)
        self._turn = TurnOnWake(setup.wake, self._stop)
        self._waker = Waker()
        self._surroundings = Surroundings()
        self._port = Port(self._report_progress, self._is_cancelled)
        self._is_interrupted = False
        self._jobs = 0

    def run(self) -> None:
        """Work until told to stop."""
        log_to_stderr()
        self._capture.discard()
        report = Report()
        while not (self._is_stopping() or self._is_worn_out()):
            claimed = self._swap(report)
            report = Report()
            if claimed:
                report = self._run_batch(Batch(claimed))
            else:
                self._watcher.rest()
                self._wait()
        if report:
            store_patiently(lambda: self._exchange.tell(report), self._stop)

    def _swap(self, report: Report) -> list[Claimed] | None:
        return store_patiently(
            lambda: self._exchange.swap(report, self._estimates.limit, self._estimates.pick), self._stop
        )

    def _is_stopping(self) -> bool:
        return self._is_interrupted or bool(wait_readable([self._stop], 0))

    def _is_worn_out(self) -> bool:
        """Whether another process should take this one's place."""
        most_jobs, most_memory = self._setup.max_jobs, self._setup.max_memory
        return bool((most_jobs and self._jobs >= most_jobs) or (most_memory and self._resident_bytes() > most_memory))

    def _resident_bytes(self) -> int:
        return resident_bytes() + (0 if self._interpreter is None else resident_bytes(self._interpreter.pid))

    def _wait(self) -> None:
        """Sleep until a datagram is ours, or the runner wants us to stop."""
        while self._turn.wait():
            if drain(self._wake, at_most=1):
                return

    def _run_batch(self, batch: Batch) -> Report:
        if batch.size > 1:
            self._watcher.watch(batch)
        while (job := batch.next()) is not None:
            self._run(job, batch)
            if self._is_interrupted:
                batch.give_back_rest()
        self._jobs += batch.size
        return batch.report()

    def _run(self, job: Claimed, batch: Batch) -> None:
        target = None if job.kind == Kind.COMMAND else self._find_target(job, batch)
        if target is not None:
            if (limited := self._functions.under_its_tasks_limits(job, target)) is not None:
                batch.limit(limited)
                return
            job = self._as_its_task_says(job, target)
        elif job.kind != Kind.COMMAND:
            return
        began = time.monotonic()
        group = STARTING if target is None else 0
        self._lease.note_begun(job.id, job.claim, job.timeout, self._grace(job), group)
        if job.timeout is not None:
            self._waker.poke(self._setup.control)
        outcome = self._run_command(job) if target is None else self._run_function(job, target)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and its child came back here
        self._lease.note_ended(job.id, job.claim)
        self._surroundings.restore()
        self._capture.keep(job.id, job.attempt)
        if self._is_interrupted:
            batch.interrupt(job)
            return
        if job.timeout is not None and time.monotonic() - began >= job.timeout:
            outcome = outcome._replace(failure=execution.timed_out(job.timeout))
        self._estimates.learn(job.task, outcome.finished_at - outcome.started_at)
        batch.end(outcome)

    def _grace(self, job: Claimed) -> float:
        return kill_grace(job, self._setup.kill_grace)

    # ---- functions

    def _find_target(self, job: Claimed, batch: Batch) -> Target | None:
        """The function to call; None when the job has been dealt with."""
        try:
            target = self._functions.find_target(job)
        except UnknownTask:
            batch.not_know(job)
        except BaseException as error:
            now = time.time()
            batch.end(Outcome(job, now, now, failure=execution.describe(error, job)))
        else:
            if not target.is_async:
                return target
            batch.misplace(job)
        return None

    def _as_its_task_says(self, job: Claimed, target: Target) -> Claimed:
        told = job.over(target.options)
        if told.on_lost == "fail" and job.on_lost is None:
            insist(lambda: keep_from_rerun(self._connection, job), self._stop)
        return told

    def _run_function(self, job: Claimed, target: Target) -> Outcome:
        parents = execution.parents_whose_results(job)
        results = insist(lambda: self._connection.read(queries.ended, parents), self._stop) if parents else ()
        current = CurrentJob(job, self._port)
        enter_job(current)
        try:
            return self._functions.run_call(job, target, self._setup.max_result, results)
        finally:
            enter_job(None)
            current.end()

    def _report_progress(self, job_id: int, progress: Progress) -> None:
        with contextlib.suppress(StorageError, DatabaseBusy):  # a job must not fail for want of a word about it
            self._connection.write_fast(settling.report_progress, job_id, progress)

    def _is_cancelled(self, job_id: int) -> bool:
        """A task that asks wants to end by itself: TERM, which is sent to it at once, must not end it first."""
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # it asks from a thread of its own
                signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            row = self._connection.probe("SELECT cancel IS NOT NULL FROM job WHERE id = :id", {"id": job_id})
        except (StorageError, DatabaseBusy):
            return False
        return row is not None and bool(row[0])

    # ---- commands

    def _run_command(self, job: Claimed) -> Outcome:
        command = payloads.decode_command(job.payload)
        stored = None if job.environment is None else self._environment(job.environment)
        variables = execution.command_environment(job, stored, self._connection.paths.database)
        started = time.time()
        paths = [self._connection.paths.log(job.id, job.attempt, stream) for stream in STREAMS]
        script = self._connection.paths.log(job.id, job.attempt, "script")
        stdout, stderr = (open_log(path) for path in paths)
        self._mind_the_command()
        try:
            process = execution.start_command(command, variables, stdout, stderr, script)
            self._lease.note(
                Note(job.id, job.claim, process.pid, time.monotonic(), job.timeout or 0.0, self._grace(job))
            )
            if self._is_interrupted:  # before there was a group to pass the signal on to
                leases.kill_group(process.pid, signal.SIGTERM)
            returncode = process.wait()
        except OSError as error:
            return execution.not_started(job, started, command, error)
        finally:
            self._forget_the_command()
            execution.forget_script(command, script)
            os.close(stdout)
            os.close(stderr)
        if returncode < 0:
            leases.end_group(process.pid)  # it was ended by force: so is what it has left behind
        for path in paths:
            trim(path, self._setup.max_log)
        return execution.command_outcome(job, started, returncode)

    def _environment(self, number: int) -> bytes:
        return insist(lambda: self._connection.read(jobs.environment, number), self._stop)

    def _mind_the_command(self) -> None:
        """Be told by TERM of the runner's end, where KILL would leave the command running."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        bind_to_parent(self._setup.runner_pid, signal.SIGTERM)

    def _forget_the_command(self) -> None:
        bind_to_parent(self._setup.runner_pid, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_terminate(self, *_: object) -> None:
        group = self._lease.read().group
        if os.getppid() != self._setup.runner_pid:
            leases.kill_group(group)
            if group == STARTING:
                leases.end_commands(self._pid)
            os._exit(EXIT_STORAGE)
        self._is_interrupted = True
        leases.kill_group(group, signal.SIGTERM)

    # ---- the watcher's side

    def _open_tell(self) -> Callable[[Report], bool]:
        connection = Connection(self._setup.database, is_worker=True)
        connection.watch(self._lease.path, self._lease.descriptor)
        exchange = Exchange(connection, 0, Lane.SYNC, None, Waker())

        def tell(report: Report) -> bool:
            try:
                exchange.tell(report)
            except (DatabaseGone, NotOurDatabase):
                os._exit(EXIT_STORAGE)
            except (StorageError, DatabaseBusy):
                return False
            return True

        return tell


def kill_grace(job: Claimed, otherwise: float) -> float:
    """Seconds from asking this job to end to killing it."""
    if job.policy is None:
        return otherwise
    said = Policy.read(job.policy).kill_grace
    return otherwise if said is None else said


def resident_bytes(process: int | str = "self") -> int:
    """The memory this process holds now, or another one; on macOS, the most this one has held."""
    try:
        with open(f"/proc/{process}/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        if process != "self":
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
