"""Listeners: registered for jobs to come, and told soon of those that have ended.

Runs in: every process that submits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from .errors import ConfigError
from .options import parse_queue
from .sockets import Waker
from .store import listeners, runners
from .store.connection import Connection
from .store.listeners import ENDS


class NewListener(NamedTuple):
    """A registration, checked."""

    name: str
    address: str
    task: str
    queue: str | None
    ends: tuple[str, ...]
    lease: str | None = None


def new_listener(address: str, task: str, queue: str | None, on: Sequence[str], name: str | None) -> NewListener:
    """Raises `ConfigError` for what cannot be."""
    from .streams import callback_path

    path = callback_path(address)
    ends = (on,) if isinstance(on, str) else tuple(on)
    if not ends or not set(ends) <= set(ENDS):
        raise ConfigError(f"on must be some of {', '.join(ENDS)}, got {on!r:.80}")
    for what, text in (("task", task), ("name", name or path)):
        if not isinstance(text, str) or not text or "\0" in text or len(text) > 500:
            raise ConfigError(f"{what} must be a text of 1 to 500 characters, got {text!r:.80}")
    return NewListener(name or path, path, task, None if queue is None else parse_queue(queue), ends)


def tell_soon(connection: Connection) -> None:
    """Have the runner that leads look at what is to be told."""
    waker = Waker()
    for where in connection.read(runners.addresses):
        waker.poke(where.outbox)
    waker.close()


def register_listener(connection: Connection, listener: NewListener) -> str:
    """Store a registration, and return its name."""
    connection.write(listeners.register, *listener, time.time())
    return listener.name
