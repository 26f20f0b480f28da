"""Who wants to be told of ended jobs: registrations that outlive their programs, and some that do not.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

ENDS = ("success", "failure", "cancelled")


class Listener(NamedTuple):
    """One registration."""

    id: int
    name: str
    address: str
    #: The path of its socket.
    task: str
    #: A GLOB over the names of tasks.
    queue: str | None
    #: None for all.
    ends: str
    #: Words of `success`, `failure`, `cancelled`.
    paused: int
    lease: str | None
    #: Of the process for whose lifetime it is registered, None for good.


_FIELDS = ", ".join(Listener._fields)
_ALL = f"SELECT {_FIELDS} FROM listener ORDER BY id"


def register(
    sql: sqlite3.Connection,
    name: str,
    address: str,
    task: str,
    queue: str | None,
    ends: Sequence[str],
    lease: str | None,
    now: float,
) -> None:
    """Register a listener; one of the same name is changed, and what waits for it is told at its new address."""
    known = sql.execute("SELECT id, address FROM listener WHERE name = ?", (name,)).fetchone()
    if known is not None and known[1] != address:
        sql.execute("UPDATE outbox SET address = ? WHERE listener = ?", (address, known[0]))
    sql.execute(
        """
        INSERT INTO listener (name, address, task, queue, ends, lease, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT (name) DO UPDATE
           SET address = excluded.address, task = excluded.task, queue = excluded.queue, ends = excluded.ends,
               lease = excluded.lease
        """,
        (name, address, task, queue, " ".join(ends), lease, now),
    )


def everybody(sql: sqlite3.Connection) -> list[Listener]:
    return [Listener._make(row) for row in sql.execute(_ALL)]


def is_anybody(sql: sqlite3.Connection) -> bool:
    return sql.execute("SELECT 1 FROM listener LIMIT 1").fetchone() is not None


def unregister(sql: sqlite3.Connection, name: str) -> bool:
    """Forget a listener, and what still waits for it. False when there is none of this name."""
    row = sql.execute("SELECT id FROM listener WHERE name = ?", (name,)).fetchone()
    if row is None:
        return False
    sql.execute("DELETE FROM outbox WHERE listener = ?", (row[0],))
    sql.execute("DELETE FROM listener WHERE id = ?", (row[0],))
    return True


def set_paused(sql: sqlite3.Connection, name: str, is_paused: bool) -> bool:
    """Have what it would be told wait, or wait no more. False when there is none of this name.

    What waits for a paused listener is marked, so that nobody steps over it again and again in search of what is to be told.
    """
    row = sql.execute("SELECT id, address FROM listener WHERE name = ?", (name,)).fetchone()
    if row is None:
        return False
    sql.execute("UPDATE listener SET paused = ? WHERE id = ?", (is_paused, row[0]))
    sql.execute(_HOLD if is_paused else _LET_GO, row)
    return True


_HOLD = "UPDATE outbox SET dead = 'paused' WHERE dead IS NULL AND listener = ? AND address = ?"
_LET_GO = "UPDATE outbox SET dead = NULL WHERE dead = 'paused' AND listener = ? AND address = ?"


def for_a_life(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    """Name and lease of those who are registered for as long as they live."""
    return sql.execute("SELECT name, lease FROM listener WHERE lease IS NOT NULL").fetchall()
