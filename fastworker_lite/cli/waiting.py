"""`fwl wait`: block until jobs have ended.

Runs in: the command line.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from ..errors import JobNotFound
from ..job import ACTIVE, Job, State
from ..store import queries
from ..store.connection import Connection
from ..waiting import Waiter
from . import options, render
from .problems import FAILED, TIMED_OUT, usage
from .records import as_json, exit_code, read_records, seconds_taken, sentence
from .selecting import select
from .session import Session, find_jobs
from .values import parse_duration


def wait(
    context: typer.Context,
    ids: options.Ids = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DUR", help="Give up after this time, with 124.")
    ] = None,
    exit_code_wanted: Annotated[bool, typer.Option("--exit-code", help="Exit with the code of the one job.")] = False,
    is_any: Annotated[bool, typer.Option("--any", help="End with the first that ends.")] = False,
) -> int:
    """Wait until jobs have ended. Exit 0 when all succeeded, 1 when any did not.

    fwl wait 45 46 --timeout 10m
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    seconds = parse_duration("--timeout", timeout)
    with session.open() as connection:
        selected = select(session, connection, ids or [], ACTIVE)
        if exit_code_wanted and len(selected) != 1 and not is_any:
            raise usage("--exit-code takes one job, or --any")
        find_jobs(connection, selected)
        return until_ended(
            session, connection, selected, seconds=seconds, is_any=is_any, is_pass_through=exit_code_wanted
        )


def until_ended(
    session: Session,
    connection: Connection,
    ids: list[int],
    *,
    seconds: float | None = None,
    is_any: bool = False,
    is_pass_through: bool = False,
) -> int:
    """Wait, say of each job how it ended, and return the exit code."""
    over: list[Job] = []
    try:
        for job in watch(connection, ids, seconds):
            over.append(job)
            _put_ended(session, connection, job, is_told=not is_pass_through)
            if is_any:
                break
        else:
            if len(over) < len(ids):
                return _put_timeout(session, connection, ids, seconds or 0.0)
    except KeyboardInterrupt:
        going = [str(job_id) for job_id in ids if job_id not in {job.id for job in over}]
        session.chat(f"detached; still to come: job {', '.join(going)}")
        raise
    if is_pass_through and len(over) == 1:
        return exit_code(over[0])[0]
    return 0 if all(job.state is State.SUCCEEDED for job in over) else FAILED


def watch(connection: Connection, ids: list[int], seconds: float | None = None) -> Iterator[Job]:
    """These jobs as they end; it stops early when *seconds* are over, and for jobs that are gone."""
    deadline = None if seconds is None else time.monotonic() + seconds
    left = dict.fromkeys(ids)

    def call(function: Callable[..., Any], *args: Any) -> Any:
        return function(connection, *args)

    with contextlib.closing(Waiter(call, connection.paths)) as waiter:
        while left:
            try:
                found = waiter.first(list(left), None if deadline is None else deadline - time.monotonic())
            except JobNotFound as error:  # a record that was removed while we waited will never end
                del left[int(error.job_id)]
                continue
            if not found:
                return
            for ended in found:
                del left[ended.job.id]
                yield ended.job


# ---- what is said


def _put_ended(session: Session, connection: Connection, job: Job, *, is_told: bool) -> None:
    if session.is_json:
        code, source = exit_code(job)
        [record] = read_records(connection, [job], is_complete=True)
        session.put_json("fwl.events/1", event="ended", job=as_json(record), exit_code=code, source=source)
    elif is_told and not session.is_quiet:
        words = [str(job.id), job.name or "", sentence(job), render.duration(seconds_taken(job, time.time()))]
        print(" ".join(render.clean(word) for word in words if word and word != "-"), flush=True)
    else:
        session.chat(f"job {job.id} {render.clean(sentence(job))}")


def _put_timeout(session: Session, connection: Connection, ids: list[int], seconds: float) -> int:
    left = [job for job in connection.read(queries.get_many, ids) if not job.has_ended]
    if not left:
        return FAILED  # those that are missing were removed
    listed = ", ".join(f"{job.id} {'still ' if job.state is State.RUNNING else ''}{job.state}" for job in left[:10])
    if session.is_json:
        session.put_json(
            "fwl.events/1", event="timed_out", left=[job.id for job in left], exit_code=TIMED_OUT, source="fwl"
        )
    else:
        render.say(f"timed out after {seconds:g} s: {listed}")
    return TIMED_OUT
