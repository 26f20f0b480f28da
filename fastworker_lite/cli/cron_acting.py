"""`fwl cron run`, `pause` and `resume`: what a person does with a schedule.

Runs in: the command line.
"""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Annotated

import typer

from ..sockets import Waker
from ..store import runners, schedules
from . import render
from .options import ScheduleName
from .problems import REFUSED, CommandError
from .session import NO_WORKER, Session, live_runners

if TYPE_CHECKING:
    from ..firing import Fired
    from ..store.ticks import Tick


def run(
    context: typer.Context,
    name: ScheduleName,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and exit with the job's code.")] = False,
) -> int:
    """Make a schedule's job now, and print its id. What is due later stays as it is.

    fwl cron run nightly-backup --wait
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from ..firing import tell
    from .cron_known import registered

    with session.open() as connection:
        registered(session, connection, name)
        tick, fired = connection.write(_run_now, name)
        waker = Waker()
        tell(waker, fired)
        waker.close()
        assert tick.job is not None
        if session.is_json:
            session.put_json("fwl.submitted/1", id=tick.job, schedule=name, created=True)
        else:
            print(tick.job)
        render.flush()
        is_served = bool(live_runners(connection))
        if not is_served:
            render.say(NO_WORKER)
        if not wait:
            return 0
        from .waiting import until_ended

        return until_ended(session, connection, [tick.job], is_told=not is_served)


def _run_now(sql: sqlite3.Connection, name: str) -> tuple[Tick, Fired]:
    from ..firing import Firing

    row, job = schedules.get(sql, name), schedules.job_of(sql, name)
    assert row is not None and job is not None
    tick, fired = Firing(sql, time.time()).run_now(row, job)
    if tick.job is None:
        raise CommandError(f"not run: {tick.reason} (overlap = {row.schedule.overlap})", REFUSED)
    return tick, fired


def pause(context: typer.Context, name: ScheduleName) -> int:
    """Have a schedule make no jobs until it is resumed."""
    return _set_paused(context, name, True)


def resume(context: typer.Context, name: ScheduleName) -> int:
    """Have a paused schedule go on, with its next tick."""
    return _set_paused(context, name, False)


def _set_paused(context: typer.Context, name: str, is_paused: bool) -> int:
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from ..schedules import set_paused, status_of
    from .cron_known import registered, short_time

    with session.open() as connection:
        registered(session, connection, name)
        connection.write(set_paused, name, is_paused, time.time())
        waker = Waker()
        waker.poke_all(where.control for where in connection.read(runners.addresses))
        waker.close()
        row = connection.read(schedules.get, name)
        one = None if row is None else connection.read(status_of, row)
    if session.is_json:
        session.put_json("fwl.actions/1", results=[{"schedule": name, "ok": True, "paused": is_paused}])
    elif is_paused or one is None or one.next_at is None:
        session.chat(f"{render.clean(name)} {'paused' if is_paused else 'resumed'}")
    else:
        session.chat(f"{render.clean(name)} resumed; next: {short_time(one.next_at, one.schedule)}")
    return 0
