"""What is closed when the main thread ends: atexit comes later, after it has waited for our threads.

Runs in: every process that opens a client or a runner.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Closes(Protocol):
    def close_at_end(self) -> None:
        """Let go, so that no thread of ours keeps the process."""


_open: weakref.WeakSet[Closes] = weakref.WeakSet()
_lock = threading.Lock()
_watching_pid = 0


def close_when_main_thread_ends(resource: Closes) -> None:
    """Have *resource* closed when the program's main thread has come to its end, if it still lives."""
    global _watching_pid
    with _lock:
        _open.add(resource)
        if _watching_pid != os.getpid():
            _watching_pid = os.getpid()
            threading.Thread(target=_watch, name="fastworker-exit", daemon=True).start()


def _watch() -> None:
    threading.main_thread().join()
    with _lock:
        resources = list(_open)
    for resource in resources:
        resource.close_at_end()
