"""What a job may change of its process and the next one must find as it was: folder, umask, environment, signals.

Runs in: a worker process.
"""

from __future__ import annotations

import contextlib
import os
import signal
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]  # signal's own make enums: 10 µs a job

_SIGNALS = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCHLD,
    signal.SIGPIPE,
]


class Surroundings:
    """A picture of them, taken before the first job."""

    def __init__(self) -> None:
        self._folder = os.getcwd()
        self._umask = _umask()
        self._raw_environment = _raw_environment().copy()
        self._environment = dict(os.environ)
        self._handlers = [getsignal(number) for number in _SIGNALS]

    def restore(self) -> None:
        """Put back what a job has changed. Costs some 3 µs when nothing has."""
        if _folder() != self._folder:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)
        if os.umask(self._umask) != self._umask:
            pass  # the call has set it
        if _raw_environment() != self._raw_environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if pthread_sigmask(signal.SIG_SETMASK, ()):
            pass  # likewise
        for number, handler in zip(_SIGNALS, self._handlers, strict=True):
            if getsignal(number) is not handler:
                signal.signal(number, handler)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # the job removed it
        return ""


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found


def _raw_environment() -> dict[bytes, bytes]:
    # Comparing the encoded dictionary takes 1 µs; decoding every variable after every job would take 15.
    raw: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return raw
