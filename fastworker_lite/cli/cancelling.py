"""`fwl cancel`: have jobs not run.

Runs in: the command line.
"""

from __future__ import annotations

from typing import Any

import typer

from .. import producer
from ..errors import JobNotFound
from ..job import State
from ..sockets import Waker
from ..store import queries
from ..store.connection import Connection
from . import options
from .problems import FAILED, REFUSED, CommandError, no_such_job, usage
from .records import state_label
from .session import Session, select_ids


def cancel(context: typer.Context, ids: options.Ids = None, task_id: options.TaskId = None) -> int:
    """Cancel jobs that have not begun."""
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    words = [*(ids or []), *([task_id] if task_id is not None else [])]
    if not words:
        raise usage("which jobs? Give ids: fwl cancel 45 46")
    waker = Waker()
    try:
        with session.open() as connection:
            selected = select_ids(connection, words)
            problems = {job_id: _cancel(connection, waker, job_id) for job_id in selected}
    finally:
        waker.close()
    return _put(session, problems)


def _cancel(connection: Connection, waker: Waker, job_id: int) -> CommandError | None:
    try:
        found = producer.cancel(connection, waker, job_id)
    except JobNotFound:
        return no_such_job(job_id, connection.read(queries.newest_id))
    if found in (State.QUEUED, State.SCHEDULED, State.BLOCKED):
        return None
    if found == State.RUNNING:
        return CommandError(f"job {job_id} is running; this version cancels only jobs that have not begun", REFUSED)
    job = connection.read(queries.get, job_id)
    return CommandError(f"job {job_id} already finished ({state_label(job) if job else found})", REFUSED)


def _put(session: Session, problems: dict[int, CommandError | None]) -> int:
    failed = [problem for problem in problems.values() if problem is not None]
    if session.is_json:
        if len(problems) == 1 and failed:
            raise failed[0]
        session.put_json("fwl.actions/1", results=[_result(job_id, problem) for job_id, problem in problems.items()])
    else:
        for job_id, problem in problems.items():
            if problem is None:
                session.chat(f"{job_id} cancelled")
            elif len(problems) > 1:
                session.say(f"error: {problem.message}")
    if len(problems) == 1 and failed:
        raise failed[0]
    codes = {problem.exit_code for problem in failed}
    if len(failed) == len(problems) and len(codes) == 1:
        return codes.pop()
    return FAILED if failed else 0


def _result(job_id: int, problem: CommandError | None) -> dict[str, Any]:
    if problem is None:
        return {"id": job_id, "ok": True, "action": "cancel", "state": str(State.CANCELLED)}
    code = "refused" if problem.exit_code == REFUSED else "not_found"
    return {"id": job_id, "ok": False, "action": "cancel", "error": {"code": code, "message": problem.message}}
