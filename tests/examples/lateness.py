"""How late a window's own timer is: what its user would feel."""

from __future__ import annotations

import time

#: Seconds between two ticks.
TICK = 0.01


class Lateness:
    """Told of each tick of a timer of `TICK` seconds."""

    def __init__(self) -> None:
        self._late: list[float] = []
        self._due = time.monotonic() + TICK

    def tick(self) -> None:
        now = time.monotonic()
        self._late.append(max(0.0, now - self._due))
        self._due = now + TICK

    def report(self) -> str:
        late = sorted(self._late)
        p99 = late[int(len(late) * 0.99)]
        return f"{len(late)} ticks, p99 {p99 * 1000:.1f} ms late, at most {late[-1] * 1000:.1f}"
