"""A module of the frozen tool: tasks that workers find by name."""

from __future__ import annotations

import os
import threading

from fastworker_lite import current_job


def measure(text: str) -> tuple[int, bool, str | None]:
    """The length of *text*, whether this process's threads can import what it can, and where it looks for libraries."""
    found: list[object] = []
    current_job().progress(len(text))

    def look() -> None:
        from fastworker_lite import __version__

        found.append(__version__)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(5)
    return len(text), bool(found), os.environ.get("LD_LIBRARY_PATH")
