"""The applications' own databases that jobs come from, see relay.py.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from ..job import NewJob
from . import submitting


def register(sql: sqlite3.Connection, path: str) -> None:
    """Have whoever leads look into this database."""
    sql.execute("INSERT OR IGNORE INTO relay (path) VALUES (?)", (path,))


def sources(sql: sqlite3.Connection) -> list[str]:
    """The databases to look into."""
    return [row[0] for row in sql.execute("SELECT path FROM relay ORDER BY path")]


def take_over(sql: sqlite3.Connection, submitted: Sequence[NewJob], now: float) -> None:
    """Store these jobs but for those that were stored before: each has a key that no other job has, and keeps it.

    Raises `QueueFull`; the caller tries again.
    """
    known = "SELECT 1 FROM job WHERE idempotency_key = ? LIMIT 1"
    fresh = [job for job in submitted if sql.execute(known, (job.options.idempotency_key,)).fetchone() is None]
    submitting.insert(sql, fresh, now)


def find(sql: sqlite3.Connection, key: str) -> int | None:
    """The id of the job that was submitted with this key, None while there is none."""
    row = sql.execute("SELECT max(id) FROM job WHERE idempotency_key = ?", (key,)).fetchone()
    return None if row[0] is None else int(row[0])
