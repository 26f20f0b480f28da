"""Which jobs wait for which, and what the end of one means for those that wait for it.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import JobNotFound
from ..job import Parent


class Consequences(NamedTuple):
    """What followed from the end of some jobs."""

    released: list[int]
    #: Jobs that may begin now.
    cancelled: list[int]
    #: Jobs that never will.

    def __bool__(self) -> bool:
        return bool(self.released or self.cancelled)


def add_edges(sql: sqlite3.Connection, child: int, parents: Sequence[Parent]) -> None:
    """Have *child*, which is blocked, wait for these jobs. Raises `JobNotFound` for one that does not exist.

    A parent must exist before its child is stored, so no circle can come about. One that has ended counts at once:
    `resolve` is to be called next.
    """
    for parent in parents:
        row = sql.execute("SELECT state, finished_at FROM job WHERE id = ?", (parent.number,)).fetchone()
        if row is None or parent.number >= child:
            raise JobNotFound(parent.number)
        outcome = None if row[1] is None else row[0]
        sql.execute(
            "INSERT INTO edge (parent, child, kind, outcome) VALUES (?, ?, ?, ?)",
            (parent.number, child, parent.kind, outcome),
        )
        if outcome is not None:
            sql.execute("INSERT OR IGNORE INTO ended_parent VALUES (?)", (parent.number,))


def look_again(sql: sqlite3.Connection, child: int) -> None:
    """Have the next `resolve` consider a job anew: its parents may have ended while it could not begin for another reason."""
    sql.execute(
        "INSERT OR IGNORE INTO ended_parent SELECT parent FROM edge WHERE child = ? AND outcome IS NOT NULL", (child,)
    )


def resolve(sql: sqlite3.Connection, now: float) -> Consequences:
    """Draw the consequences of every end since the last call, and of those they lead to.

    Called wherever a job may have ended, in the same transaction.
    """
    found = Consequences([], [])
    while parents := sql.execute("SELECT job FROM ended_parent LIMIT 1000").fetchall():
        sql.executemany("DELETE FROM ended_parent WHERE job = ?", parents)
        for (parent,) in parents:
            _tell_children(sql, parent, now, found)
    return found


_CHILDREN = """
SELECT edge.child, edge.kind, edge.outcome, job.due_at
  FROM edge JOIN job ON job.id = edge.child
 WHERE edge.parent = ?
   AND job.state = 'blocked'
   AND job.waits_for = 'jobs'
 ORDER BY edge.child
"""


def _tell_children(sql: sqlite3.Connection, parent: int, now: float, found: Consequences) -> None:
    for child, kind, outcome, due_at in sql.execute(_CHILDREN, (parent,)).fetchall():
        if kind == "success" and outcome != "succeeded":
            _cancel(sql, child, f"{parent} {outcome}", now)
            found.cancelled.append(child)
        elif kind == "failure" and outcome == "succeeded" and _all_succeeded(sql, child):
            _cancel(sql, child, f"{parent} succeeded", now)
            found.cancelled.append(child)
        elif _may_begin(sql, child):
            state = "scheduled" if due_at is not None and due_at > now else "queued"
            sql.execute("UPDATE job SET state = ?, waits_for = NULL, reason = NULL WHERE id = ?", (state, child))
            found.released.append(child)


def _cancel(sql: sqlite3.Connection, child: int, reason: str, now: float) -> None:
    sql.execute(
        "UPDATE job SET state = 'cancelled', waits_for = NULL, reason = ?, finished_at = ? WHERE id = ?",
        (reason, now, child),
    )


def _all_succeeded(sql: sqlite3.Connection, child: int) -> bool:
    """Whether none of the jobs, of which one had to fail, has or still may."""
    other = sql.execute(
        "SELECT 1 FROM edge WHERE child = ? AND kind = 'failure' AND outcome IS NOT 'succeeded' LIMIT 1", (child,)
    )
    return other.fetchone() is None


def _may_begin(sql: sqlite3.Connection, child: int) -> bool:
    open_edge = "SELECT 1 FROM edge WHERE child = ? AND outcome IS NULL AND kind <> 'failure' LIMIT 1"
    if sql.execute(open_edge, (child,)).fetchone() is not None:
        return False
    if sql.execute("SELECT 1 FROM edge WHERE child = ? AND kind = 'failure' LIMIT 1", (child,)).fetchone() is None:
        return True
    failed = "SELECT 1 FROM edge WHERE child = ? AND kind = 'failure' AND outcome <> 'succeeded' LIMIT 1"
    return sql.execute(failed, (child,)).fetchone() is not None


def parents_of(sql: sqlite3.Connection, child: int) -> list[Parent]:
    """The jobs that this one waits, or waited, for."""
    return parents_of_many(sql, [child]).get(child, [])


def parents_of_many(sql: sqlite3.Connection, children: Iterable[int]) -> dict[int, list[Parent]]:
    """By child, the jobs that it waits, or waited, for; those that wait for none are missing."""
    rows = sql.execute(
        "SELECT child, parent, kind FROM edge WHERE child IN (SELECT value FROM json_each(?)) ORDER BY child, parent",
        (json.dumps(list(children)),),
    )
    found: dict[int, list[Parent]] = {}
    for child, parent, kind in rows:
        found.setdefault(child, []).append(Parent(parent, kind))
    return found
