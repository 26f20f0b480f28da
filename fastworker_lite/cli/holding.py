"""`fwl hold`, `fwl release`, `fwl pause`, `fwl resume`: have jobs wait for a person.

Runs in: the command line.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .. import changing as changes
from .. import queueing
from ..errors import JobNotFound
from ..job import State
from ..sockets import Waker
from ..store import changing, queries, queues
from ..store.connection import Connection
from . import acting, options, render
from .acting import Result
from .autostart import start_or_say
from .problems import NOT_FOUND, CommandError, no_such_job, usage
from .records import state_label
from .selecting import select
from .session import Session, check_queues, live_runners

_UNBEGUN = frozenset({State.QUEUED, State.SCHEDULED, State.BLOCKED})


def hold(context: typer.Context, ids: options.Ids = None) -> int:
    """Have jobs that have not begun wait until they are released.

    fwl hold 46 47
    fwl hold --queue io
    """
    return _act(context.find_object(Session), ids or [], "hold")  # type: ignore[arg-type]


def release(context: typer.Context, ids: options.Ids = None) -> int:
    """Let held jobs go on.

    fwl release 46
    fwl release --all
    """
    return _act(context.find_object(Session), ids or [], "release")  # type: ignore[arg-type]


def _act(session: Session, words: list[str], action: str) -> int:
    waker = Waker()
    with session.open() as connection:
        try:
            selected = select(session, connection, words, _UNBEGUN if action == "hold" else frozenset({State.BLOCKED}))
            if action == "release" and not words:
                selected = connection.read(changing.held, selected) or _refuse_empty()
            results = {job_id: _DO[action](session, connection, waker, job_id) for job_id in selected}
        finally:
            waker.close()
        is_queued = any(one.state == State.QUEUED for one in results.values())
        if action == "release" and is_queued and not live_runners(connection):
            start_or_say(session, connection)
    return acting.put(session, action, results)


def _refuse_empty() -> list[int]:
    raise CommandError("no job is held", NOT_FOUND)


def _hold(session: Session, connection: Connection, waker: Waker, job_id: int) -> Result:
    try:
        found = changes.hold(connection, waker, job_id)
    except JobNotFound:
        return Result(problem=no_such_job(job_id, connection.read(queries.newest_id)))
    if found in ("queued", "scheduled", "blocked"):
        session.chat(f"{job_id} held")
    elif found == changing.HELD:
        session.chat(f"{job_id} is held already")
    elif found == changing.BEHIND:
        return acting.refused(f"job {job_id} waits for the last one of its schedule; see: fwl why {job_id}", "blocked")
    else:
        return _too_late(job_id, found)
    return Result(state=State.BLOCKED)


def _too_late(job_id: int, found: str) -> Result:
    return acting.refused(f"job {job_id} has {'begun' if found == State.RUNNING else 'ended'}: it is {found}", "begun")


def _release(session: Session, connection: Connection, waker: Waker, job_id: int) -> Result:
    try:
        found = changes.release(connection, waker, job_id)
    except JobNotFound:
        return Result(problem=no_such_job(job_id, connection.read(queries.newest_id)))
    job = connection.read(queries.get, job_id)
    state = job.state if job is not None else State.QUEUED
    if found == changing.HELD:
        session.chat(f"{job_id} {render.clean(state_label(job)) if job is not None else state}")
    elif found in _UNBEGUN or found == changing.BEHIND:
        session.chat(f"{job_id} is not held: it is {state}")
    else:
        return _too_late(job_id, found)
    return Result(state=state)


_DO = {"hold": _hold, "release": _release}


# ---- queues


def pause(
    context: typer.Context,
    ids: options.Ids = None,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-Q", metavar="NAME", help="This queue.")] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every queue.")] = False,
) -> int:
    """Begin no more jobs of a queue, or of any; what runs goes on. With ids: as fwl hold.

    fwl pause --queue gpu
    fwl pause --all
    """
    return _pause(context.find_object(Session), ids or [], queue or [], everything, paused=1)  # type: ignore[arg-type]


def resume(
    context: typer.Context,
    ids: options.Ids = None,
    queue: Annotated[list[str] | None, typer.Option("--queue", "-Q", metavar="NAME", help="This queue.")] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Every queue.")] = False,
) -> int:
    """Begin jobs of a queue again, or of all. With ids: as fwl release.

    fwl resume --queue gpu
    """
    return _pause(context.find_object(Session), ids or [], queue or [], everything, paused=0)  # type: ignore[arg-type]


def _pause(session: Session, words: list[str], names: list[str], is_all: bool, *, paused: int) -> int:
    if words or session.filters:
        if names or is_all:
            raise usage("give either jobs or --queue and --all, which are about whole queues")
        return _act(session, words, "hold" if paused else "release")
    if not names and not is_all:
        raise usage(f"which? Give ids, --queue Q or --all: fwl {'pause' if paused else 'resume'} --queue default")
    waker = Waker()
    with session.open() as connection:
        check_queues(connection, set(names), is_made=True)
        try:
            for name in names or connection.read(queues.names):
                queueing.change_queue(connection, waker, name, {"paused": paused})
        finally:
            waker.close()
        rows = [row for row in connection.read(queues.everybody) if is_all or row.name in names]
        if not paused and any(row.queued for row in rows) and not live_runners(connection):
            start_or_say(session, connection)
    if session.is_json:
        results = [{"queue": row.name, "ok": True, "action": "pause" if paused else "resume"} for row in rows]
        session.put_json("fwl.actions/1", results=results)
    for row in rows:
        running = f"; {row.running} running {'job goes' if row.running == 1 else 'jobs go'} on" if row.running else ""
        session.chat(f"queue {render.clean(row.name)} {f'paused{running}' if paused else 'goes on'}")
    return 0
