"""`fwl workers`: who runs jobs of this file now.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import typer

from .. import leases
from ..job import Lane
from ..store import runners, situation
from ..store.connection import Connection
from ..store.runners import RunnerRow, WorkerRow
from ..store.situation import RunningJob
from . import render
from .session import Session

#: What a runner's row calls its process, for a person.
_ROLES = {"worker": "fwl worker", "drain": "fwl drain", "embedded": "embedded in another program"}


class Present(NamedTuple):
    """Who serves the file now."""

    runners: list[RunnerRow]
    workers: list[WorkerRow]
    stale: int
    #: Rows of processes that are gone.


def workers(context: typer.Context) -> int:
    """List the runners and their worker processes, and what they are doing.

    fwl workers
    fwl workers -q | head -1
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open_existing() as connection:
        present = find_present(connection) if connection is not None else Present([], [], 0)
        running = connection.read(situation.running) if connection is not None else []
        doing = {row.id: _jobs_of(connection, row, running) for row in present.workers} if connection else {}
    if session.is_json:
        listed = [_as_json(row, present, doing) for row in present.runners]
        session.put_json(
            "fwl.workers/1", runners=listed, alone=_workers_json(None, present, doing), stale=present.stale
        )
    elif session.is_quiet:
        for row in present.runners:
            print(row.pid)
    elif present.runners or present.workers:
        _put_table(present, doing)
    else:
        session.say("no runner serves this file. Start one: fwl worker")
    if present.stale:
        session.chat(f"{present.stale} stale {'row' if present.stale == 1 else 'rows'}; see fwl doctor")
    return 0


def find_present(connection: Connection) -> Present:
    """Who holds a lease, and how many rows are left of processes that are gone."""
    known, working = connection.read(lambda sql: (runners.runners(sql), runners.workers(sql)))
    live = [row for row in known if not leases.is_free(connection.paths.lease(row.lease))]
    busy = [row for row in working if not leases.is_free(connection.paths.lease(row.lease))]
    return Present(live, busy, len(known) + len(working) - len(live) - len(busy))


def _jobs_of(connection: Connection, row: WorkerRow, running: Sequence[RunningJob]) -> list[RunningJob]:
    """What a worker runs. Of the jobs that it claimed at a time, one that runs functions has begun one."""
    jobs = [job for job in running if job.worker == row.id]
    if row.lane == Lane.ASYNC:
        return jobs
    note = leases.read_note(connection.paths.lease(row.lease))
    begun = time.time() - (time.monotonic() - note.began)
    return [job._replace(started_at=begun) for job in jobs if note.is_running and job.id == note.job]


# ---- as a table


def _put_table(present: Present, doing: dict[int, list[RunningJob]]) -> None:
    now, rows = time.time(), []
    for runner in present.runners:
        own = [row for row in present.workers if row.runner == runner.id]
        count = f"{len(own)} worker{'' if len(own) == 1 else 's'}"
        state = " (starting)" if runner.tasks is None else ""
        text = f"{_ROLES.get(runner.role, runner.role)}, {count}, version {runner.version}{state}"
        rows.append([str(runner.pid), "runner", render.age(now - runner.started_at), _queues_text(runner), text])
        rows += [_worker_line(row, doing[row.id], now) for row in own]
    rows += [_worker_line(row, doing[row.id], now) for row in present.workers if _is_alone(row, present)]
    render.put_columns(("PID", "ROLE", "SINCE", "QUEUES", "DOING"), rows)


def _is_alone(row: WorkerRow, present: Present) -> bool:
    return row.runner not in {runner.id for runner in present.runners}


def _queues_text(runner: RunnerRow) -> str:
    return "all" if runner.queues is None else ",".join(json.loads(runner.queues))


def _worker_line(row: WorkerRow, jobs: Sequence[RunningJob], now: float) -> list[str]:
    return [str(_pid(row)), _kind(row), render.age(now - row.started_at), "-", _doing_text(jobs, now)]


def _doing_text(jobs: Sequence[RunningJob], now: float) -> str:
    if not jobs:
        return "idle"
    oldest = min(jobs, key=lambda job: job.started_at or now)
    since = render.duration(now - (oldest.started_at or now))
    one = f"{oldest.id} {oldest.name or oldest.task} for {since}"
    return one if len(jobs) == 1 else f"{one}, and {len(jobs) - 1} more"


def _kind(row: WorkerRow) -> str:
    if row.runner is None:
        return "fwl run"
    return "coroutines" if row.lane == Lane.ASYNC else "worker"


def _pid(row: WorkerRow) -> int:
    return leases.ProcessIdentity.parse(row.process).pid


# ---- as JSON


def _as_json(row: RunnerRow, present: Present, doing: dict[int, list[RunningJob]]) -> dict[str, Any]:
    return {
        "pid": row.pid,
        "host": os.uname().nodename,
        "role": row.role,
        "version": row.version,
        "started_at": render.rfc3339(row.started_at),
        "queues": None if row.queues is None else json.loads(row.queues),
        "tasks": None if row.tasks is None else json.loads(row.tasks),
        "workers": _workers_json(row.id, present, doing),
    }


def _workers_json(runner: int | None, present: Present, doing: dict[int, list[RunningJob]]) -> list[dict[str, Any]]:
    """The workers of this runner; for None those that have none, or none any more."""
    rows = [row for row in present.workers if (_is_alone(row, present) if runner is None else row.runner == runner)]
    return [
        {
            "pid": _pid(row),
            "role": _kind(row),
            "started_at": render.rfc3339(row.started_at),
            "jobs": [_job_json(job) for job in doing[row.id]],
        }
        for row in rows
    ]


def _job_json(job: RunningJob) -> dict[str, Any]:
    return {
        "id": job.id,
        "task": job.task,
        "name": job.name,
        "queue": job.queue,
        "started_at": render.rfc3339(job.started_at),
        "running_s": None if job.started_at is None else round(max(0.0, time.time() - job.started_at), 3),
    }
