"""`fwl cancel`: have jobs not run, or run no longer.

Runs in: the command line.
"""

import signal
from typing import Annotated, NamedTuple

import typer

from .. import changing
from ..errors import JobNotFound
from ..job import ACTIVE, State
from ..sockets import Waker
from ..store import cancelling, queries
from ..store.connection import Connection
from . import abandoned, acting, options, render
from .acting import Result
from .problems import no_such_job, usage
from .records import sentence, signal_name, state_label
from .selecting import confirm, select
from .session import Session
from .values import parse_duration, parse_signal
from .watching import watch

#: Seconds after which is looked whether the jobs we wait for still have somebody who would end them.
LOOK_FOR_RUNNER = 1.0


class Manner(NamedTuple):
    """How running jobs are to end."""

    signal: int | None
    grace: float | None
    is_waited_for: bool


def cancel(
    context: typer.Context,
    ids: options.Ids = None,
    first_signal: Annotated[
        str | None, typer.Option("--signal", metavar="NAME|N", help="What a running job gets first.  [default: TERM]")
    ] = None,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="DUR", help="How long it may take to end before it gets KILL.")
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="KILL it at once, as --grace 0s.")] = False,
    yes: options.Yes = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until running jobs are gone.")] = False,
    task_id: options.TaskId = None,
) -> int:
    """Cancel jobs: those that have not begun never run, running ones are ended.

    fwl cancel 45 46
    fwl cancel --grace 30s 45
    fwl cancel --now @running
    fwl cancel --queue io --since 1h
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if now and grace is not None:
        raise usage("give either --now or --grace, not both")
    manner = Manner(
        signal=parse_signal("--signal", first_signal),
        grace=0.0 if now else parse_duration("--grace", grace),
        is_waited_for=not no_wait,
    )
    words = [*(ids or []), *([task_id] if task_id is not None else [])]
    with session.open() as connection:
        selected = select(session, connection, words, ACTIVE)
        confirm(session, len(selected), "cancel", is_sure=yes or not session.filters.get("everything"))
        return acting.put(session, "cancel", _cancel_all(session, connection, selected, manner))


def _cancel_all(session: Session, connection: Connection, ids: list[int], manner: Manner) -> dict[int, Result]:
    waker = Waker()
    try:
        # the newest first: one that waits for an older one would begin, or be cancelled along with that
        results = {job_id: _cancel(session, connection, waker, job_id, manner) for job_id in sorted(ids, reverse=True)}
        stopping = [job_id for job_id, result in results.items() if result.state == State.RUNNING]
        if manner.is_waited_for and stopping:
            results |= _wait(session, connection, waker, stopping)
    finally:
        waker.close()
    return {job_id: results[job_id] for job_id in ids}


def _cancel(session: Session, connection: Connection, waker: Waker, job_id: int, manner: Manner) -> Result:
    try:
        found = changing.cancel(connection, waker, job_id, grace=manner.grace, first_signal=manner.signal)
    except JobNotFound:
        return Result(problem=no_such_job(job_id, connection.read(queries.newest_id)))
    if found == State.RUNNING:
        session.chat(f"{job_id} stopping ({_how(session, connection, job_id)})")
        return Result(state=found)
    if found in ACTIVE:
        session.chat(f"{job_id} cancelled")
        return Result(state=State.CANCELLED)
    job = connection.read(queries.get, job_id)
    return acting.refused(f"job {job_id} already finished ({state_label(job) if job else found})", "already_finished")


def _how(session: Session, connection: Connection, job_id: int) -> str:
    """`TERM, KILL in 5 s`"""
    manner = connection.read(cancelling.manner, job_id)
    first = signal_name(manner.signal or signal.SIGTERM).removeprefix("SIG")
    if first == "KILL":
        return first
    grace = session.config.kill_grace if manner.grace is None else manner.grace
    return f"{first}, KILL {f'in {grace:g} s' if grace else 'at once'}"


def _wait(session: Session, connection: Connection, waker: Waker, ids: list[int]) -> dict[int, Result]:
    """Wait until these jobs have ended, and see to those that nobody would end any more."""
    ended: dict[int, Result] = {}
    try:
        while left := [job_id for job_id in ids if job_id not in ended]:
            abandoned.recover(session, connection, waker, left)
            for job in watch(connection, left, LOOK_FOR_RUNNER):
                ended[job.id] = Result(state=job.state)
                session.chat(f"{job.id} {render.clean(sentence(job))}")
            gone = set(left) - connection.read(queries.existing, left)
            ended |= {job_id: Result(state=None) for job_id in gone}
    except KeyboardInterrupt:
        session.say(f"detached; still stopping: job {', '.join(str(job_id) for job_id in ids if job_id not in ended)}")
        raise
    return {job_id: ended[job_id] for job_id in ids}
