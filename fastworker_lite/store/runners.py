"""The processes that serve a file: rows that say where to reach them. Whether they live, only their leases tell.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from ..job import Lane


class Addresses(NamedTuple):
    """Where one runner is poked."""

    wake: str
    wake_async: str
    control: str
    outbox: str


class RunnerRow(NamedTuple):
    id: int
    lease: str
    version: str
    tasks: str | None
    pid: int
    started_at: float
    role: str
    #: "worker" for fwl worker, "drain" for fwl drain, "embedded" for one in a program of somebody's.
    queues: str | None
    #: A JSON array, None for all.


class WorkerRow(NamedTuple):
    id: int
    lease: str
    runner: int | None
    lane: int
    process: str
    started_at: float


def addresses(sql: sqlite3.Connection) -> list[Addresses]:
    """Where to poke when jobs were queued."""
    return [Addresses._make(row) for row in sql.execute("SELECT wake, wake_async, control, outbox FROM runner")]


def wake_addresses(sql: sqlite3.Connection) -> list[str]:
    """Where to wake a worker of each kind that there is, and no runner."""
    has_async = sql.execute("SELECT 1 FROM worker WHERE lane = ? LIMIT 1", (Lane.ASYNC,)).fetchone() is not None
    found = addresses(sql)
    return [where.wake for where in found] + ([where.wake_async for where in found] if has_async else [])


def add_runner(
    sql: sqlite3.Connection,
    lease: str,
    version: str,
    where: Addresses,
    pid: int,
    now: float,
    role: str = "embedded",
    queues: Iterable[str] | None = None,
) -> int:
    """Store a runner that is starting, and return its id."""
    row = sql.execute(
        """
        INSERT INTO runner (lease, version, wake, wake_async, control, outbox, pid, started_at, role, queues)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        RETURNING id
        """,
        (lease, version, *where, pid, now, role, None if queues is None else json.dumps(list(queues))),
    ).fetchone()
    return int(row[0])


def set_known_tasks(sql: sqlite3.Connection, runner: int, tasks: Iterable[str]) -> str:
    """Say which names a runner's workers know. It is no longer starting then. Returns the names as JSON."""
    names = json.dumps(sorted(tasks))
    sql.execute("UPDATE runner SET tasks = ? WHERE id = ?", (names, runner))
    return names


def runners(sql: sqlite3.Connection) -> list[RunnerRow]:
    rows = sql.execute("SELECT id, lease, version, tasks, pid, started_at, role, queues FROM runner ORDER BY id")
    return [RunnerRow._make(row) for row in rows]


def remove_runner(sql: sqlite3.Connection, runner: int) -> None:
    sql.execute("DELETE FROM runner WHERE id = ?", (runner,))


def count_running(sql: sqlite3.Connection, pid: int) -> int:
    """How many jobs the workers of a runner run, by the number of its process."""
    row = sql.execute(
        """
        SELECT count(*)
          FROM job
         WHERE state = 'running'
           AND worker IN (SELECT worker.id FROM worker JOIN runner ON runner.id = worker.runner WHERE runner.pid = ?)
        """,
        (pid,),
    ).fetchone()
    return int(row[0])


def add_worker(sql: sqlite3.Connection, lease: str, runner: int | None, lane: Lane, process: str, now: float) -> int:
    """Store a worker and return its id."""
    row = sql.execute(
        "INSERT INTO worker (lease, runner, lane, process, started_at) VALUES (?, ?, ?, ?, ?) RETURNING id",
        (lease, runner, lane, process, now),
    ).fetchone()
    return int(row[0])


def workers(sql: sqlite3.Connection) -> list[WorkerRow]:
    rows = sql.execute("SELECT id, lease, runner, lane, process, started_at FROM worker ORDER BY id")
    return [WorkerRow._make(row) for row in rows]


def worker(sql: sqlite3.Connection, worker_id: int) -> WorkerRow | None:
    row = sql.execute(
        "SELECT id, lease, runner, lane, process, started_at FROM worker WHERE id = ?", (worker_id,)
    ).fetchone()
    return WorkerRow._make(row) if row else None


def worker_by_lease(sql: sqlite3.Connection, lease: str) -> WorkerRow | None:
    row = sql.execute(
        "SELECT id, lease, runner, lane, process, started_at FROM worker WHERE lease = ?", (lease,)
    ).fetchone()
    return WorkerRow._make(row) if row else None


def remove_worker(sql: sqlite3.Connection, worker: int) -> bool:
    """Forget a worker that ends. False when it holds jobs: whoever finds it dead is to recover them."""
    held = "SELECT 1 FROM job WHERE state = 'running' AND worker = ?"
    if sql.execute(held, (worker,)).fetchone() is not None:
        return False
    sql.execute("DELETE FROM worker WHERE id = ?", (worker,))
    return True
