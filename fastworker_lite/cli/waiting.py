"""`fwl wait`: block until jobs have ended.

On a terminal one line on stderr says how far it is. Elsewhere stderr says only what changes the outcome; stdout has a line
for each job that is over, wherever it goes: no line says that one has begun, for its reader may have missed it.

Runs in: the command line.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from ..store import queries, queues
from ..store.connection import Connection
from ..store.queries import Standing
from . import options, render
from .live_line import LiveLine
from .outcomes import Course, Teller, Wish, put_detached, put_given_up, put_tail, put_timeout, running_ids
from .problems import NOT_FOUND, TIMED_OUT, CommandError, no_such_job, usage
from .selecting import select_to_wait_for
from .session import Session
from .values import parse_duration
from .watching import Look, looks, until_drained


def wait(
    context: typer.Context,
    ids: options.Ids = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DUR", help="Give up after this time, with 124.")
    ] = None,
    until: Annotated[str, typer.Option("--for", metavar="finished|started", help="What is waited for.")] = "finished",
    is_any: Annotated[bool, typer.Option("--any", help="End with the first that ends.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="End with the first that does not succeed.")] = False,
    exit_code_wanted: Annotated[bool, typer.Option("--exit-code", help="Exit with the code of the one job.")] = False,
    drained: Annotated[
        bool,
        typer.Option("--drained", help="Until --queue holds nothing that is queued or runs, also of what is added."),
    ] = False,
) -> int:
    """Wait until jobs have ended. Exit 0 when all succeeded, 1 when any did not, 124 after --timeout.

    fwl wait 45 46 --timeout 10m
    fwl wait @active --fail-fast
    fwl wait 45 --for started
    fwl wait --queue gpu
    fwl wait --queue gpu --drained

    The jobs are those that are there when it begins, but for --drained. One whose record is removed is not waited for any longer.
    By --queue, --name, --tag and --since those are meant that have not ended; if all have, the newest of them says how it
    ended, so that a job may be over before it is waited for.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    seconds = parse_duration("--timeout", timeout)
    if until not in ("finished", "started"):
        raise usage(f'--for: "{until}" is neither finished nor started')
    wish = Wish(
        seconds=seconds,
        is_for_start=until == "started",
        is_any=is_any,
        is_fail_fast=fail_fast,
        is_pass_through=exit_code_wanted,
    )
    with session.open() as connection:
        if drained:
            return _until_drained(session, connection, _queue_alone(session, ids, wish), seconds)
        selected = select_to_wait_for(session, connection, ids or [])
        if wish.is_pass_through and len(selected) != 1 and not is_any:
            raise usage("--exit-code takes one job, or --any")
        if wish.is_pass_through and wish.is_for_start:
            raise usage("a job that has only begun has no --exit-code")
        return _wait(session, connection, selected, wish)


def _queue_alone(session: Session, ids: Sequence[str] | None, wish: Wish) -> str:
    """The queue that is to be drained; with anything else said, it is not clear what that would mean."""
    if session.filters.keys() != {"queue"} or ids or wish != Wish(seconds=wish.seconds):
        raise usage("--drained takes --queue, and --timeout: fwl wait --queue gpu --drained")
    return str(session.filters["queue"])


def until_ended(session: Session, connection: Connection, ids: list[int], *, is_told: bool) -> int:
    """Wait for what was submitted, and return the exit code. *is_told* when it was said already that no worker is there."""
    return _wait(session, connection, ids, Wish(is_pass_through=True), is_told=is_told)


# ---- the wait


def _wait(session: Session, connection: Connection, ids: list[int], wish: Wish, *, is_told: bool = False) -> int:
    course, teller = Course(ids, wish), Teller(session, connection, wish)
    try:
        with contextlib.closing(looks(connection, ids, wish.seconds, is_for_start=wish.is_for_start)) as seen:
            for number, look in enumerate(seen):
                if number == 0 and look.gone:
                    raise no_such_job(look.gone[0], connection.read(queries.newest_id))
                if number and not look.over:
                    _recover(session, connection, look.left)
                teller.tell(course.take(look))
                if course.is_over:
                    break
                if number == 0 and not is_told:
                    _put_obstacle(session, connection, look)
                teller.draw(course)
    except KeyboardInterrupt:
        teller.line.erase()
        put_detached(session, connection, course.left)
        raise
    teller.line.erase()
    if not course.is_over:
        return put_timeout(session, connection, course.left, wish.seconds or 0.0)
    if course.total == 1 and course.last is not None:
        put_tail(session, connection, course.last)
    return course.exit_code


def _put_obstacle(session: Session, connection: Connection, look: Look) -> None:
    """Say what the jobs wait for that does not come by itself."""
    if not running_ids(look.left):
        from .explaining import put_obstacle

        put_obstacle(session, connection, list(look.left))


def _recover(session: Session, connection: Connection, left: Mapping[int, Standing]) -> None:
    """See to running jobs whose worker died when nobody else does: they would never end."""
    if running := running_ids(left):
        from ..sockets import Waker
        from . import abandoned

        waker = Waker()
        abandoned.recover(session, connection, waker, running)
        waker.close()


def _until_drained(session: Session, connection: Connection, queue: str, seconds: float | None) -> int:
    _check_queue(connection, queue)
    line = LiveLine(is_wanted=not session.is_quiet)
    is_drained = False
    try:
        with contextlib.closing(until_drained(connection, queue, seconds)) as seen:
            for look in seen:
                is_drained = look is None
                if look is not None:
                    _recover(session, connection, look.left)
                    if line.is_shown:
                        line.draw(_still_there(connection, queue))
    except KeyboardInterrupt:
        line.erase()
        session.say(f"detached; {_still_there(connection, queue)}")
        raise
    line.erase()
    if not is_drained:
        put_given_up(session, seconds or 0.0, _still_there(connection, queue), queue=queue)
        return TIMED_OUT
    if session.is_json:
        session.put_json("fwl.events/1", event="drained", queue=queue)
    return 0


def _check_queue(connection: Connection, queue: str) -> None:
    known = connection.read(queues.names)
    if queue not in known:
        raise CommandError(f'no queue "{queue}".  Queues: {", ".join(known) or "none yet"}', NOT_FOUND)


def _still_there(connection: Connection, name: str) -> str:
    found = next((one for one in connection.read(queues.everybody) if one.name == name), None)
    running, queued = (found.running, found.queued) if found is not None else (0, 0)
    return f'queue "{render.clean(name)}" holds {running} running, {queued} queued'
