"""The lines around a list, for a person who looks: which file it is of, what its queues do, who serves it, what comes next.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys
import time

from ..store import queues, situation
from ..store.connection import Connection
from . import render
from .session import Session, live_runners

#: Queues that are named; of more, those with something to say.
_MOST_QUEUES = 6


def put_database(session: Session) -> None:
    """Say which file it is where that depends on the folder or the environment."""
    if not session.is_usual_database:
        near = os.path.relpath(session.database)
        session.chat(f"db: {render.clean(session.database if near.startswith(os.pardir) else os.path.join('.', near))}")


def put(session: Session, connection: Connection) -> None:
    """One line, on a terminal only."""
    if not session.is_quiet and render.is_terminal(sys.stderr):
        render.say(line(connection))


def line(connection: Connection) -> str:
    """What the queues do, who serves them, and what comes next."""
    parts = [*_queues(connection), _served(connection), *_next_schedule(connection)]
    return render.clean(f" {render.dot(sys.stderr)} ".join(parts))


def _queues(connection: Connection) -> list[str]:
    rows = connection.read(queues.everybody)
    busy = [row for row in rows if row.running or row.queued or row.paused] or rows[:1]
    parts = []
    for row in busy[:_MOST_QUEUES]:
        places = f"/{row.workers}" if row.workers is not None else ""
        doing = f"{row.running}{places} running, {row.queued} queued"
        parts.append(f"{row.name} {f'paused, {row.queued} queued' if row.paused else doing}")
    return parts + ([f"{len(busy) - _MOST_QUEUES} more queues"] if len(busy) > _MOST_QUEUES else [])


def _served(connection: Connection) -> str:
    rows = live_runners(connection)
    if not rows:
        return "no worker is running"
    up = render.age(time.time() - min(row.started_at for row in rows))
    return f"worker pid {', '.join(str(row.pid) for row in rows)}, up {up}"


def _next_schedule(connection: Connection) -> list[str]:
    found = connection.read(situation.next_schedule)
    return [] if found is None else [f"next schedule: {found[0]} in {render.duration(found[1] - time.time())}"]
