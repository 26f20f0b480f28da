"""The kernel's word that a file was written, a process has ended or a time has come, so that nobody needs to look again
and again.

Runs in: the runner's process, and every process that listens, follows or dispatches.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import threading
import time
from typing import Any

_IN_MODIFY, _IN_ATTRIB, _IN_DELETE_SELF, _IN_ONESHOT = 0x2, 0x4, 0x400, 0x80000000
_CLOCK_MONOTONIC = 1
_SYS_PIDFD_OPEN = 434  # on every architecture
#: Seconds between two looks at a process, where the kernel tells nothing of it.
_LOOK_AGAIN = 0.05
_HAS_KQUEUE = hasattr(select, "kqueue")
_kernel: Any = select  # the kqueue names exist on macOS only


class FileWatch:
    """Becomes readable, once for each `arm`, when the file is written, truncated or unlinked, by whatever process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        self._descriptor: int
        if _HAS_KQUEUE:
            self._queue = _kernel.kqueue()
            self._descriptor = self._queue.fileno()
        else:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if self._descriptor < 0:
                raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        return self._descriptor

    def arm(self) -> bool:
        """Report the next change. False when there is no such file."""
        if _HAS_KQUEUE:
            return self._arm_kqueue()
        mask = _IN_MODIFY | _IN_ATTRIB | _IN_DELETE_SELF | _IN_ONESHOT
        return bool(self._libc.inotify_add_watch(self._descriptor, os.fsencode(self._path), ctypes.c_uint32(mask)) >= 0)

    def _arm_kqueue(self) -> bool:
        with contextlib.suppress(OSError):
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            event = _kernel.kevent(
                self._file,
                _kernel.KQ_FILTER_VNODE,
                _kernel.KQ_EV_ADD | _kernel.KQ_EV_ONESHOT,
                _kernel.KQ_NOTE_WRITE | _kernel.KQ_NOTE_EXTEND | _kernel.KQ_NOTE_DELETE,
            )
            self._queue.control([event], 0)
            return True
        return False

    def clear(self) -> None:
        """Take the reports, so that the descriptor is no longer readable."""
        if _HAS_KQUEUE:
            self._queue.control(None, 16, 0)
            return
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, 4096):
                pass

    def close(self) -> None:
        if _HAS_KQUEUE:
            self._queue.close()
        elif self._descriptor >= 0:
            os.close(self._descriptor)
        if self._file >= 0:
            os.close(self._file)
        self._descriptor = self._file = -1


class Alarm:
    """A descriptor that is readable while another one is, and from a time on that can be set."""

    def __init__(self, other: int) -> None:
        if _HAS_KQUEUE:
            self._poll = _kernel.kqueue()
            self._poll.control([_kernel.kevent(other, _kernel.KQ_FILTER_READ, _kernel.KQ_EV_ADD)], 0)
            return
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._poll = select.epoll()
        self._poll.register(other, select.EPOLLIN)
        self._poll.register(self._timer, select.EPOLLIN)

    def fileno(self) -> int:
        return int(self._poll.fileno())

    def set(self, seconds: float | None) -> None:
        """Be readable in so many seconds, instead of at the time set before; None for never."""
        if _HAS_KQUEUE:
            self._set_kqueue(seconds)
            return
        nanoseconds = 0 if seconds is None else max(1, int(seconds * 1e9))  # 0 is never
        value = (ctypes.c_long * 4)(0, 0, *divmod(nanoseconds, 1_000_000_000))
        self._libc.timerfd_settime(self._timer, 0, value, None)

    def _set_kqueue(self, seconds: float | None) -> None:
        def change(flags: int, milliseconds: int = 0) -> None:
            event = _kernel.kevent(1, _kernel.KQ_FILTER_TIMER, flags, 0, milliseconds)
            self._poll.control([event], 0)

        with contextlib.suppress(FileNotFoundError):  # it was not set, or has gone off
            change(_kernel.KQ_EV_DELETE)
        if seconds is not None:
            change(_kernel.KQ_EV_ADD | _kernel.KQ_EV_ONESHOT, max(1, int(seconds * 1000)))

    @property
    def is_closed(self) -> bool:
        return bool(self._poll.closed)

    def close(self) -> None:
        if not self.is_closed:
            self._poll.close()
            if not _HAS_KQUEUE:
                os.close(self._timer)


def watch_process(pid: int) -> int | None:
    """A descriptor that becomes readable when this process ends; None when it has ended. To be closed by the caller."""
    if _HAS_KQUEUE:
        return _watch_process_by_thread(pid)
    try:
        return _open_pidfd(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
    return _watch_process_by_thread(pid)


def _open_pidfd(pid: int) -> int:
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    # A Python that was built for an old C library lacks it; the kernel may know it all the same.
    descriptor: int = ctypes.CDLL(None, use_errno=True).syscall(_SYS_PIDFD_OPEN, pid, 0)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor


def _watch_process_by_thread(pid: int) -> int:
    reading, writing = os.pipe()

    def wait() -> None:
        _wait_for_end(pid)
        os.close(writing)

    threading.Thread(target=wait, name="fastworker-process-watch", daemon=True).start()
    return reading


def _wait_for_end(pid: int) -> None:
    if _HAS_KQUEUE:
        event = _kernel.kevent(pid, _kernel.KQ_FILTER_PROC, _kernel.KQ_EV_ADD, _kernel.KQ_NOTE_EXIT)
        with contextlib.suppress(OSError):
            _kernel.kqueue().control([event], 1)
        return
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # not ours: Linux before 5.3 can only be asked again
        with contextlib.suppress(OSError):
            while True:
                os.kill(pid, 0)
                time.sleep(_LOOK_AGAIN)
