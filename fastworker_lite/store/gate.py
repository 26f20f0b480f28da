"""The write gate: a kernel lock in front of every write transaction, of every process.

SQLite lets writers wait by sleeping and trying again, which is unfair: beside busy workers a submitter waited up to
1.8 s. A lock that the kernel hands on keeps that under 0.1 s, and is given back when its holder dies.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import struct
import time
from _signal import pthread_sigmask  # type: ignore[import-not-found]
from types import TracebackType

from ..errors import DatabaseBusy, DatabaseGone, ForkedError
from ..forking import close_in_forked_children

# _signal: the function of `signal` makes an enum of each of the mask's 62 signals, 90 µs a transaction.
_ALL_SIGNALS = signal.valid_signals()
_HOLDER = struct.Struct("=q")
_QUIET_UNTIL = struct.Struct("=d")
_QUIET_OFFSET = _HOLDER.size

#: Seconds for which no process tries another checkpoint after one that a reader held up.
CHECKPOINT_PAUSE = 1.0


class SignalShield:
    """Keeps this thread's signals waiting while inside: the exception of a handler must not strike there."""

    def __init__(self, *, is_up: bool) -> None:
        self._is_up = is_up
        self._before: set[int] = set()

    def __enter__(self) -> None:
        if self._is_up:
            self._before = pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)

    def __exit__(self, *_: object) -> None:
        if self._is_up:
            pthread_sigmask(signal.SIG_SETMASK, self._before)


class Gate:
    """One connection's entrance. Not for two threads at once, and never taken twice."""

    def __init__(self, path: str, *, patience: float | None, blocks_signals: bool) -> None:
        """Open the gate file at *path*, creating it.

        *patience* is how many seconds to wait for others, None without limit. *blocks_signals* keeps this thread's
        signals out while inside, for threads in which a handler may raise.
        """
        self._path = path
        self._patience = patience
        self.shield = SignalShield(is_up=blocks_signals)
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._next = os.open(path + ".next", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._me = _HOLDER.pack(os.getpid())
        self._is_forked = False
        close_in_forked_children(self)

    def __enter__(self) -> None:
        if self._is_forked:
            raise ForkedError
        self.shield.__enter__()
        try:
            self._lock()
        except BaseException:
            self.shield.__exit__()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        finally:
            self.shield.__exit__()

    def _lock(self) -> None:
        try:
            if self._patience is None:
                self._lock_after_waiters()
            else:
                self._lock_within(self._patience)
            os.pwrite(self.descriptor, self._me, 0)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            raise DatabaseGone(f"the descriptor of {self._path} was closed; nothing more is stored") from None

    def _lock_after_waiters(self) -> None:
        """Wait without limit, but let those go first who cannot: a waiter holds the second lock until it is inside."""
        fcntl.flock(self._next, fcntl.LOCK_SH)
        fcntl.flock(self._next, fcntl.LOCK_UN)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def _lock_within(self, patience: float) -> None:
        if _try_lock(self.descriptor):
            return
        deadline = time.monotonic() + patience
        try:
            self._poll(self._next, deadline, patience)
            self._poll(self.descriptor, deadline, patience)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def _poll(self, descriptor: int, deadline: float, patience: float) -> None:
        pause = 0.0002
        while not _try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise DatabaseBusy(
                    f"database busy for {patience:g} s: process {self.holder()} holds {self._path}; "
                    "try again, or see what that process does"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.005)

    def holder(self) -> int:
        """The process that went in last."""
        data = os.pread(self.descriptor, _HOLDER.size, 0)
        return int(_HOLDER.unpack(data)[0]) if len(data) == _HOLDER.size else 0

    def may_checkpoint(self) -> bool:
        """False for a second after any process found a reader in the way: trying at every commit would stall them all."""
        data = os.pread(self.descriptor, _QUIET_UNTIL.size, _QUIET_OFFSET)
        if len(data) < _QUIET_UNTIL.size:
            return True
        left: float = _QUIET_UNTIL.unpack(data)[0] - time.monotonic()
        return not 0 < left <= CHECKPOINT_PAUSE  # more than the pause: written before the machine started anew

    def pause_checkpoints(self) -> None:
        """Have every process leave checkpoints alone for `CHECKPOINT_PAUSE` seconds."""
        os.pwrite(self.descriptor, _QUIET_UNTIL.pack(time.monotonic() + CHECKPOINT_PAUSE), _QUIET_OFFSET)

    def close(self) -> None:
        for descriptor in (self.descriptor, self._next):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptor = self._next = -1

    def close_in_child(self) -> None:
        self._is_forked = True
        self.close()


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
