"""`fwl edit`: change a job that has not begun.

Runs in: the command line.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from .. import changing
from ..job import TERMINAL, Job, NewJob, State
from ..options import JobOptions
from ..sockets import Waker
from ..store import changing as changing_store
from ..store import queries
from ..store.connection import Connection
from . import acting, options, render
from .acting import Result
from .ordering import changed_command
from .problems import REFUSED, CommandError, usage
from .selecting import select_one
from .session import Session, check_queues
from .submitting import parse_options


def edit(
    context: typer.Context,
    job: options.Job,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD [ARG...]]", help="Another command in its place.")
    ] = None,
    queue: options.Queue = None,
    new_queue: options.NewQueue = False,
    priority: options.Priority = None,
    name: options.Name = None,
    tag: options.Tags = None,
    delay: options.Delay = None,
    at: options.At = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    retry_delay: options.RetryDelay = None,
    cwd: options.Folder = None,
) -> int:
    """Change a job that has not begun.

    fwl edit --priority high 46
    fwl edit --in 0s 46
    fwl edit 46 -- make -j8

    Of one that runs, only what counts for its next attempt can change: priority, name, tags, retries and their delay.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    given = parse_options(
        queue=queue, priority=priority, name=name, tags=tag, delay=delay, at=at, timeout=timeout, retries=retries,
        retry_delay=retry_delay,
    )  # fmt: skip
    with session.open() as connection:
        job_id = select_one(connection, job, "edit")
        changes = _changes(given) | (_command_changes(connection, job_id, words or [], cwd) if words or cwd else {})
        if not changes:
            raise usage("what is to change? Give --priority, --queue, --in, ... or -- CMD [ARG...]", "See: fwl edit -h")
        if given.queue is not None and not new_queue:
            check_queues(connection, {given.queue} - session.declared_queues)
        before = connection.read(queries.get, job_id)
        waker = Waker()
        try:
            found = changing.change(connection, waker, job_id, changes)
        finally:
            waker.close()
        after = connection.read(queries.get, job_id)
    if found == State.RUNNING and not changing_store.WHILE_RUNNING.issuperset(changes):
        rest = "only its priority, name, tags and retries can change"
        raise CommandError(
            f"job {job_id} has started; {rest}", REFUSED, f"Run it otherwise: fwl clone {job_id}", "begun"
        )
    if found in TERMINAL:
        raise CommandError(
            f"job {job_id} has ended ({found})", REFUSED, f"Run it otherwise: fwl clone {job_id}", "already_finished"
        )
    if before is not None and after is not None:
        session.chat(render.clean(f"{job_id} updated: {', '.join(_differences(before, after, changes))}"))
    return acting.put(session, "edit", {job_id: Result(state=None if after is None else after.state)})


_COLUMNS = ("queue", "priority", "name", "tags", "timeout", "retries", "retry_delay")


def _changes(given: JobOptions) -> dict[str, object]:
    changes: dict[str, object] = {name: value for name in _COLUMNS if (value := getattr(given, name)) is not None}
    if given.delay is not None or given.eta is not None:
        changes["due_at"] = given.due_at(time.time())
    return changes


def _command_changes(connection: Connection, job_id: int, words: list[str], cwd: str | None) -> dict[str, object]:
    original = connection.read(changing_store.copy, job_id)
    if original is None:
        raise CommandError(f"job {job_id} is not a command", REFUSED)
    new: NewJob = changed_command(original, words, cwd)
    return {"payload": new.payload, "task": new.task, "checksum": new.checksum}


def _differences(before: Job, after: Job, changes: dict[str, object]) -> list[str]:
    told: list[str] = []
    for name in changes:
        old, new = getattr(before, name, None), getattr(after, name, None)
        if name == "payload":
            told.append("command")
        elif name == "due_at":
            told.append(f"starts {render.local_time(after.due_at)}" if after.due_at else "starts now")
        elif name not in ("task", "checksum"):
            told.append(f"{name} {_shown(old)} -> {_shown(new)}")
    return told


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
