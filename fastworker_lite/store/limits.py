"""Which of the next jobs their limits let begin, and what becomes of the others.

A job over a limit does not stay in the way: it leaves the queue, blocked, and comes back when a place is free; see the
trigger job_frees_its_limits in schema.sql, and `release_by_time` for rates.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from ..job import Claimed
from ..limits import Limit, read_limits
from ..options import rate_of

#: Jobs that one claim puts aside before it lets others have the gate.
MOST_ASIDE = 200


class Queue(NamedTuple):
    """A queue from which may be claimed, and its limits."""

    name: str
    workers: int | None
    rate: str | None

    @property
    def is_limited(self) -> bool:
        return self.workers is not None or self.rate is not None


def note(sql: sqlite3.Connection, job_id: int, text: str) -> None:
    """Have the end of this job free those that wait for one of its limits. Rates are freed by time."""
    keys = [(job_id, limit.key) for limit in read_limits(text) if limit.seconds is None]
    sql.executemany("INSERT OR IGNORE INTO job_limit (job, key) VALUES (?, ?)", keys)


def admit(sql: sqlite3.Connection, jobs: Sequence[Claimed], now: float) -> list[Claimed]:
    """Those of the next *jobs*, in order, that may be begun together; those over a limit are put aside.

    A job with limits begins alone, with its places taken: none of a batch may wait for its turn in it.
    """
    admitted: list[Claimed] = []
    for job in jobs:
        if job.limits is None:
            admitted.append(job)
        elif admitted:
            break
        elif take_places(sql, job, now):
            return [job]
    return admitted


def take_places(sql: sqlite3.Connection, job: Claimed, now: float) -> bool:
    """Take this job's places under its limits, or put it aside until there is one."""
    limits = read_limits(job.limits or "[]")
    full = next((limit for limit in limits if not _has_room(sql, limit, now)), None)
    if full is not None:
        _put_aside(sql, job.id, full)
        _let_another(sql, job.id, [limit for limit in limits if limit != full])
        return False
    for limit in limits:
        if limit.seconds is None:
            sql.execute("INSERT INTO slot (key, job) VALUES (?, ?)", (limit.key, job.id))
        else:
            _spend(sql, limit, now)
    return True


def _has_room(sql: sqlite3.Connection, limit: Limit, now: float) -> bool:
    if limit.seconds is None:
        return _count(sql, limit) < limit.most
    tokens = _tokens(sql, limit, now)
    has_room = tokens >= 1 - _ALMOST
    if not has_room:
        _wake_at(sql, limit, now, tokens)
    return has_room


def _count(sql: sqlite3.Connection, limit: Limit) -> int:
    return int(sql.execute("SELECT count(*) FROM slot WHERE key = ?", (limit.key,)).fetchone()[0])


def _put_aside(sql: sqlite3.Connection, job_id: int, limit: Limit) -> None:
    sql.execute(
        "UPDATE job SET state = 'blocked', waits_for = ?, reason = ? WHERE id = ?",
        (limit.key, f"waits for {limit.key}", job_id),
    )


def _let_another(sql: sqlite3.Connection, job_id: int, others: Sequence[Limit]) -> None:
    """This job had come to the queue for a place that it cannot use now: somebody else may."""
    for limit in others:
        if limit.seconds is None and _count(sql, limit) < limit.most:
            release(sql, limit.key, 1)


def holder(sql: sqlite3.Connection, key: str) -> int | None:
    """A job that has a place under this limit now."""
    row = sql.execute("SELECT job FROM slot WHERE key = ? LIMIT 1", (key,)).fetchone()
    return None if row is None else int(row[0])


def holders(sql: sqlite3.Connection, job_id: int) -> list[int]:
    """The jobs that have the places this one waits for."""
    rows = sql.execute("SELECT job FROM slot WHERE key = (SELECT waits_for FROM job WHERE id = ?)", (job_id,))
    return [row[0] for row in rows]


_RELEASE = """
UPDATE job
   SET state = 'queued', waits_for = NULL, reason = NULL
 WHERE id IN (SELECT id
                FROM job
               WHERE state = 'blocked'
                 AND waits_for = :key
                 AND queue = :queue
                 AND lane = :lane
               ORDER BY priority DESC, id
               LIMIT :most)
"""


def release(sql: sqlite3.Connection, key: str, most: int) -> int:
    """Queue the next jobs that wait for this limit: of each queue and lane, up to *most*. Returns how many."""
    return sum(
        sql.execute(_RELEASE, {"key": key, "queue": name, "lane": lane, "most": most}).rowcount
        for (name,) in sql.execute("SELECT name FROM queue").fetchall()
        for lane in (0, 1)
    )


# ---- rates

#: Seconds between two looks at a bucket that jobs wait for: at high rates several of them come at a time.
PACE = 0.02
#: What arithmetic may have lost of a token.
_ALMOST = 1e-6


def _tokens(sql: sqlite3.Connection, limit: Limit, now: float) -> float:
    """What is in the bucket: it holds `most`, and fills up in `seconds`. A clock that went back does not empty it."""
    row = sql.execute("SELECT tokens, at FROM bucket WHERE key = ?", (limit.key,)).fetchone()
    if row is None:
        return float(limit.most)
    return float(min(limit.most, row[0] + max(0.0, now - row[1]) * limit.most / (limit.seconds or 1.0)))


def _spend(sql: sqlite3.Connection, limit: Limit, now: float) -> None:
    sql.execute(
        """
        INSERT INTO bucket (key, tokens, at, most, seconds)
        VALUES (:key, :tokens, :now, :most, :seconds)
        ON CONFLICT (key) DO UPDATE
           SET tokens = :tokens, at = :now, most = :most, seconds = :seconds
        """,
        {"tokens": _tokens(sql, limit, now) - 1, "now": now} | limit._asdict(),
    )


def _wake_at(sql: sqlite3.Connection, limit: Limit, now: float, tokens: float) -> None:
    moment = now + max(PACE, (1 - tokens) * (limit.seconds or 1.0) / limit.most)
    sql.execute("UPDATE bucket SET wake_at = ? WHERE key = ? AND wake_at IS NULL", (moment, limit.key))


def next_release(sql: sqlite3.Connection) -> float | None:
    """When the next job that waits for a rate may begin."""
    moment: float | None = sql.execute("SELECT min(wake_at) FROM bucket WHERE wake_at IS NOT NULL").fetchone()[0]
    return moment


def release_by_time(sql: sqlite3.Connection, now: float) -> int:
    """Queue the jobs whose rate has room again. Returns how many workers have something to look for."""
    ready = sql.execute(
        "SELECT key, most, seconds FROM bucket WHERE wake_at IS NOT NULL AND wake_at <= ?", (now,)
    ).fetchall()
    sql.execute("UPDATE bucket SET wake_at = NULL WHERE wake_at <= ?", (now,))
    count = 0
    for row in ready:
        limit = Limit._make(row)
        tokens = _tokens(sql, limit, now)
        room = max(1, int(tokens + _ALMOST))
        count += max(1, release(sql, limit.key, room))  # a queue's own jobs have not left it
        if _is_awaited(sql, limit):
            _wake_at(sql, limit, now, tokens - room)
    return count


def _is_awaited(sql: sqlite3.Connection, limit: Limit) -> bool:
    row = sql.execute("SELECT 1 FROM job WHERE state = 'blocked' AND waits_for = ? LIMIT 1", (limit.key,)).fetchone()
    return row is not None


def forget_full(sql: sqlite3.Connection, now: float) -> None:
    """Remove the buckets that have filled up: without a row they are full."""
    sql.execute("DELETE FROM bucket WHERE wake_at IS NULL AND at + (most - tokens) * seconds / most < ?", (now,))


# ---- queues


def open_queues(sql: sqlite3.Connection, served: tuple[str, ...] | None, now: float) -> list[Queue]:
    """The queues from which may be claimed now: served, not paused, and under their own limits. A different one first each time."""
    queues = [
        Queue._make(row)
        for row in sql.execute("SELECT name, workers, rate FROM queue WHERE NOT paused ORDER BY name")
        if served is None or row[0] in served
    ]
    if len(queues) > 1:  # none may starve behind another: each is first in turn
        first = int(now * 1000) % len(queues)
        queues = queues[first:] + queues[:first]
    return queues


def count_queued(sql: sqlite3.Connection, queue: str, most: int) -> int:
    """How many jobs of a queue are queued, counted no further than *most*."""
    row = sql.execute(
        "SELECT count(*) FROM (SELECT 1 FROM job WHERE state = 'queued' AND queue = ? LIMIT ?)", (queue, most)
    ).fetchone()
    return int(row[0])


def has_room(sql: sqlite3.Connection, queue: Queue, now: float) -> bool:
    """Whether the queue's own limits let one more of its jobs begin."""
    if queue.workers is not None:
        running = sql.execute(
            "SELECT count(*) FROM job INDEXED BY job_running WHERE state = 'running' AND queue = ?", (queue.name,)
        ).fetchone()[0]
        if running >= queue.workers:
            return False
    return queue.rate is None or _has_room(sql, _rate(queue), now)


def begin_of(sql: sqlite3.Connection, queue: Queue, now: float) -> None:
    """One of the queue's jobs begins."""
    if queue.rate is not None:
        _spend(sql, _rate(queue), now)


def _rate(queue: Queue) -> Limit:
    return Limit(f"rate of queue {queue.name}", *rate_of(queue.rate or "1/s"))
