"""Who wants to be told when a job ends: rows of (job, datagram address).

A row is stored in the transaction that saw the job unfinished, and taken in the one that ends it, so that no end is
missed in between.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable


def add(sql: sqlite3.Connection, ids: Iterable[int], address: str) -> None:
    """Have *address* poked when these jobs end. Called in the transaction that saw them unfinished."""
    sql.executemany("INSERT OR IGNORE INTO waiter (job, address) VALUES (?, ?)", [(job_id, address) for job_id in ids])


_ADD_UNFINISHED = """
INSERT OR IGNORE INTO waiter (job, address)
SELECT id, :address
  FROM job
 WHERE id IN (SELECT value FROM json_each(:ids))
   AND finished_at IS NULL
"""


def add_unfinished(sql: sqlite3.Connection, ids: Iterable[int], address: str) -> None:
    """Have *address* poked when those of these jobs end that have not yet."""
    sql.execute(_ADD_UNFINISHED, {"ids": json.dumps(list(ids)), "address": address})


_TAKE = """
DELETE FROM waiter
 WHERE job = ?
   AND EXISTS (SELECT 1
                 FROM job
                WHERE id = waiter.job
                  AND finished_at IS NOT NULL)   -- not for one that is tried again
RETURNING address
"""


def take(sql: sqlite3.Connection, ids: Iterable[int]) -> set[str]:
    """The addresses to poke for jobs that end in this transaction; their rows are removed."""
    if sql.execute("SELECT 1 FROM waiter LIMIT 1").fetchone() is None:
        return set()
    return {row[0] for job_id in ids for row in sql.execute(_TAKE, (job_id,)).fetchall()}


def forget(sql: sqlite3.Connection, address: str) -> None:
    """Remove every row of an address that is closed."""
    sql.execute("DELETE FROM waiter WHERE address = ?", (address,))
