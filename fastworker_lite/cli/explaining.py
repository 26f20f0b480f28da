"""`fwl why`: the one reason why a job does not run, or how it ended.

Runs in: the command line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from shlex import quote
from typing import Annotated, NamedTuple

import typer

from ..job import TERMINAL, Job, State
from ..store import limits, queries, situation
from ..store.connection import Connection
from . import render
from .abandoned import is_gone
from .records import Record, attempt_text, is_lost, is_timed_out, progress_text, read_records, seconds_taken, sentence
from .selecting import select_one
from .session import Session, find_jobs, live_runners, serves, worker_for

#: How many jobs a reason names.
_MOST_NAMED = 5
_UNBEGUN = (State.QUEUED, State.SCHEDULED, State.BLOCKED)


class Reason(NamedTuple):
    """Why a job is where it is."""

    code: str
    #: For programs: one of a small, fixed set of words.
    text: str
    #: For a person: `queue "gpu" is paused`.
    hint: str | None = None
    #: What to type.


def why(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="ID", help="45 or @last.")],
) -> int:
    """Say why a job is not running, or how it ended.

    fwl why 45
    fwl why @last --json
    """
    return put_why(context.find_object(Session), job)  # type: ignore[arg-type]


def put_why(session: Session, word: str) -> int:
    """Print the reason for the job that a person named."""
    with session.open() as connection:
        [record] = read_records(connection, find_jobs(connection, [select_one(connection, word, "why")]))
        reason = find_reason(connection, record, time.time())
    job = record.job
    if session.is_json:
        session.put_json("fwl.why/1", id=job.id, state=str(job.state), **reason._asdict())
        return 0
    is_said = job.state in TERMINAL or job.state is State.RUNNING
    print(render.clean(f"job {job.id} {reason.text}" if is_said else f"job {job.id} is {job.state}: {reason.text}"))
    if reason.hint is not None:
        print(f"  {render.clean(reason.hint)}")
    return 0


def put_obstacle(session: Session, connection: Connection, ids: Sequence[int]) -> None:
    """Say what a person has to do before these jobs can end, none of which runs; nothing if they need nobody."""
    if not live_runners(connection):
        session.say(f"no worker is running. {_NO_RUNNER.hint}")
    elif len(ids) == 1:
        for record in read_records(connection, connection.read(queries.get_many, ids)):
            reason = find_reason(connection, record, time.time())
            if reason.hint is not None and record.job.state in _UNBEGUN:
                session.say(render.clean(f"job {ids[0]} is {record.job.state}: {reason.text}. {reason.hint}"))


def find_reason(connection: Connection, record: Record, now: float) -> Reason:
    """The one thing that is to be said of this job."""
    job = record.job
    if job.state is State.QUEUED:
        return _why_queued(connection, job)
    if job.state is State.SCHEDULED:
        return _why_scheduled(connection, job, now)
    if job.state is State.BLOCKED:
        return _why_blocked(connection, job)
    if job.state is State.RUNNING:
        return _why_running(connection, record, now)
    return _why_ended(job)


# ---- before it runs

_NO_RUNNER = Reason(
    "no_runner", "no runner serves this file", "Start one: fwl worker   Or run the queue now: fwl drain"
)


def _why_queued(connection: Connection, job: Job) -> Reason:
    if connection.read(situation.is_paused, job.queue):
        return Reason(
            "queue_paused", f'queue "{job.queue}" is paused', f"Let it go on: fwl resume --queue {quote(job.queue)}"
        )
    rows = live_runners(connection)
    if not rows:
        return _NO_RUNNER
    if not serves(rows, job.queue):
        return Reason("no_runner", f'no worker serves queue "{job.queue}"', f"Start one: {worker_for(job.queue)}")
    ahead = connection.read(situation.count_ahead, job.id)
    if ahead:
        return Reason("jobs_ahead", f"{ahead} {'job is' if ahead == 1 else 'jobs are'} ahead of it")
    if all(row.tasks is None for row in rows):
        return Reason("runner_starting", "its runner is just starting")
    return Reason("next", "it is the next one, as soon as a worker that serves its queue is free")


def _why_scheduled(connection: Connection, job: Job, now: float) -> Reason:
    left = (job.due_at or now) - now
    if left <= 0 and not live_runners(connection):
        return _NO_RUNNER
    soon = f"in {render.duration(left)}" if left > 0 else "now"
    if job.failures:
        return Reason("retry", f'attempt {attempt_text(job, job.attempt + 1)} {soon} after "{job.reason}"')
    return Reason("scheduled", f"starts {soon}, at {render.local_time(job.due_at)}")


def _why_blocked(connection: Connection, job: Job) -> Reason:
    if (job.reason or "").startswith("no worker knows task "):
        module = job.task.partition(":")[0] if ":" in job.task else "MODULE"
        hint = f"Name the module that declares it: fwl worker --tasks {quote(module)}"
        return Reason("unknown_task", str(job.reason), hint)
    if job.reason == "held":
        return Reason("blocked", "held", f"Let it go on: fwl release {job.id}")
    text = job.reason or "it waits for something else"
    if holders := connection.read(limits.holders, job.id):
        text += f", which job {holders[0]} has" if len(holders) == 1 else f", which jobs {_listed(holders)} have"
    return Reason("blocked", text)


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:_MOST_NAMED])) + (", ..." if len(ids) > _MOST_NAMED else "")


# ---- while it runs, and after


def _why_running(connection: Connection, record: Record, now: float) -> Reason:
    job = record.job
    where = f"in worker pid {job.worker_pid}"
    if is_gone(connection, job.worker):
        return Reason("worker_gone", f"was running {where}, which is gone; the next runner sees to it", _NO_RUNNER.hint)
    if job.cancel is not None:
        return Reason(
            "cancelling", f"is being cancelled, and still running {where}", f"End it now: fwl cancel --now {job.id}"
        )
    since = f"since {render.local_time(job.started_at)} ({render.duration(seconds_taken(job, now))})"
    progress = f": {progress_text(record.progress)}" if record.progress is not None else ""
    return Reason("running", f"is running {where} {since}{progress}")


def _why_ended(job: Job) -> Reason:
    code = str(job.state)
    if job.state is State.EXPIRED:
        when = render.local_time(job.expires_at)
        return Reason(
            code, f"expired: nobody had started it by {when}", f"Have it run all the same: fwl retry {job.id}"
        )
    if job.state is State.CANCELLED and not job.attempt:
        return Reason(code, sentence(job), f"Have it run all the same: fwl retry {job.id}")
    if is_timed_out(job):
        code = "timed_out"
    elif is_lost(job):
        code = "lost"
    again = f"Try again: fwl retry {job.id}" if job.state is not State.SUCCEEDED else None
    return Reason(code, sentence(job), again)
