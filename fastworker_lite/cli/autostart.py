"""Who queues something is to have it run: a worker is started at a terminal, and what to type is said elsewhere.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys

from ..store.connection import Connection
from . import render
from .session import NO_WORKER, Session


def start_or_say(session: Session, connection: Connection, *, may_start: bool = True) -> bool:
    """Start a worker, where the settings want that, or say that there is none. True when there is one then."""
    if may_start and _is_wanted(session):
        from .starting import start_worker

        if start_worker(session, connection):
            return True
    render.say(NO_WORKER)
    return False


def _is_wanted(session: Session) -> bool:
    said = os.environ.get("FWL_AUTOSTART", "")
    when = {"": session.config.autostart, "0": "never", "1": "tty"}.get(said, said)
    if when not in ("tty", "never", "always"):
        render.say(f'FWL_AUTOSTART must be tty, never or always, got "{render.clean(said)}"')
    is_at_terminal = render.is_terminal(sys.stdin) and render.is_terminal(sys.stderr)
    return when == "always" or (when == "tty" and is_at_terminal)
