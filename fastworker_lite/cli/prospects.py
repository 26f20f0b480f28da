"""What becomes of jobs that were just submitted, and what to type next.

Runs in: the command line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote

from ..job import Job, NewJob, State
from ..store import queries, situation
from ..store.connection import Connection
from ..store.jobs import DEFAULT_QUEUE
from ..store.runners import RunnerRow
from ..store.submitting import Stored
from . import render
from .ordering import check_task
from .session import Session, knows_task, serves, worker_for


def put_standing(session: Session, connection: Connection, job_id: int) -> None:
    """Say what becomes of a job that was just submitted, and what to type next."""
    job = connection.read(queries.get, job_id)
    if job is not None and (job.attempt or not job.has_ended):  # it may have been run meanwhile
        session.chat(render.clean(_standing(connection, job)))


def _standing(connection: Connection, job: Job) -> str:
    follow = f"follow: fwl logs -f {job.id}"
    if job.state is State.BLOCKED and job.reason == "held":
        return f"held - let it go on: fwl release {job.id}"
    if job.state is State.BLOCKED:
        return f"begins later ({job.reason}) - {follow}"
    if job.state is State.SCHEDULED and job.due_at is not None:
        left = render.duration(job.due_at - time.time())
        return f"starts in {left}, at {render.local_time(job.due_at)} - {follow}"
    if connection.read(situation.is_paused, job.queue):
        return f'queue "{job.queue}" is paused - let it go on: fwl resume --queue {quote(job.queue)}'
    ahead = connection.read(situation.count_ahead, job.id)
    return f'queued in "{job.queue}" ({ahead} ahead) - {follow}'


def say_over(connection: Connection, stored: Stored) -> int:
    """Say which jobs are over already, because of those they were to come after. Returns how many."""
    added = [job_id for job_id in stored.ids if job_id not in stored.existing]
    over = [job for job in connection.read(queries.get_many, added) if job.has_ended]
    for job in over:
        render.say(render.clean(f"job {job.id} will not run: {job.state}, {job.reason}; see: fwl why {job.id}"))
    return len(over)


def note_missing(rows: Sequence[RunnerRow], jobs: Sequence[NewJob]) -> None:
    """Say so where there are workers, but none that will run these jobs."""
    for name in sorted({job.task for job in jobs if check_task(job) and not knows_task(rows, job.task)}):
        render.say(f'note: no running worker knows task "{render.clean(name)}"; the job waits for one that does')
    for name in sorted({job.options.queue or DEFAULT_QUEUE for job in jobs}):
        if not serves(rows, name):
            render.say(render.clean(f'note: no running worker serves queue "{name}". Start one: {worker_for(name)}'))
