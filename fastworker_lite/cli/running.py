"""`fwl run`: a job now, here, with its output and its exit code.

Runs in: the command line.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..job import Job, State
from ..store.connection import Connection
from . import options, render
from .ordering import Order, build
from .problems import usage
from .records import exit_code, seconds_taken, sentence
from .session import Session, check_queues, live_runners
from .submitting import capture_environment, parse_options, store


def run(
    context: typer.Context,
    words: options.Words = None,
    shell: options.Shell = None,
    quiet_unless_failed: Annotated[
        bool, typer.Option("--quiet-unless-failed", help="Show the output only of a job that failed.")
    ] = False,
    queue: options.Queue = None,
    new_queue: options.NewQueue = False,
    priority: options.Priority = None,
    name: options.Name = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    retry_delay: options.RetryDelay = None,
    on_lost: options.OnLost = None,
    cwd: options.Folder = None,
    clean_env: options.CleanEnvironment = False,
    env: options.Environment = None,
) -> int:
    """Queue a command, run it, show its output, and exit with its code.

    A running worker takes it; without one it runs in this process.

    fwl run --timeout 2h -- backup.sh
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if session.is_json:
        raise usage("run has no --json: its stdout is the job's. Use fwl submit --wait --json")
    order = Order(
        words=words or [],
        shell=shell,
        cwd=os.path.abspath(cwd or "."),
        environment=capture_environment(clean_env, env or []),
        is_checked=False,
        options=parse_options(
            queue=queue, priority=priority, name=name, timeout=timeout, retries=retries, retry_delay=retry_delay, on_lost=on_lost
        ),
    )  # fmt: skip
    jobs = build(order)
    with session.open() as connection:
        if queue is not None and not new_queue:
            check_queues(connection, {queue})
        [job_id] = store(connection, jobs)
        return _run(session, connection, job_id, is_shown=not quiet_unless_failed)


def _run(session: Session, connection: Connection, job_id: int, *, is_shown: bool) -> int:
    from .following import follow, replay

    job = None
    while job is None:  # whoever served the file may be gone a moment later
        if live_runners(connection):
            job = follow(connection, job_id, is_shown=is_shown)
        else:
            from .here import run_here

            job = run_here(session, connection, job_id, is_shown=is_shown)
    if not is_shown and job.state is not State.SUCCEEDED:
        replay(connection, job)
    code, _ = exit_code(job)
    _put_end(session, job, code, is_told=not is_shown)
    return code


def _put_end(session: Session, job: Job, code: int, *, is_told: bool) -> None:
    taken = render.duration(seconds_taken(job, job.finished_at or 0.0))
    line = f"job {job.id} {render.clean(sentence(job))} after {taken}. Details: fwl show {job.id}"
    if code in (125, 126, 127) and job.error and job.error != job.reason:
        render.say(f"error: {render.clean(job.error.splitlines()[0])}")
    elif code and is_told:
        session.say(line)
    else:
        session.chat(line)
