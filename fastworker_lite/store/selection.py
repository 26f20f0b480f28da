"""Which jobs a person means: those of a state, a queue, a name, a tag, a time.

Each function reads within a transaction that its caller has opened; see `Connection.read`.

Runs in: the command line.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from ..job import TERMINAL, State


class Filter(NamedTuple):
    """What jobs must all have to be meant; None is no condition."""

    ids: tuple[int, ...] | None = None
    states: frozenset[State] = frozenset(State)
    queue: str | None = None
    name: str | None = None
    #: GLOB over the name, or over the task of a job without one.
    tags: dict[str, str] | None = None
    since: float | None = None
    #: Submitted at this Unix time or later.

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "ids": None if self.ids is None else json.dumps(self.ids),
            "ended": json.dumps(sorted(self.states & TERMINAL)),
            "queue": self.queue,
            "name": None if self.name is None else self.name.replace("[!", "[^"),  # as shells have it
            "tags": json.dumps(self.tags) if self.tags else None,
            "since": self.since,
        }


_CONDITIONS = """
   AND (:queue IS NULL OR queue = :queue)
   AND (:since IS NULL OR created_at >= :since)
   AND (:name IS NULL OR ifnull(name, task) GLOB :name)
   AND (:tags IS NULL OR (tags IS NOT NULL AND NOT EXISTS (
            SELECT key, value FROM json_each(:tags) EXCEPT SELECT key, value FROM json_each(job.tags))))
   AND (:ids IS NULL OR id IN (SELECT value FROM json_each(:ids)))
"""

#: One for each state that is not an end, so that the index over it is used.
_ACTIVE = {
    # For the order, SQLite would rather read all jobs by id.
    State.RUNNING: f"SELECT id FROM job INDEXED BY job_running WHERE state = 'running' {_CONDITIONS} ORDER BY id LIMIT :limit",
    State.QUEUED: f"SELECT id FROM job WHERE state = 'queued' {_CONDITIONS} ORDER BY queue, lane, priority DESC, id LIMIT :limit",
    State.SCHEDULED: f"SELECT id FROM job WHERE state = 'scheduled' {_CONDITIONS} ORDER BY due_at LIMIT :limit",
    State.BLOCKED: f"SELECT id FROM job WHERE state = 'blocked' {_CONDITIONS} ORDER BY task, id LIMIT :limit",
}
_ENDED = f"""
SELECT id
  FROM job
 WHERE finished_at IS NOT NULL
   AND state IN (SELECT value FROM json_each(:ended)) {_CONDITIONS}
 ORDER BY id DESC
 LIMIT :limit
"""
_WITHOUT_LIMIT = -1


def active(sql: sqlite3.Connection, wanted: Filter, limit: int | None = None) -> list[int]:
    """Those that have not ended: the running ones, then in the order in which they will be looked at."""
    found: list[int] = []
    for state in (state for state in _ACTIVE if state in wanted.states):
        left = _WITHOUT_LIMIT if limit is None else limit - len(found)
        found += [row[0] for row in sql.execute(_ACTIVE[state], wanted.parameters | {"limit": left})]
    return found


def ended(sql: sqlite3.Connection, wanted: Filter, limit: int | None = None) -> list[int]:
    """Those that have ended, newest first."""
    if not wanted.states & TERMINAL:
        return []
    rows = sql.execute(_ENDED, wanted.parameters | {"limit": _WITHOUT_LIMIT if limit is None else limit})
    return [row[0] for row in rows]


def everything(sql: sqlite3.Connection, wanted: Filter) -> list[int]:
    """All of them, by id."""
    return sorted(active(sql, wanted) + ended(sql, wanted))


def count(sql: sqlite3.Connection, wanted: Filter) -> int:
    """How many there are."""
    return len(everything(sql, wanted))


def newest_named(sql: sqlite3.Connection, name: str) -> int | None:
    """The newest job that a person, or a schedule, called so."""
    row = sql.execute(
        """
        SELECT max(id) FROM (SELECT max(id) AS id FROM job WHERE name = :name
                             UNION ALL SELECT max(job) FROM tick WHERE schedule = :name)
        """,
        {"name": name},
    ).fetchone()
    return None if row[0] is None else int(row[0])


def names(sql: sqlite3.Connection) -> Iterable[str]:
    """What the newest jobs are called, for a person who has slipped."""
    rows = sql.execute(
        "SELECT DISTINCT name FROM (SELECT name FROM job ORDER BY id DESC LIMIT 10000) WHERE name IS NOT NULL"
    )
    return [row[0] for row in rows]
