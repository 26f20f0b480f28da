"""A module of the frozen tool: tasks that workers find by name."""

from __future__ import annotations

import os
import threading


def measure(text: str) -> tuple[int, int, bool]:
    """The length of *text*, the process that found it, and whether its threads can import what it can."""
    found: list[object] = []

    def look() -> None:
        from fastworker_lite.durations import __name__ as name

        found.append(name)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(5)
    return len(text), os.getpid(), bool(found)
