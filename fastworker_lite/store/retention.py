"""What is kept of jobs that have ended, and for how long.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

#: Rows that one transaction looks at: a gate that is held for longer would hold up submitters.
PAGE = 1000

#: What has not been told yet stays. The page is one of ids, in order: an index over the moment of the end would cost every
#: job two pages of the log.
_PAGE_OF_IDS = "SELECT id, attempt, state, finished_at FROM job WHERE id > ? ORDER BY id LIMIT ?"
_DELETE = """
DELETE FROM job
 WHERE id = ?
   AND finished_at IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = job.id AND dead IS NULL)
"""
#: Whether `_DELETE` would: the trigger `job_newest_stays` is repeated, because only a DELETE meets it.
_WOULD_GO = """
SELECT 1
  FROM job
 WHERE id = ?
   AND id < (SELECT max(id) FROM job)
   AND NOT EXISTS (SELECT 1 FROM outbox WHERE outbox.job = job.id AND dead IS NULL)
"""


class Removed(NamedTuple):
    """A job that is gone; its logs are still to be removed."""

    id: int
    attempts: int


class Pruned(NamedTuple):
    """What one step has done."""

    last: int
    #: The id it has come to; 0 when there are no more.
    removed: list[Removed]


def prune_page(
    sql: sqlite3.Connection, after: int, before: Mapping[str, float], surplus: int, *, is_dry: bool = False
) -> Pruned:
    """Delete, among the next jobs after the id *after*, those that ended before the moment their state is kept from.

    Also those up to the id *surplus*, whose state is to be pruned at all.
    """
    rows = sql.execute(_PAGE_OF_IDS, (after, PAGE)).fetchall()
    old = [
        Removed(job_id, attempt)
        for job_id, attempt, state, finished_at in rows
        if finished_at is not None and state in before and (finished_at < before[state] or job_id <= surplus)
    ]
    if is_dry:
        removed = [one for one in old if sql.execute(_WOULD_GO, (one.id,)).fetchone()]
    else:
        removed = [one for one in old if sql.execute(_DELETE, (one.id,)).rowcount]
    return Pruned(rows[-1][0] if len(rows) == PAGE else 0, removed)


def remove(sql: sqlite3.Connection, job_id: int) -> Removed | None:
    """Delete one job that has ended; None where there is none, or where it stays."""
    row = sql.execute("SELECT attempt FROM job WHERE id = ?", (job_id,)).fetchone()
    return Removed(job_id, row[0]) if row is not None and sql.execute(_DELETE, (job_id,)).rowcount else None


def forget_results(sql: sqlite3.Connection, after: int, before: float) -> int:
    """Drop the results of the next jobs after *after* that ended before *before*. Returns the id it has come to, 0 at the end."""
    rows = sql.execute(_PAGE_OF_IDS, (after, PAGE)).fetchall()
    old = [(row[0],) for row in rows if row[3] is not None and row[3] < before]
    sql.executemany(
        "UPDATE job SET result = NULL, result_checksum = NULL, told = NULL WHERE id = ? AND result IS NOT NULL", old
    )
    return rows[-1][0] if len(rows) == PAGE else 0


def surplus(sql: sqlite3.Connection, most: int) -> int:
    """The id up to which ended jobs are more than the newest *most* ended ones; 0 when there are not so many."""
    row = sql.execute(
        "SELECT id FROM job WHERE finished_at IS NOT NULL ORDER BY id DESC LIMIT 1 OFFSET ?", (most,)
    ).fetchone()
    return 0 if row is None else int(row[0])
