"""`fwl clone`: submit a job anew, as it was or with some changes.

Runs in: the command line.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ..job import NewJob
from ..options import JobOptions
from ..store import changing
from . import options, render
from .autostart import start_or_say
from .ordering import changed_command
from .problems import REFUSED, CommandError
from .selecting import select_one
from .session import Session, check_queues, live_runners
from .submitting import parse_options, store


def clone(
    context: typer.Context,
    job: options.Job,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD [ARG...]]", help="Another command, in the same folder.")
    ] = None,
    queue: options.Queue = None,
    new_queue: options.NewQueue = False,
    priority: options.Priority = None,
    name: options.Name = None,
    tag: options.Tags = None,
    delay: options.Delay = None,
    at: options.At = None,
    hold: options.Hold = False,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    retry_delay: options.RetryDelay = None,
    cwd: options.Folder = None,
) -> int:
    """Submit a job anew, with its command, its environment and its options, but for what is given. Prints the new id.

    fwl clone 44
    fwl clone --queue io --retries 3 44
    fwl clone @last -- make test

    Its keys, its time and the jobs it waited for are its own: a copy has none of them.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    given = parse_options(
        queue=queue, priority=priority, name=name, tags=tag, delay=delay, at=at, hold=hold, timeout=timeout,
        retries=retries, retry_delay=retry_delay,
    )  # fmt: skip
    with session.open() as connection:
        job_id = select_one(connection, job, "clone")
        if given.queue is not None and not new_queue:
            check_queues(connection, {given.queue} - session.declared_queues)
        original = connection.read(changing.copy, job_id)
        if original is None:
            raise CommandError(f"job {job_id} was given the results of others; submit it anew with them", REFUSED)
        copy = _changed(original, given)
        copy = changed_command(copy, words or [], cwd)
        stored = store(connection, [copy])
        is_served = bool(live_runners(connection))
        [new_id] = stored.ids
        if session.is_json:
            fields = {"id": new_id, "queue": copy.options.queue, "kind": str(copy.kind), "created": True}
            session.put_json("fwl.submitted/1", **fields, of=job_id, worker_alive=is_served)
        else:
            print(new_id)
            render.flush()
            session.chat(f"a copy of job {job_id} - follow: fwl logs -f {new_id}")
        if not is_served:
            start_or_say(session, connection)
    return 0


def _changed(original: NewJob, given: JobOptions) -> NewJob:
    return original._replace(options=given.over(original.options))
