"""Queues: their settings, checked, and told to whoever serves them.

Runs in: every process that submits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from .errors import ConfigError
from .options import QUEUE_RULES
from .sockets import Waker
from .store import queues, runners
from .store.connection import Connection


def queue_settings(given: Mapping[str, object]) -> dict[str, int | str | None]:
    """The settings of a queue, checked: `workers`, `max_length`, `rate`; None takes one away. Raises `ConfigError`."""
    unknown = given.keys() - QUEUE_RULES.keys()
    if unknown:
        raise ConfigError(f'a queue has no setting "{min(unknown)}"; it may have {", ".join(QUEUE_RULES)}')
    return {name: None if value is None else QUEUE_RULES[name](name, value) for name, value in given.items()}


def change_queue(connection: Connection, waker: Waker, name: str, settings: Mapping[str, int | str | None]) -> None:
    """Give a queue these settings, and have every runner look at it anew. Makes it if there is none of this name."""

    def transact(sql: sqlite3.Connection) -> list[runners.Addresses]:
        queues.change(sql, name, settings)
        return runners.addresses(sql)

    for where in connection.write(transact):
        waker.poke_all((where.wake, where.wake_async), times=11)
        waker.poke(where.control)
