"""What is still to be told: one row for each ended job and each who wants to know.

The rows are written by the trigger `job_ended_is_told`, in the transaction that ends the job.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

#: Bytes of messages in one page, beyond its first: a backlog must not fill the runner's memory.
_PAGE_BYTES = 256 * 1024


class Message(NamedTuple):
    """How a job ended, for one who wants to know."""

    id: int
    job: int
    task: str
    attempt: int
    state: str
    reason: str | None
    error: str | None
    started_at: float | None
    finished_at: float
    data: str | None
    #: JSON.
    told: str | None
    #: JSON, see `serialization.tell`.


_FIELDS = ", ".join(f"outbox.{name}" for name in Message._fields)
_PENDING = f"""
SELECT {_FIELDS}
  FROM outbox LEFT JOIN listener ON listener.id = outbox.listener
 WHERE dead IS NULL
   AND outbox.address = ?
   AND outbox.id > ?
   AND NOT ifnull(paused, 0)
 ORDER BY outbox.id
 LIMIT ?
"""


def addresses(sql: sqlite3.Connection) -> list[str]:
    """Where something is to be told. Costs a step for each address, however many rows wait."""
    rows = sql.execute(
        """
        WITH RECURSIVE next (address) AS (
            SELECT min(address) FROM outbox WHERE dead IS NULL
            UNION ALL
            SELECT (SELECT min(address) FROM outbox WHERE dead IS NULL AND address > next.address)
              FROM next
             WHERE next.address IS NOT NULL)
        SELECT address FROM next WHERE address IS NOT NULL
        """
    )
    return [row[0] for row in rows]


def pending(sql: sqlite3.Connection, address: str, after: int, limit: int) -> list[Message]:
    """The next messages for an address, in their order: at most *limit*, and not many bytes."""
    found, size = [], 0
    for row in sql.execute(_PENDING, (address, after, limit)):
        message = Message._make(row)
        found.append(message)
        size += len(message.told or "") + len(message.data or "") + len(message.error or "")
        if size > _PAGE_BYTES:
            break
    return found


def remove(sql: sqlite3.Connection, ids: Iterable[int]) -> None:
    """These have been acknowledged."""
    sql.executemany("DELETE FROM outbox WHERE id = ?", [(one,) for one in ids])


def give_up(sql: sqlite3.Connection, message: int, reason: str) -> None:
    """Try this one no more."""
    sql.execute("UPDATE outbox SET dead = ? WHERE id = ?", (reason, message))


def give_up_old(sql: sqlite3.Connection, address: str, before: float, most: int) -> int:
    """Try those no more that are older than *before*, and the oldest of more than *most*. Returns how many."""
    count: int = sql.execute("SELECT count(*) FROM outbox WHERE dead IS NULL AND address = ?", (address,)).fetchone()[0]
    late: int = sql.execute(
        "UPDATE outbox SET dead = 'too old' WHERE dead IS NULL AND address = ? AND finished_at < ?", (address, before)
    ).rowcount
    surplus = count - late - most
    if surplus > 0:
        sql.execute(
            """
            UPDATE outbox
               SET dead = 'too many'
             WHERE id IN (SELECT id FROM outbox WHERE dead IS NULL AND address = ? ORDER BY id LIMIT ?)
            """,
            (address, surplus),
        )
    return late + max(0, surplus)


class Backlog(NamedTuple):
    """What waits for one address."""

    address: str
    waiting: int
    dead: int
    oldest: float | None


def backlogs(sql: sqlite3.Connection) -> list[Backlog]:
    """For each address, how much waits and how much was given up."""
    rows = sql.execute(
        """
        SELECT address, sum(dead IS NULL), sum(dead IS NOT NULL), min(finished_at)
          FROM outbox
         GROUP BY address
         ORDER BY address
        """
    )
    return [Backlog._make(row) for row in rows]


def dead_letters(sql: sqlite3.Connection, limit: int) -> list[tuple[int, str, int, float, str]]:
    """Those that were given up: id, address, job, moment, reason."""
    return sql.execute(
        "SELECT id, address, job, finished_at, dead FROM outbox WHERE dead IS NOT NULL ORDER BY id LIMIT ?", (limit,)
    ).fetchall()


def redeliver(sql: sqlite3.Connection, address: str) -> int:
    """Try again what was given up for this address. Returns how many."""
    return sql.execute("UPDATE outbox SET dead = NULL WHERE dead IS NOT NULL AND address = ?", (address,)).rowcount


def is_empty(sql: sqlite3.Connection) -> bool:
    return sql.execute("SELECT 1 FROM outbox WHERE dead IS NULL LIMIT 1").fetchone() is None


def database_id(sql: sqlite3.Connection) -> str:
    """What tells this file's events from another's."""
    return str(sql.execute("SELECT value FROM setting WHERE key = 'id'").fetchone()[0])
