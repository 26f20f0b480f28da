"""Worker processes: spawned, watched, told to stop, ended.

They are started as multiprocessing's spawn method does it, so that frozen programs work too, but without running the
host's `__main__` again, without choosing its start method, and without a resource tracker.

Runs in: the runner's process; `bind_to_parent` in a worker process.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import popen_spawn_posix, reduction, spawn, util
from multiprocessing import process as mp_process
from multiprocessing.context import SpawnProcess, set_spawning_popen
from typing import Any

from . import leases
from .forking import close_in_forked_children
from .job import Failure, Lane
from .leases import STARTING, Note
from .watches import watch_process

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a worker is told when it is started."""

    database: str
    lease: str
    runner: int
    runner_pid: int
    lane: Lane
    wake: int
    #: The descriptor of the socket on which it is woken; shared with the other workers of its lane.
    control: str
    #: Where its scheduler is poked.
    modules: tuple[str, ...]
    #: Imported at start, for the tasks that they declare.
    tasks: dict[str, bytes]
    #: What the runner's own process has declared; see serialization.encode_target.
    queues: tuple[str, ...] | None
    kill_grace: float
    max_result: int
    max_coroutines: int
    max_log: int
    max_jobs: int
    #: After so many jobs it ends, to be replaced; 0 for never.
    max_memory: int
    #: Above so many bytes it ends after the job it runs; 0 for no limit.
    output: str | None
    #: The file that takes what it prints outside of jobs, None to share the runner's.
    python: str | None = None
    #: Another Python that the functions run in, None for the worker's own.
    path: tuple[str, ...] = ()
    #: Where that one looks for their modules first.


class _Launch(popen_spawn_posix.Popen):
    """multiprocessing's launch of a spawned process, less what touches the host."""

    def _launch(self, process_obj: Any) -> None:
        data = self._preparation(process_obj)
        child_reads, parent_writes = os.pipe()
        try:
            descriptors = [child_reads, *process_obj.descriptors]
            with _without_interrupts():
                self.pid = util.spawnv_passfds(_executable(), _command_line(child_reads), descriptors)
            self.writes = parent_writes
            with open(parent_writes, "wb", closefd=False) as file:
                file.write(data)
        except BaseException:
            os.close(parent_writes)
            raise
        finally:
            os.close(child_reads)

    def _preparation(self, process_obj: Any) -> bytes:
        buffer = io.BytesIO()
        set_spawning_popen(self)
        try:
            reduction.dump(_preparation_data(process_obj.name), buffer)
            reduction.dump(process_obj, buffer)
        finally:
            set_spawning_popen(None)
        return buffer.getvalue()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """What is started inside has Ctrl-C wait until it unblocks it: while Python starts, it would end it with a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _command_line(pipe: int) -> list[str]:
    """What multiprocessing starts. A module in the current folder must not stand in for one of Python's meanwhile."""
    # tracker_fd=None: the child starts a resource tracker of its own if a task ever needs one. By it, too, `freeze_support`
    # tells our workers from what the program starts with multiprocessing.
    words = spawn.get_command_line(tracker_fd=None, pipe_handle=pipe)
    return words if getattr(sys, "frozen", False) else [words[0], "-P", *words[1:]]


def _executable() -> bytes:
    return os.fsencode(spawn.get_executable())


def _preparation_data(name: str) -> dict[str, Any]:
    here = os.getcwd()
    return {
        "name": name,
        "sys_path": [path or here for path in sys.path],
        "sys_argv": sys.argv,
        "orig_dir": mp_process.ORIGINAL_DIR,  # type: ignore[attr-defined]
        "dir": here,
    }


class _Process(SpawnProcess):
    """A process that is started by `_Launch` and is nobody's business but ours: not in `active_children`."""

    descriptors: tuple[int, ...] = ()

    def __reduce__(self) -> Any:
        target, args = self.__dict__["_target"], self.__dict__["_args"]
        plain = SpawnProcess(target=target, args=args, name=self.name, daemon=False)
        return _rebuild, (plain.__dict__,)


def _rebuild(state: dict[str, Any]) -> SpawnProcess:
    process = SpawnProcess.__new__(SpawnProcess)
    process.__dict__.update(state)
    return process


@dataclass(slots=True, kw_only=True)
class Ending:
    """A job that is being ended."""

    job: int
    claim: int
    failure: Failure | None
    #: What that is called; None where its row says so, as for a cancel.
    kill_at: float
    #: On the monotonic clock: until then it may end by itself.

    def is_of(self, note: Note) -> bool:
        return note.is_running and (note.job, note.claim) == (self.job, self.claim)


class WorkerProcess:
    """One worker, seen from its runner. Made only on the scheduler's thread: its death ends the worker."""

    def __init__(self, entry: Callable[[WorkerSetup], None], setup: WorkerSetup, lease_path: str) -> None:
        """Start `entry(setup)` in a new process. Raises `OSError`."""
        self.setup = setup
        self.lease_path = lease_path
        self.is_stopping = False
        self.endings: list[Ending] = []
        self.killed_for: Ending | None = None
        process = _Process(target=entry, args=(setup,), name=f"fastworker-{setup.lease}", daemon=False)
        process.descriptors = (setup.wake,)
        self._launch = _Launch(process)
        self.pid: int = self._launch.pid
        self.watch: int | None = None
        try:
            self.watch = watch_process(self.pid)
        except OSError:  # no descriptor is left, and nobody would see its end
            self._send(signal.SIGKILL)
            self.reap()
            raise
        close_in_forked_children(self)

    def note(self) -> Note:
        """What it is doing."""
        return leases.read_note(self.lease_path)

    def ask_to_stop(self) -> None:
        """Have it finish what it runs, give back what it has not begun, and end."""
        self.is_stopping = True
        # The end of the pipe is the sign. A byte might be swallowed by the buffer through which it reads its setup.
        with contextlib.suppress(OSError):
            os.close(self._launch.writes)
        self._launch.writes = -1

    def terminate(self) -> None:
        """Have it end what it runs: a command gets TERM, a coroutine is cancelled, a function dies with it."""
        if self.setup.python is not None:
            leases.kill_group(self.pid, signal.SIGTERM)  # the worker leaves it to the other Python
        else:
            self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it, the command that it runs, and what its functions have started."""
        try:
            group = self.note().group
        except OSError:  # the command is ended when its job is recovered
            group = 0
        leases.kill_group(self.pid)
        self._send(signal.SIGKILL)
        leases.kill_group(group)

    # ---- ending one job

    def ask_to_end(self, ending: Ending, number: int) -> None:
        """Send the job a signal, if it still is what runs: to a command's group, or to this worker and its children."""
        with self._stopped() as note:
            if not ending.is_of(note):
                return
            if note.group == STARTING:  # it has done nothing yet that it could end well
                self._kill_with(ending)
            elif note.group:
                leases.kill_group(note.group, number)
            else:
                self.killed_for = ending  # unless its function handles the signal
                leases.kill_group(self.pid, number)

    def kill_for(self, ending: Ending) -> None:
        """Kill the job, if it still is what runs: a command's group, or this worker and its children."""
        with self._stopped() as note:
            if not ending.is_of(note):
                return
            if note.group > 0:
                leases.kill_group(note.group)
            else:
                self._kill_with(ending)

    def _kill_with(self, ending: Ending) -> None:
        self.killed_for = ending
        self.kill()

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[Note]:
        """What it does, while it stands still: between a look and a signal it must not go on to another job."""
        self._send(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):
            # WNOWAIT: its end is for `reap` to take
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield self.note()
        finally:
            self._send(signal.SIGCONT)

    def reap(self) -> int | None:
        """Take its exit status: 0 and up as it said, -N for signal N, None if somebody else took it."""
        leases.kill_group(self.pid)  # what its functions have started; its number is not given away before it is reaped
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return None
        finally:
            self.close()
        return os.waitstatus_to_exitcode(status)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)  # our child until we reap it: its number is not given away

    def close(self) -> None:
        for descriptor in (self._launch.writes, self.watch):
            if descriptor is not None and descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._launch.writes, self.watch = -1, None

    def close_in_child(self) -> None:
        self.close()


def bind_to_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends; ends at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
