"""`fwl drain`: run what is in the queue, and exit.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..job import Job, State
from ..settings import Config
from ..store import queries
from ..store.connection import Connection
from . import render
from .problems import FAILED, TIMED_OUT
from .records import ending, last_lines, read_records
from .serving import Modules, Python, Queues, Workers, prepare
from .session import Session, live_runners
from .values import parse_duration

if TYPE_CHECKING:
    from ..runner import Runner

#: Seconds between two looks at the queue.
PAUSE = 0.05
#: A job that is due so soon still counts as there: workers postpone for a moment what they may yet come to know.
SOON = 0.3

#: Whether anything is left that a runner of these queues would run now.
_HAS_WORK = """
SELECT EXISTS (SELECT 1 FROM job WHERE state = 'running')
    OR EXISTS (SELECT 1
                 FROM queue CROSS JOIN job
                WHERE NOT queue.paused
                  AND (:queues IS NULL OR queue.name IN (SELECT value FROM json_each(:queues)))
                  AND job.state = 'queued'
                  AND job.queue = queue.name)
    OR EXISTS (SELECT 1 FROM job WHERE state = 'scheduled' AND (due_at <= :soon OR (:with_retries AND failures > 0)))
    OR EXISTS (SELECT 1 FROM runner WHERE pid = :pid AND tasks IS NULL)   -- parked jobs are looked at once it knows its tasks
"""


def drain(
    context: typer.Context,
    workers: Workers = None,
    tasks: Modules = None,
    python: Python = None,
    queues: Queues = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="DUR", help="Begin no job after this time, and exit with 124.")
    ] = None,
    max_jobs: Annotated[
        int | None,
        typer.Option("--max-jobs", metavar="N", min=1, help="Begin no more once at least so many have ended."),
    ] = None,
    no_cron: Annotated[bool, typer.Option("--no-cron", help="Leave out the schedules that are due.")] = False,
    wait_retries: Annotated[
        bool, typer.Option("--wait-retries", help="Wait also for jobs that failed and are to be tried again.")
    ] = False,
    skip_if_running: Annotated[
        bool, typer.Option("--skip-if-running", help="Do nothing, with 0, where somebody else runs jobs already.")
    ] = False,
) -> int:
    """Run everything that can run now, and exit: 0 when all succeeded, 1 when a job failed.

    Schedules that are due are seen to, also those that came due since the last time.

    */5 * * * * fwl drain
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    seconds = parse_duration("--max-time", max_time)
    config = prepare(session, workers, tasks, queues, python=python)
    aim = Aim(
        served=None if config.queues is None else json.dumps(list(config.queues)),
        begun=time.time(),
        until=None if seconds is None else time.monotonic() + seconds,
        max_jobs=max_jobs,
        waits_for_retries=wait_retries,
    )
    with session.open() as connection:
        if skip_if_running and (rows := live_runners(connection)):
            session.say(f"skipped: pid {rows[0].pid} runs the jobs of this file")
            return _report(session, connection, aim, "skipped")
        stopped_by = "empty"
        if not no_cron:
            _fire_schedules(connection, config)
        if aim.has_work(connection) or _has_parked(connection):
            from ..runner import Runner

            output = connection.paths.worker_log
            runner = Runner(session.database, config, output=output, has_cron=not no_cron, role="drain")
            runner.start()
            stopped_by = _run_until_empty(connection, runner, aim)
        return _report(session, connection, aim, stopped_by)


class Aim(NamedTuple):
    """When there is enough."""

    served: str | None
    #: JSON: the queues that are served, None for all.
    begun: float
    until: float | None
    #: On the monotonic clock.
    max_jobs: int | None
    waits_for_retries: bool

    def has_work(self, connection: Connection) -> bool:
        """Whether anything is left that can run now, or is waited for."""
        parameters = {
            "queues": self.served,
            "soon": time.time() + SOON,
            "pid": os.getpid(),
            "with_retries": self.waits_for_retries,
        }
        return bool(connection.probe(_HAS_WORK, parameters)[0])

    def is_reached(self, connection: Connection) -> str | None:
        """What ends it before the queue is empty."""
        if self.until is not None and time.monotonic() >= self.until:
            return "max_time"
        if self.max_jobs is not None and connection.read(_count_ended, self.begun) >= self.max_jobs:
            return "max_jobs"
        return None


def _count_ended(sql: sqlite3.Connection, moment: float) -> int:
    return len(_ended_since(sql, moment))


def _run_until_empty(connection: Connection, runner: Runner, aim: Aim) -> str:
    """What ended it."""
    stopped_by = None
    try:
        while stopped_by is None and not runner.join(PAUSE) and aim.has_work(connection):
            stopped_by = aim.is_reached(connection)
    finally:
        runner.stop()
        runner.join()
    if runner.error is not None:
        raise runner.error
    return stopped_by if stopped_by is not None and aim.has_work(connection) else "empty"


def _fire_schedules(connection: Connection, config: Config) -> None:
    """Have the jobs in the queue that are due by the clock, so that there is something to run."""
    from .. import declarations
    from ..schedules import Timetable
    from ..sockets import Waker

    waker, in_file = Waker(), declarations.from_config(config)
    timetable = Timetable(lambda: declarations.declared_here(config, in_file), waker, time.time)
    timetable.register(connection)
    timetable.step(connection)
    waker.close()


def _has_parked(connection: Connection) -> bool:
    return connection.probe("SELECT 1 FROM job WHERE state = 'blocked' LIMIT 1", {}) is not None


# ---- the report


def _ended_since(sql: sqlite3.Connection, moment: float) -> list[int]:
    return [row[0] for row in sql.execute("SELECT id FROM job WHERE finished_at >= ? ORDER BY id", (moment,))]


def _report(session: Session, connection: Connection, aim: Aim, stopped_by: str) -> int:
    jobs = [
        job
        for job in connection.read(queries.get_many, connection.read(_ended_since, aim.begun))
        if job.state in (State.SUCCEEDED, State.FAILED)
    ]
    failed = [job for job in jobs if job.state is State.FAILED]
    left = sum(connection.read(queries.counts).values())
    if session.is_json:
        session.put_json(
            "fwl.drain/1",
            ran=len(jobs),
            succeeded=len(jobs) - len(failed),
            failed=len(failed),
            left=left,
            failed_ids=[job.id for job in failed],
            stopped_by=stopped_by,
        )
    else:
        _put_failed(connection, failed)
        session.chat(f"ran {len(jobs)}: {len(jobs) - len(failed)} succeeded, {len(failed)} failed; {left} left")
    if failed:
        return FAILED
    return TIMED_OUT if stopped_by == "max_time" else 0


def _put_failed(connection: Connection, failed: list[Job]) -> None:
    """What cron should mail: each failed job with the end of its log."""
    for record in read_records(connection, failed):
        job = record.job
        words = [f"job {job.id}", job.name or "", ending(job)]
        render.say(" ".join(render.clean(word) for word in words if word))
        lines = [line for path in record.logs or () for line in last_lines(path, 20)]
        for line in lines + (job.traceback or "").splitlines()[-20:]:
            render.say(f"    {render.clean(line)}")
