"""What a command of ours prints: through a pipe or a terminal of its own, into its log and on to our streams.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import termios
import threading
from dataclasses import dataclass

from ..sockets import wait_readable

_CHUNK = 65536
#: Seconds for which what was written to a terminal may still be on its way through the kernel.
LINGER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a person sees of a job that runs here."""

    is_output: bool = True
    is_terminal: bool = True
    #: Whether a command finds a terminal where we have one.

    def streams(self, logs: list[int]) -> list[Stream]:
        """Where a command's stdout and stderr go, besides into its *logs*."""
        targets = (1, 2) if self.is_output else (None, None)
        has_terminal = self.is_output and self.is_terminal and os.isatty(1)
        return [
            Stream(log, target, is_terminal=has_terminal and os.isatty(target or 1))
            for log, target in zip(logs, targets, strict=True)
        ]


class Stream:
    """stdout or stderr of one command."""

    def __init__(self, log: int, target: int | None, *, is_terminal: bool = False) -> None:
        """*log* takes what is written, and so does *target* unless it is None. With *is_terminal* the command finds a terminal."""
        self._log = log
        self._target = target
        self._outlet, self.inlet, self._is_terminal = _open(is_terminal=is_terminal)
        self._ended_outlet, self._ended_inlet = os.pipe()
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self.resize()

    def resize(self) -> None:
        """Give the command's terminal the size of ours."""
        if self._is_terminal and self._target is not None and self._outlet >= 0:
            with contextlib.suppress(termios.error, OSError):
                termios.tcsetwinsize(self._outlet, termios.tcgetwinsize(self._target))

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
            pass  # a terminal that the command has let go of; or our reader is gone, which closing tells the command
        finally:
            descriptors, self._outlet = (self._outlet, self._ended_outlet, self._log), -1
            for descriptor in descriptors:
                os.close(descriptor)

    def _has_more(self) -> bool:
        ready = wait_readable([self._outlet, self._ended_outlet], None)
        if self._outlet in ready or not self._is_terminal:
            return self._outlet in ready
        return bool(wait_readable([self._outlet], LINGER))


def _open(*, is_terminal: bool) -> tuple[int, int, bool]:
    """Our end, the command's, and whether they are a terminal's; it passes every byte on as it is, so that the log has what was written."""
    if is_terminal:
        with contextlib.suppress(OSError):  # a machine may have run out of them, or have none
            ours, theirs = os.openpty()
            modes = termios.tcgetattr(theirs)
            modes[1] &= ~termios.OPOST
            termios.tcsetattr(theirs, termios.TCSANOW, modes)
            return ours, theirs, True
    return *os.pipe(), False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of *data*, however little fits at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
