"""One command, run in this process: started, watched, ended when it must be, and what it printed kept.

Runs in: the command line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time

from .. import execution, leases, payloads
from ..job import Claimed, Command, Outcome
from ..leases import Lease, Note
from ..options import Policy
from ..output import STREAMS, open_log, trim
from ..settings import Config
from ..sockets import wait_readable
from ..store import cancelling, jobs
from ..store.connection import Connection
from ..watches import watch_process
from .signals import Signals
from .terminals import Shown, Stream

NEVER = float("inf")


class Attendant:
    """Runs the attempts of one job, and ends what runs when its time is over, or when a person or a cancel says so."""

    def __init__(self, connection: Connection, lease: Lease, signals: Signals, config: Config, shown: Shown) -> None:
        self._connection = connection
        self._lease = lease
        self._signals = signals
        self._config = config
        self._shown = shown

    def run(self, job: Claimed) -> Outcome:
        """Run the command of a claimed job."""
        command = payloads.decode_command(job.payload)
        stored = None if job.environment is None else self._connection.read(jobs.environment, job.environment)
        variables = execution.command_environment(job, stored, self._connection.paths.database)
        started = time.time()
        paths = [self._connection.paths.log(job.id, job.attempt, stream) for stream in STREAMS]
        streams = self._shown.streams([open_log(path) for path in paths])
        try:
            process = self._start(job, command, variables, streams)
        except OSError as error:
            execution.forget_script(command, self._script(job))
            return execution.not_started(job, started, command, error)
        course = self._watch(job, process, streams)
        execution.forget_script(command, self._script(job))
        for stream, path in zip(streams, paths, strict=True):
            stream.finish()
            trim(path, self._config.max_log)
        self._lease.note_ended(job.id, job.claim)
        outcome = execution.command_outcome(job, started, process.returncode)
        return outcome._replace(failure=execution.timed_out(job.timeout or 0.0)) if course.is_late else outcome

    def _start(
        self, job: Claimed, command: Command, variables: dict[str, str], streams: list[Stream]
    ) -> subprocess.Popen[bytes]:
        note = Note(job.id, job.claim, 0, time.monotonic(), job.timeout or 0.0, self._grace(job))
        self._lease.note(note)
        inlets = streams[0].inlet, streams[1].inlet
        try:
            # Before the command does anything: who recovers the job, should we be killed, must find its processes.
            with self._lease.noted_by_child(note) as note_group:
                return execution.start_command(command, variables, *inlets, self._script(job), note_group)
        except OSError:
            self._lease.note_ended(job.id, job.claim)
            raise
        finally:
            for stream in streams:
                stream.start()

    def _script(self, job: Claimed) -> str:
        return self._connection.paths.log(job.id, job.attempt, "script")

    def _grace(self, job: Claimed) -> float:
        said = Policy.read(job.policy).kill_grace
        return self._config.kill_grace if said is None else said

    def _watch(self, job: Claimed, process: subprocess.Popen[bytes], streams: list[Stream]) -> Course:
        """Wait for the end of the command, and see to it."""
        late_at = NEVER if job.timeout is None else time.monotonic() + job.timeout
        course = Course(process.pid, late_at, self._grace(job))
        watch = watch_process(process.pid)
        try:
            while watch is not None and process.poll() is None:
                wait_readable([watch, self._signals.fileno()], course.seconds_left())
                for number in self._signals.take():
                    self._act_on(number, job, course, streams)
                course.end_if_due()
        finally:
            if watch is not None:
                os.close(watch)
        process.wait()
        if course.is_asked or process.returncode < 0:
            leases.end_group(process.pid)  # it was ended by force: so is what it has left behind
        return course

    def _act_on(self, number: int, job: Claimed, course: Course, streams: list[Stream]) -> None:
        """What a signal that we got means for the command."""
        if number == signal.SIGWINCH:
            for stream in streams:
                stream.resize()
            leases.kill_group(course.group, number)
            return
        manner = self._connection.read(cancelling.manner, job.id)
        if number == signal.SIGTERM and manner.reason is not None:
            course.ask(
                manner.signal or signal.SIGTERM, self._config.kill_grace if manner.grace is None else manner.grace
            )
        else:
            self._signals.count += 1
            leases.kill_group(course.group, number if self._signals.count == 1 else signal.SIGKILL)


class Course:
    """How far the end of a running command has come."""

    def __init__(self, group: int, late_at: float, grace: float) -> None:
        """*late_at* is when it times out, on the monotonic clock."""
        self.group = group
        self._late_at = late_at
        self._grace = grace
        self._asked_at = NEVER
        self._kill_at = NEVER
        self.is_late = False

    @property
    def is_asked(self) -> bool:
        """Whether it was ended by us."""
        return self._asked_at < NEVER

    def ask(self, number: int, grace: float) -> None:
        """Have it end within *grace* seconds from when it was first asked to."""
        if not self.is_asked:
            self._asked_at = time.monotonic()
            leases.kill_group(self.group, number)
        self._kill_at = self._asked_at + grace

    def end_if_due(self) -> None:
        """Ask it to end when it is late, and end it when it was asked and has not."""
        if not self.is_asked and time.monotonic() >= self._late_at:
            self.is_late = True
            self.ask(signal.SIGTERM, self._grace)
        if time.monotonic() >= self._kill_at:
            self._kill_at = NEVER
            leases.kill_group(self.group)

    def seconds_left(self) -> float | None:
        """Until there is something to do."""
        at = self._kill_at if self.is_asked else self._late_at
        return None if at == NEVER else max(0.0, at - time.monotonic())
