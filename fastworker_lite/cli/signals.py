"""The signals that ask this process to end, as something to wait for: they are for the job it runs.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Arrivals:
    """Signals, and a word from other threads, for a main thread that does nothing but wait for them.

    A queue would not do: of two signals that come at once another thread may take both, and then nothing wakes the main
    one, which alone runs handlers. The interpreter writes them into this pipe on whichever thread they come.
    """

    def __init__(self) -> None:
        self._outlet, self._inlet = os.pipe()
        os.set_blocking(self._inlet, False)
        signal.set_wakeup_fd(self._inlet, warn_on_full_buffer=False)
        for number in ENDING:
            signal.signal(number, lambda *_: None)

    def put(self, number: int) -> None:
        os.write(self._inlet, bytes([number]))

    def get(self) -> int:
        """Wait for the next one."""
        return os.read(self._outlet, 1)[0]


class Signals:
    """While it lasts, INT, TERM and HUP are only noted, and so is that the terminal has another size."""

    def __init__(self) -> None:
        self._arrived: list[int] = []
        self._outlet, self._inlet = os.pipe()
        os.set_blocking(self._outlet, False)
        os.set_blocking(self._inlet, False)
        self.last: int | None = None
        #: The one that asked for the end last.
        self.count = 0
        #: How often it was asked for, by other signals than those of a cancel.

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in (*ENDING, signal.SIGWINCH)}
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self._arrived.append(number)
        if number in ENDING:
            self.last = number
        with contextlib.suppress(BlockingIOError):  # it is full, and so readable
            os.write(self._inlet, b"s")

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._outlet)
        os.close(self._inlet)

    def fileno(self) -> int:
        """Readable when `take` would give something."""
        return self._outlet

    def take(self) -> list[int]:
        """What has arrived since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._outlet, 4096)
        arrived, self._arrived = self._arrived, []
        return arrived
