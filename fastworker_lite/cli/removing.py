"""`fwl rm`: remove jobs that have ended.

Runs in: the command line.
"""

from __future__ import annotations

import typer

from .. import changing
from ..errors import JobNotFound
from ..job import TERMINAL, State
from ..store import queries
from ..store.connection import Connection
from . import acting, options, render
from .acting import Result
from .problems import no_such_job
from .selecting import confirm, select
from .session import Session


def rm(context: typer.Context, ids: options.Ids = None, yes: options.Yes = False) -> int:
    """Remove jobs that have ended, with their results and logs.

    fwl rm 44
    fwl rm --state succeeded --queue io --yes

    The newest job stays until there is another one, because ids are never given twice.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        selected = select(session, connection, ids or [], TERMINAL)
        confirm(session, len(selected), "remove", is_sure=yes or bool(ids))
        removals = {job_id: _remove(connection, job_id) for job_id in selected}
    gone = [size for size, _ in removals.values() if size is not None]
    if gone:
        jobs = "1 job" if len(gone) == 1 else f"{len(gone)} jobs"
        session.chat(f"removed {jobs}, {render.size(sum(gone))} of logs")
    return acting.put(session, "rm", {job_id: result for job_id, (_, result) in removals.items()})


def _remove(connection: Connection, job_id: int) -> tuple[int | None, Result]:
    """How many bytes of logs went with it, None where it stays."""
    newest = connection.read(queries.newest_id)
    try:
        removal = changing.remove(connection, job_id)
    except JobNotFound:
        return None, Result(problem=no_such_job(job_id, newest))
    if removal.is_gone:
        return removal.log_bytes, Result()
    if removal.found not in TERMINAL:
        hint = f"Cancel it first: fwl cancel {job_id}"
        return None, acting.refused(f"job {job_id} has not ended: it is {State(removal.found)}. {hint}", "not_finished")
    if job_id == newest:
        return None, acting.refused(f"job {job_id} is the newest; it stays until there is another one", "newest")
    return None, acting.refused(f"job {job_id} stays: somebody is still to be told of its end", "not_told")
