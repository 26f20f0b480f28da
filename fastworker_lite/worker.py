"""Takes jobs from the file and runs them: settle what ended, claim what is next, run it, again.

Runs in: a worker process.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import parent_process
from typing import TypeVar

from . import execution, leases, serialization
from .batches import Batch, BatchWatcher, Estimates
from .errors import DatabaseBusy, DatabaseGone, NotOurDatabase, StorageError
from .exchange import Exchange, Report, open_lease
from .execution import UnknownTask
from .job import Claimed, Kind, Lane, Outcome
from .leases import Lease, Note, ProcessIdentity
from .processes import WorkerSetup, bind_to_parent
from .sockets import TurnOnWake, Waker, drain, wait_readable
from .store import jobs, runners
from .store.connection import Connection
from .surroundings import Surroundings

T = TypeVar("T")

#: Exit statuses: the import of a task module failed; the file cannot be used any more.
EXIT_IMPORT, EXIT_STORAGE = 2, 74


def main(setup: WorkerSetup) -> None:
    """What a spawned process does from its first to its last instant."""
    bind_to_parent(setup.runner_pid)
    os.setpgid(0, 0)
    # A handler, where SIG_IGN would be inherited by commands: Ctrl-C in the runner's terminal is for the runner.
    signal.signal(signal.SIGINT, lambda *_: None)
    _redirect_output(setup.output)
    try:
        code = _serve(setup)
    except (DatabaseGone, NotOurDatabase) as error:
        print(f"worker {os.getpid()} stops: {error}", file=sys.stderr)
        code = EXIT_STORAGE
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads and exit handlers that a task left behind must not keep the worker


def _serve(setup: WorkerSetup) -> int:
    connection = Connection(setup.database, is_worker=True, blocks_signals=True)
    lease = open_lease(connection, setup.lease)
    try:
        for module in setup.modules:
            importlib.import_module(module)
    except Exception as error:
        print(f"worker {os.getpid()} cannot import its tasks: {type(error).__name__}: {error}", file=sys.stderr)
        return EXIT_IMPORT
    execution.know(setup.tasks)
    worker_id = connection.write_fast(
        runners.add_worker, setup.lease, setup.runner, setup.lane, ProcessIdentity.mine().text(), time.time()
    )
    exchange = Exchange(connection, worker_id, setup.lane, setup.queues, Waker())
    if setup.lane is Lane.ASYNC:
        from .async_worker import AsyncWorker  # asyncio is not for those who never await

        AsyncWorker(setup, lease, exchange).run()
    else:
        Worker(setup, connection, lease, exchange).run()
    connection.write_fast(runners.remove_worker, worker_id)
    connection.close()
    lease.remove()
    return 0


def _redirect_output(path: str | None) -> None:
    if path is not None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)


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
            print(f"worker {os.getpid()} tries again in {pause:g} s: {error}", file=sys.stderr)
        if wait_readable([stop], pause):
            return None
        pause = min(pause * 2, 2.0)


class Worker:
    """Runs functions and commands, one at a time, on the main thread."""

    def __init__(self, setup: WorkerSetup, connection: Connection, lease: Lease, exchange: Exchange) -> None:
        self._setup = setup
        self._connection = connection
        self._lease = lease
        self._exchange = exchange
        self._pid = os.getpid()
        self._estimates = Estimates()
        self._watcher = BatchWatcher(self._open_tell)
        self._stop = stop_descriptor()
        self._wake = socket.socket(fileno=setup.wake)
        self._turn = TurnOnWake(setup.wake, self._stop)
        self._waker = Waker()
        self._surroundings = Surroundings()
        self._is_interrupted = False

    def run(self) -> None:
        """Work until told to stop."""
        report = Report()
        while not self._is_stopping():
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
        return batch.report()

    def _run(self, job: Claimed, batch: Batch) -> None:
        self._lease.note_begun(job.id, job.claim, job.timeout)
        if job.timeout is not None:
            self._waker.poke(self._setup.control)
        if job.kind == Kind.COMMAND:
            outcome: Outcome | None = self._run_command(job)
        else:
            outcome = self._run_function(job, batch)
        if os.getpid() != self._pid:
            os._exit(0)  # the task forked and its child came back here
        self._lease.note_ended(job.id, job.claim)
        self._surroundings.restore()
        if self._is_interrupted:
            batch.interrupt(job)
        elif outcome is not None:
            self._estimates.learn(job.task, outcome.finished_at - outcome.started_at)
            batch.end(outcome)

    # ---- functions

    def _run_function(self, job: Claimed, batch: Batch) -> Outcome | None:
        try:
            target = execution.find_target(job)
        except UnknownTask:
            batch.not_know(job)
            return None
        except BaseException as error:
            now = time.time()
            return Outcome(job, now, now, failure=execution.describe(error))
        if target.is_async:
            batch.misplace(job)
            return None
        return execution.run_call(job, target, self._setup.max_result)

    # ---- commands

    def _run_command(self, job: Claimed) -> Outcome:
        command = serialization.decode_command(job.payload)
        stored = None if job.environment is None else self._connection.read(jobs.environment, job.environment)
        variables = execution.command_environment(job, stored, self._connection.paths.database)
        started = time.time()
        stdout, stderr = (
            open_log(self._connection.paths.log(job.id, job.attempt, stream)) for stream in ("out", "err")
        )
        self._mind_the_command()
        try:
            process = execution.start_command(command, variables, stdout, stderr)
            self._lease.note(Note(job.id, job.claim, process.pid, time.monotonic(), job.timeout or 0.0))
            returncode = process.wait()
        except OSError as error:
            return execution.not_started(job, started, command, error)
        finally:
            self._forget_the_command()
            os.close(stdout)
            os.close(stderr)
        return execution.command_outcome(job, started, returncode)

    def _mind_the_command(self) -> None:
        """Be told by TERM of the runner's end, where KILL would leave the command running."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        bind_to_parent(self._setup.runner_pid, signal.SIGTERM)

    def _forget_the_command(self) -> None:
        bind_to_parent(self._setup.runner_pid, signal.SIGKILL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _on_terminate(self, *_: object) -> None:
        group = leases.read_note(self._lease.path).group
        if os.getppid() != self._setup.runner_pid:
            leases.kill_group(group)
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


def open_log(path: str) -> int:
    """A descriptor for a command's output, in a file for this user alone."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
