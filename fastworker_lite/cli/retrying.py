"""`fwl retry`: have jobs run again that have ended otherwise than well.

Runs in: the command line.
"""

from __future__ import annotations

import typer

from .. import changing
from ..changing import RETRIED
from ..errors import JobNotFound
from ..job import State
from ..sockets import Waker
from ..store import queries
from ..store.connection import Connection
from . import acting, options
from .acting import Result
from .autostart import start_or_say
from .problems import no_such_job
from .selecting import select
from .session import Session, live_runners


def retry(context: typer.Context, ids: options.Ids = None) -> int:
    """Queue jobs again that failed, were cancelled or have expired: the same ids, the next attempt.

    fwl retry 44
    fwl retry @failed
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    waker = Waker()
    with session.open() as connection:
        try:
            selected = select(session, connection, ids or [], frozenset(map(State, RETRIED)))
            results = {job_id: _retry(session, connection, waker, job_id) for job_id in selected}
        finally:
            waker.close()
        if any(result.problem is None for result in results.values()) and not live_runners(connection):
            start_or_say(session, connection)
    return acting.put(session, "retry", results)


def _retry(session: Session, connection: Connection, waker: Waker, job_id: int) -> Result:
    before = connection.read(queries.get, job_id)
    try:
        found = changing.retry(connection, waker, job_id)
    except JobNotFound:
        return Result(problem=no_such_job(job_id, connection.read(queries.newest_id)))
    if found in RETRIED:
        session.chat(f"{job_id} queued again (attempt {before.attempt + 1 if before else 1})")
        return Result(state=State.QUEUED)
    if found == State.RUNNING:
        return acting.refused(f"job {job_id} is running. Cancel it first: fwl cancel {job_id}", "running")
    if found == State.SUCCEEDED:
        return acting.refused(f"job {job_id} has succeeded. Run it anew: fwl clone {job_id}", "succeeded")
    return acting.refused(f"job {job_id} is {found} already; see: fwl why {job_id}", "not_finished")
