"""Running one job in this process, when no worker is there to do it: under a lease, as a worker would.

Runs in: the command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from types import FrameType

from .. import execution, leases, serialization
from ..errors import JobNotFound
from ..exchange import Exchange, Report, open_lease
from ..job import Claimed, Job, Lane, Outcome, State
from ..leases import Lease, Note, ProcessIdentity
from ..output import open_log
from ..sockets import Waker, wait_readable
from ..store import jobs, queries, runners
from ..store.connection import Connection
from .following import write_all
from .session import Session

_CHUNK = 65536


def run_here(session: Session, connection: Connection, job_id: int, *, is_shown: bool) -> Job | None:
    """Run the job until it has ended, retries included. None when somebody else has taken it."""
    lease = open_lease(connection, leases.new_name("run"))
    worker = connection.write_fast(
        runners.add_worker, lease.name, None, Lane.SYNC, ProcessIdentity.mine().text(), time.time()
    )
    attempt = _Attempt(connection, lease, kill_grace=session.config.kill_grace, is_shown=is_shown)
    exchange = Exchange(connection, worker, Lane.SYNC, None, Waker())
    with _Forwarding(attempt):
        job = _run_until_ended(connection, exchange, worker, job_id, attempt)
    # Not in a finally: whoever runs next must find a worker that died holding a job, and queue the job again.
    connection.write_fast(runners.remove_worker, worker)
    lease.remove()
    return job


def _run_until_ended(
    connection: Connection, exchange: Exchange, worker: int, job_id: int, attempt: _Attempt
) -> Job | None:
    while True:
        claimed = connection.write(_claim, job_id, worker)
        if claimed is not None:
            if claimed.on_lost == "fail":
                connection.sync()
            exchange.tell(Report(outcomes=[attempt.run(claimed)]))
        job = connection.read(queries.get, job_id)
        if job is None:
            raise JobNotFound(job_id)
        if job.has_ended:
            return job
        if job.state is State.SCHEDULED:
            attempt.sleep(max(0.0, (job.due_at or 0.0) - time.time()))
        elif claimed is None:
            return None


def _claim(sql: object, job_id: int, worker: int) -> Claimed | None:
    now = time.time()
    jobs.make_due(sql, now)  # type: ignore[arg-type]
    return jobs.claim_one(sql, job_id, worker, now)  # type: ignore[arg-type]


class _Attempt:
    """One run of the command, and whoever wants to end it."""

    def __init__(self, connection: Connection, lease: Lease, *, kill_grace: float, is_shown: bool) -> None:
        self._connection = connection
        self._lease = lease
        self._kill_grace = kill_grace
        self._is_shown = is_shown
        self._group = 0
        self._is_timed_out = False
        self._signals: list[int] = []

    def sleep(self, seconds: float) -> None:
        """Wait for the next attempt. A signal ends `fwl run` then: there is nothing to forward it to."""
        if self._signals:
            raise KeyboardInterrupt
        time.sleep(min(seconds, 0.2))

    def run(self, job: Claimed) -> Outcome:
        """Run the command of a claimed job."""
        command = serialization.decode_command(job.payload)
        stored = None if job.environment is None else self._connection.read(jobs.environment, job.environment)
        variables = execution.command_environment(job, stored, self._connection.paths.database)
        started = time.time()
        tees = [
            _Tee(open_log(self._connection.paths.log(job.id, job.attempt, stream)), number if self._is_shown else None)
            for number, stream in ((1, "out"), (2, "err"))
        ]
        self._lease.note_begun(job.id, job.claim, job.timeout, self._kill_grace)
        try:
            process = execution.start_command(command, variables, tees[0].inlet, tees[1].inlet)
        except OSError as error:
            return execution.not_started(job, started, command, error)
        finally:
            for tee in tees:
                tee.start()
        returncode = self._wait(job, process)
        for tee in tees:
            tee.finish()
        self._lease.note_ended(job.id, job.claim)
        outcome = execution.command_outcome(job, started, returncode)
        return outcome._replace(failure=execution.timed_out(job.timeout or 0.0)) if self._is_timed_out else outcome

    def _wait(self, job: Claimed, process: subprocess.Popen[bytes]) -> int:
        self._group = process.pid
        self._is_timed_out = False
        self._lease.note(Note(job.id, job.claim, process.pid, time.monotonic(), job.timeout or 0.0, self._kill_grace))
        for number in self._signals:  # that came before there was a process to have them
            leases.kill_group(self._group, number)
        timer = threading.Timer(job.timeout, self._on_timeout) if job.timeout is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return process.wait()
        finally:
            self._group = 0
            if timer is not None:
                timer.cancel()

    def _on_timeout(self) -> None:
        group = self._group
        if group:
            self._is_timed_out = True
            leases.kill_group(group, signal.SIGTERM)
            time.sleep(self._kill_grace)
            if self._group == group:
                leases.kill_group(group)

    def forward(self, number: int) -> None:
        """Pass a signal on to the command's group: as it is the first time, as KILL the second."""
        self._signals.append(number)
        if self._group:
            leases.kill_group(self._group, number if len(self._signals) == 1 else signal.SIGKILL)


class _Forwarding:
    """While it lasts, INT, TERM and HUP are the command's."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self, attempt: _Attempt) -> None:
        self._attempt = attempt

    def __enter__(self) -> None:
        self._before = {number: signal.signal(number, self._on_signal) for number in self._NUMBERS}

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._attempt.forward(number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Tee:
    """Copies a command's output into its log, and to our own stdout or stderr."""

    def __init__(self, log: int, target: int | None) -> None:
        self._log = log
        self._target = target
        self._outlet, self.inlet = os.pipe()
        self._ended_outlet, self._ended_inlet = os.pipe()
        self._thread = threading.Thread(target=self._copy, daemon=True)

    def start(self) -> None:
        """Copy from now on. The command holds the only other end."""
        os.close(self.inlet)
        self._thread.start()

    def finish(self) -> None:
        """Copy what is left; a process that the command left behind must not keep us."""
        os.close(self._ended_inlet)
        self._thread.join()

    def _copy(self) -> None:
        try:
            while self._has_more():
                data = os.read(self._outlet, _CHUNK)
                if not data:
                    break
                write_all(self._log, data)
                if self._target is not None:
                    write_all(self._target, data)
        except OSError:
            pass  # our reader is gone: closing the pipe tells the command, as it would without us
        finally:
            for descriptor in (self._outlet, self._ended_outlet, self._log):
                os.close(descriptor)

    def _has_more(self) -> bool:
        ready = wait_readable([self._outlet, self._ended_outlet], None)
        return self._outlet in ready
