"""Who is alive: each worker and runner holds a kernel lock on a file of its own for as long as it lives.

No heartbeat and no clock: the kernel lets go of the lock when the process is gone, whatever ended it, and holds it while
the process is merely stopped or suspended. The file also notes what a worker is doing, for whoever must end it.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .forking import close_in_forked_children

_NOTE = struct.Struct("=qqqddd")
#: For the group of a command that is being started: nobody knows it yet.
STARTING = -1


class Note(NamedTuple):
    """What a worker is doing."""

    job: int = 0
    #: The job it began last, 0 for none yet.
    claim: int = 0
    group: int = 0
    #: The process group of the command that is running, 0 for none, or `STARTING`.
    began: float = 0.0
    #: When it began, on the monotonic clock; 0 when nothing is running.
    timeout: float = 0.0
    #: Seconds it may take, 0 for as long as it wants.
    grace: float = 0.0
    #: Seconds from being asked to end to being killed.

    @property
    def is_running(self) -> bool:
        return self.began > 0


class Lease:
    """A lock held for the life of this process, and the note in its file."""

    def __init__(self, path: str) -> None:
        """Create the file at *path* and lock it."""
        self.path = path
        self.name = os.path.basename(path)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        import mmap  # only who holds a lease needs it

        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX)
            _pwrite_note(
                self.descriptor, Note()
            )  # not by making it so long: on a full disk, the first note would kill us
            self._map = mmap.mmap(self.descriptor, _NOTE.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        close_in_forked_children(self)

    def read(self) -> Note:
        """What is written down. Opens nothing."""
        return Note._make(_NOTE.unpack_from(self._map))

    def note(self, note: Note) -> None:
        """Write down what this worker is doing. Survives the death of the process."""
        _NOTE.pack_into(self._map, 0, *note)

    def note_begun(self, job: int, claim: int, timeout: float | None, grace: float, group: int = 0) -> None:
        """Write down that this job begins now."""
        _NOTE.pack_into(self._map, 0, job, claim, group, time.monotonic(), timeout or 0.0, grace)

    def note_ended(self, job: int, claim: int) -> None:
        """Write down that nothing is running; the job stays the one that was begun last."""
        _NOTE.pack_into(self._map, 0, job, claim, 0, 0.0, 0.0, 0.0)

    @contextlib.contextmanager
    def noted_by_child(self, note: Note) -> Iterator[Callable[[], None]]:
        """What a forked child calls to write *note* down with the group that it leads: its copy of this lease is closed."""
        descriptor = os.dup(self.descriptor)
        try:
            yield lambda: _pwrite_note(descriptor, note._replace(group=os.getpid()))
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Let go of the lock and remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._close()

    def close_in_child(self) -> None:
        self._close()

    def _close(self) -> None:
        if self.descriptor >= 0:
            self._map.close()
            os.close(self.descriptor)
            self.descriptor = -1


def _pwrite_note(descriptor: int, note: Note) -> None:
    os.pwrite(descriptor, _NOTE.pack(*note), 0)


def new_name(role: str) -> str:
    """A name no other lease has."""
    return f"{role}-{os.urandom(6).hex()}"


def read_note(path: str) -> Note:
    """What the worker with this lease is doing, or was when it died. Raises `OSError` when this process can open no file."""
    try:
        with open(path, "rb") as file:
            data = file.read(_NOTE.size)
    except OSError as error:
        if error.errno in _OUR_TROUBLE:
            raise
        return Note()
    return Note._make(_NOTE.unpack(data)) if len(data) == _NOTE.size else Note()


#: Says nothing of the lease, but that this process has too many files open, or the machine has.
_OUR_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_free(path: str) -> bool:
    """Whether the holder of this lease is gone. A missing file counts as free."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in _OUR_TROUBLE:
            raise
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def is_held_by(path: str, pid: int) -> bool:
    """Whether the holder of this lease is the process that has this number here: not another's of a container."""
    if is_free(path):
        return False
    folder = f"/proc/{pid}/fd"
    if not os.path.isdir("/proc/self"):  # no containers there, so the number is that of the holder, which lives
        return True
    with contextlib.suppress(OSError):
        return any(_is_same_file(os.path.join(folder, name), path) for name in os.listdir(folder))
    return False


def _is_same_file(descriptor: str, path: str) -> bool:
    try:
        return os.path.samefile(descriptor, path)
    except OSError:  # closed since
        return False


def discard(path: str) -> None:
    """Remove the file of a lease whose holder is gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


class LeaderLease:
    """The lock that one runner of a file holds: the one that does what only one should do at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        close_in_forked_children(self)

    @property
    def is_held(self) -> bool:
        return self._descriptor >= 0

    def try_take(self) -> bool:
        """Become the leader unless another process is. Never waits."""
        if self.is_held:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        os.pwrite(descriptor, b"%-20d" % os.getpid(), 0)
        return True

    def holder(self) -> int:
        """The process that leads, 0 for none."""
        try:
            with open(self._path, "rb") as file:
                return int(file.read(20) or 0)
        except (OSError, ValueError):
            return 0

    def release(self) -> None:
        """Stop leading; the write tells those who watch the file."""
        if self.is_held:
            os.pwrite(self._descriptor, b"%-20d" % 0, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def close_in_child(self) -> None:
        if self.is_held:
            os.close(self._descriptor)
            self._descriptor = -1


class ProcessIdentity(NamedTuple):
    """One process, never another that has its number later."""

    pid: int
    started: str
    boot: str
    namespace: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a process of this machine, None when there is none."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started, _boot_id(), _pid_namespace())

    @classmethod
    def mine(cls) -> ProcessIdentity:
        return cls(os.getpid(), _start_time(os.getpid()) or "", _boot_id(), _pid_namespace())

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        return cls(*json.loads(text))

    def text(self) -> str:
        return json.dumps(list(self))

    def is_of_this_boot(self) -> bool:
        """Whether the machine is known to have been up since it lived, so that what it left in its lease is still there."""
        return self.boot != "" and self.boot == _boot_id()

    def is_of_these_numbers(self) -> bool:
        """Whether numbers of processes mean here what they meant to it."""
        return (self.boot, self.namespace) == (_boot_id(), _pid_namespace())

    def is_alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send the process a signal, if it still is that one. False when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            return False
        try:
            if not self.is_alive():  # looked at once it is held: before, the number may still change hands
                return False
            if descriptor < 0:
                os.kill(self.pid, number)
            else:
                signal.pidfd_send_signal(descriptor, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def kill(self, patience: float = 5.0) -> bool:
        """End the process, if it still is that one, and wait until it is gone. False when it would not go."""
        if not self.is_alive():
            return True
        try:
            descriptor = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        except ProcessLookupError:
            return True
        try:
            if not self.is_alive():  # between the look and the open the number may have changed hands
                return True
            if descriptor < 0:
                os.kill(self.pid, signal.SIGKILL)
                return _wait_until(lambda: not self.is_alive(), patience)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return bool(select.select([descriptor], [], [], patience)[0])
        except ProcessLookupError:
            return True
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _wait_until(condition: object, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.01)
    return False


def _start_time(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except FileNotFoundError:
        return None if os.path.isdir("/proc/self") else _start_time_by_ps(pid)
    except OSError:  # it ended while we looked
        return None
    return None if fields[0] in (b"Z", b"X") else fields[19].decode()


def _start_time_by_ps(pid: int) -> str | None:
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def kill_group(group: int, number: int = signal.SIGKILL) -> None:
    """Send a command's whole process group a signal. One that is gone already is no trouble."""
    if group > 1:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def end_group(group: int) -> None:
    """Kill a command's whole process group, and wait until nothing of it runs any more."""
    kill_group(group)
    await_group(group)


def await_group(group: int, patience: float = 0.5) -> None:
    """Wait until nothing of a group runs any more that was killed. Sends nothing: its number may be another's by now."""
    deadline = time.monotonic() + patience
    while group > 1 and _is_group_alive(group) and time.monotonic() < deadline:
        time.sleep(0.002)


def end_remains(worker: int, note: Note) -> None:
    """End what a worker that is gone was running, and wait until nothing of it runs any more."""
    if note.group == STARTING:
        kill_group(worker)  # where the command is until it has a group of its own
        end_commands(worker)
    else:
        end_group(note.group)
    await_group(worker)


def end_commands(worker: int) -> None:
    """End the commands that this worker or one that is gone has started: each leads a group in its session."""
    if worker != os.getpid() and _start_time(worker) is not None:
        return  # the number is another's by now
    for pid in _processes():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if pid != worker and os.getsid(pid) == worker and os.getpgid(pid) == pid:
                end_group(pid)


def _processes() -> list[int]:
    if os.path.isdir("/proc/self"):
        return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    found = subprocess.run(["ps", "-axo", "pid="], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def _is_group_alive(group: int) -> bool:
    """Whether one of its processes still runs. What is dead and not yet reaped by whoever adopted it does not."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return not os.path.isdir("/proc/self") or any(_runs_in(group, entry) for entry in os.listdir("/proc"))


def _runs_in(group: int, entry: str) -> bool:
    if not entry.isdigit():
        return False
    try:
        with open(f"/proc/{entry}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # it ended while we looked
        return False
    return int(fields[2]) == group and fields[0] not in (b"Z", b"X")
