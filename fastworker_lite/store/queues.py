"""The queues: their settings, and what is in them.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple


class Queue(NamedTuple):
    """A queue as it is now."""

    name: str
    paused: bool
    workers: int | None
    #: So many of its jobs run at a time; None for as many as there are workers.
    max_length: int | None
    #: So many may be queued; None for no limit.
    rate: str | None
    #: So many are begun in a span: "10/s"; None for no limit.
    queued: int
    running: int
    scheduled: int
    blocked: int


_EVERYBODY = """
SELECT name, paused, workers, max_length, rate,
       (SELECT count(*) FROM job WHERE state = 'queued' AND queue = queue.name)
  FROM queue
 ORDER BY name
"""

#: Each by the index of its own.
_OTHERS = """
SELECT queue, state, count(*) FROM job WHERE state = 'running' GROUP BY queue
UNION ALL
SELECT queue, state, count(*) FROM job WHERE state = 'scheduled' GROUP BY queue
UNION ALL
SELECT queue, state, count(*) FROM job WHERE state = 'blocked' GROUP BY queue
"""


def everybody(sql: sqlite3.Connection) -> list[Queue]:
    """Every queue, by name."""
    counts = {(row[0], row[1]): row[2] for row in sql.execute(_OTHERS)}
    return [
        Queue(
            name=name,
            paused=bool(paused),
            workers=workers,
            max_length=max_length,
            rate=rate,
            queued=queued,
            running=counts.get((name, "running"), 0),
            scheduled=counts.get((name, "scheduled"), 0),
            blocked=counts.get((name, "blocked"), 0),
        )
        for name, paused, workers, max_length, rate, queued in sql.execute(_EVERYBODY).fetchall()
    ]


_LIVE = """
SELECT id
  FROM job
 WHERE state = 'running'
   AND queue = :queue
UNION ALL
SELECT id
  FROM (SELECT id
          FROM job
         WHERE state = 'queued'
           AND queue = :queue
         ORDER BY lane DESC, priority, id DESC   -- the index of the queue, from its end
         LIMIT 1)
"""


def live(sql: sqlite3.Connection, name: str) -> list[int]:
    """The running jobs of a queue, and the one of those queued that will be begun last; none when it holds neither."""
    return [row[0] for row in sql.execute(_LIVE, {"queue": name})]


def names(sql: sqlite3.Connection) -> list[str]:
    return [row[0] for row in sql.execute("SELECT name FROM queue ORDER BY name")]


def change(sql: sqlite3.Connection, name: str, settings: Mapping[str, int | str | None]) -> None:
    """Make the queue if there is none of this name, and give it these settings: `workers`, `max_length`, `rate`, `paused`."""
    sql.execute("INSERT OR IGNORE INTO queue (name) VALUES (?)", (name,))
    row = sql.execute("SELECT paused, workers, max_length, rate FROM queue WHERE name = ?", (name,)).fetchone()
    wanted = dict(zip(("paused", "workers", "max_length", "rate"), row, strict=True)) | dict(settings)
    sql.execute(
        """
        UPDATE queue
           SET paused = :paused, workers = :workers, max_length = :max_length, rate = :rate
         WHERE name = :name
        """,
        wanted | {"name": name},
    )


def remove(sql: sqlite3.Connection, name: str) -> int | None:
    """Forget a queue. Returns how many jobs that have not ended kept it from that: 0 is gone; None for no such queue."""
    if sql.execute("SELECT 1 FROM queue WHERE name = ?", (name,)).fetchone() is None:
        return None
    live = sum(
        sql.execute(statement, (name,)).fetchone()[0]
        for statement in (
            "SELECT count(*) FROM job WHERE state = 'queued' AND queue = ?",
            "SELECT count(*) FROM job WHERE state = 'running' AND queue = ?",
            "SELECT count(*) FROM job WHERE state = 'scheduled' AND queue = ?",
            "SELECT count(*) FROM job WHERE state = 'blocked' AND queue = ?",
        )
    )
    if not live:
        sql.execute("DELETE FROM queue WHERE name = ?", (name,))
    return int(live)
