"""`fwl cron`: the schedules of the file, what they have made, and what they are to make.

Runs in: the command line.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from .. import declarations
from ..firing import Fired, Firing, tell
from ..job import Job
from ..schedule import Schedule
from ..schedules import Status, first_tick, put, set_paused, status, status_of
from ..sockets import Waker
from ..store import outbox, queries, runners, schedules, ticks
from ..store.connection import Connection
from ..store.ticks import Past, Tick
from . import render
from .problems import NOT_FOUND, REFUSED, CommandError
from .records import state_label
from .session import NO_WORKER, Session, live_runners

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]


def without_command(context: typer.Context) -> int:
    """Jobs by the clock: [cron.NAME] in fastworker.toml, @task(cron="0 9 * * MON"), or client.schedule(...).

    fwl cron list
    fwl cron next nightly-backup -n 5
    fwl cron check
    crontab -l | fwl cron import >> fastworker.toml
    """
    return 0 if context.invoked_subcommand is not None else list_schedules(context)


# ---- which there are


def known(session: Session, connection: Connection) -> list[Status]:
    """The schedules of the file, and those of the configuration that no runner has registered yet."""
    found = {one.name: one for one in connection.read(status)}
    own, _ = declarations.read_config(session.config)
    file = connection.read(outbox.database_id)
    for new in own:
        if new.name not in found:
            tick = first_tick(new.schedule, 0, time.time())
            found[new.name] = Status(
                name=new.name, origin=new.origin, schedule=new.schedule, task=new.job.task, is_paused=False,
                next_at=None if tick is None else tick + new.schedule.delay(file, new.name),
                made=0, last=None, failures=0, missed=0,
            )  # fmt: skip
    return [found[name] for name in sorted(found)]


def find(session: Session, connection: Connection, name: str) -> Status:
    """The schedule of this name."""
    everybody = known(session, connection)
    for one in everybody:
        if one.name == name:
            return one
    raise CommandError(f'no schedule "{name}". Schedules: {names_of(everybody)}', NOT_FOUND)


def names_of(found: list[Status]) -> str:
    return ", ".join(one.name for one in found) or "none"


def _registered(session: Session, connection: Connection, name: str) -> Status:
    """As `find`; one that only the configuration knows is registered, so that something can be done with it."""
    found = find(session, connection, name)
    own, _ = declarations.read_config(session.config)
    for new in own:
        if new.name == name and connection.read(schedules.get, name) is None:
            connection.write(put, new, time.time())
    return found


# ---- fwl cron list


def list_schedules(context: typer.Context) -> int:
    """The schedules: when each is due next, and how its last job ended.

    fwl cron list
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        found = known(session, connection)
        file = connection.read(outbox.database_id)
        jobs = {job.id: job for job in connection.read(queries.get_many, [one.last.job for one in found if one.last])}
        is_served = bool(live_runners(connection))
    if session.is_json:
        session.put_json("fwl.schedules/1", schedules=[_as_json(one, file) for one in found])
    elif session.is_quiet:
        for one in found:
            print(render.clean(one.name))
    elif found:
        header = ("NAME", "SCHEDULE", "ZONE", "NEXT", "IN", "LAST", "RESULT", "OVERLAP")
        render.put_columns(header, [_row(one, jobs, time.time()) for one in found])
        if not is_served:
            session.chat("warning: no worker is running; schedules fire only with fwl worker, or fwl drain")
    else:
        session.say(
            "no schedules. Declare one: [cron.NAME] in fastworker.toml, @task(cron=...), or client.schedule(...)"
        )
    return 0


def _row(one: Status, jobs: dict[int, Job], now: float) -> list[str]:
    job = jobs.get(one.last.job or 0) if one.last is not None else None
    result = "never" if one.last is None else "gone" if job is None else state_label(job)
    made_at = None if one.last is None else one.last.created_at or one.last.at
    return [
        one.name,
        one.schedule.text,
        one.schedule.timezone or "-",
        _next_text(one),
        "-" if one.next_at is None else render.duration(one.next_at - now),
        "-" if made_at is None else _ago(made_at, now),
        result,
        one.schedule.overlap,
    ]


def _next_text(one: Status) -> str:
    if one.is_paused:
        return "paused"
    if not one.schedule.enabled:
        return "disabled"
    return "over" if one.next_at is None else short_time(one.next_at, one.schedule)


def short_time(moment: float, schedule: Schedule) -> str:
    """`Wed 25 Nov 02:37 +1`, in the schedule's own zone."""
    shown = datetime.fromtimestamp(moment, schedule.tzinfo())
    minutes = int((shown.utcoffset() or timedelta()).total_seconds()) // 60
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    return f"{shown:%a %d %b %H:%M} {sign}{hours}{f':{rest:02}' if rest else ''}"


def _ago(moment: float, now: float) -> str:
    shown = datetime.fromtimestamp(moment)
    if now - moment < 3600:
        return f"{render.age(now - moment)} ago"
    is_today = shown.date() == datetime.fromtimestamp(now).date()
    return f"today {shown:%H:%M}" if is_today else f"{shown:%d %b %H:%M}"


def _as_json(one: Status, file: str) -> dict[str, Any]:
    last = one.last
    return {
        "name": one.name,
        "schedule": one.schedule.cron,
        "every_s": one.schedule.every,
        "timezone": one.schedule.timezone,
        "enabled": one.schedule.enabled,
        "paused": one.is_paused,
        "origin": one.origin,
        "task": one.task,
        "next_at": render.rfc3339(one.next_at),
        "last_fired_at": None if last is None else render.rfc3339(last.created_at or last.at),
        "last_job": None if last is None else last.job,
        "last_state": None if last is None else last.state,
        "consecutive_failures": one.failures,
        "missed": one.missed,
        "overlap": one.schedule.overlap,
        "catch_up": one.schedule.catch_up,
        "catch_up_window_s": one.schedule.catch_up_window,
        "jitter_s": one.schedule.delay(file, one.name),
    }


# ---- fwl cron run, pause, resume


def run(
    context: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and exit with the job's code.")] = False,
) -> int:
    """Make a schedule's job now, and print its id. What is due later stays as it is.

    fwl cron run nightly-backup --wait
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        _registered(session, connection, name)
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
        if not live_runners(connection):
            render.say(NO_WORKER)
        if not wait:
            return 0
        from .waiting import until_ended

        return until_ended(session, connection, [tick.job], is_pass_through=True)


def _run_now(sql: sqlite3.Connection, name: str) -> tuple[Tick, Fired]:
    row, job = schedules.get(sql, name), schedules.job_of(sql, name)
    assert row is not None and job is not None
    tick, fired = Firing(sql, time.time()).run_now(row, job)
    if tick.job is None:
        raise CommandError(f"not run: {tick.reason} (overlap = {row.schedule.overlap})", REFUSED)
    return tick, fired


def pause(context: typer.Context, name: Name) -> int:
    """Have a schedule make no jobs until it is resumed."""
    return _set_paused(context, name, True)


def resume(context: typer.Context, name: Name) -> int:
    """Have a paused schedule go on, with its next tick."""
    return _set_paused(context, name, False)


def _set_paused(context: typer.Context, name: str, is_paused: bool) -> int:
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        _registered(session, connection, name)
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


# ---- fwl cron history


def history(
    context: typer.Context,
    name: Name,
    count: Annotated[int, typer.Option("-n", "--lines", metavar="N", min=1, max=1000, help="How many.")] = 20,
) -> int:
    """The last ticks of a schedule, and what became of them; the newest first.

    fwl cron history nightly-backup -n 4
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        one = find(session, connection, name)
        past = connection.read(ticks.history, name, count)
        found = connection.read(queries.get_many, [tick.job for tick in past if tick.job is not None])
    jobs = {job.id: job for job in found}
    if session.is_json:
        session.put_json("fwl.history/1", schedule=name, ticks=[_tick_json(tick) for tick in past])
    elif past:
        rows = [_history_row(tick, jobs, one.schedule) for tick in past]
        render.put_columns(("JOB", "SCHEDULED", "STARTED", "TIME", "RESULT"), rows)
    else:
        session.say(f"{render.clean(name)} has had no tick yet")
    return 0


def _history_row(tick: Past, jobs: dict[int, Job], schedule: Schedule) -> list[str]:
    job = jobs.get(tick.job or 0)
    result = tick.outcome if tick.job is None else "gone" if job is None else state_label(job)
    end = tick.finished_at or time.time()
    own = schedule.tzinfo()
    return [
        "-" if tick.job is None else str(tick.job),
        f"{datetime.fromtimestamp(tick.at, own):%d %b %H:%M}",
        "-" if tick.started_at is None else f"{datetime.fromtimestamp(tick.started_at, own):%d %b %H:%M}",
        "-" if tick.started_at is None else render.duration(end - tick.started_at),
        f"{result}  ({tick.reason})" if tick.reason else result,
    ]


def _tick_json(tick: Past) -> dict[str, Any]:
    return {
        "job": tick.job,
        "scheduled_for": render.rfc3339(tick.at),
        "outcome": tick.outcome,
        "reason": tick.reason,
        "state": tick.state,
        "started_at": render.rfc3339(tick.started_at),
        "finished_at": render.rfc3339(tick.finished_at),
    }
