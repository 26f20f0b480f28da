"""How late a loop's own timer is: what the user of a window would feel."""

from __future__ import annotations

import time

#: Seconds between two ticks.
TICK = 0.01


class Lateness:
    """Told of each tick of a timer of `TICK` seconds."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self.begin()

    def begin(self) -> None:
        self._due = time.monotonic() + TICK

    def tick(self) -> None:
        now = time.monotonic()
        self._late.append(max(0.0, now - self._due))
        self._due = now + TICK

    def left(self) -> float:
        """Seconds until the next tick is due."""
        return max(0.0, self._due - time.monotonic())

    def count(self) -> int:
        return len(self._late)

    def p99(self) -> float:
        return sorted(self._late)[int(len(self._late) * 0.99)]

    def report(self) -> str:
        return f"{self.count()} ticks, p99 {self.p99() * 1000:.1f} ms late, at most {max(self._late) * 1000:.1f}"
