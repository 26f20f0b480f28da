"""`fwl cron` and `fwl cron list`: the schedules, when each is due, and how its last job ended.

Runs in: the command line.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from ..job import Job
from ..store import outbox, queries
from . import render
from .records import state_label
from .session import Session, live_runners

if TYPE_CHECKING:
    from ..schedules import Status

NONE = "no schedules. How one is made: fwl help schedules"


def without_command(context: typer.Context) -> int:
    """Jobs by the clock: [cron.NAME] in fastworker.toml, @task(cron="0 9 * * MON"), or client.schedule(...).

    fwl cron list
    fwl cron next nightly-backup -n 5
    fwl cron check
    crontab -l | fwl cron import >> fastworker.toml

    How one is written: fwl help schedules
    """
    return 0 if context.invoked_subcommand is not None else list_schedules(context)


def list_schedules(context: typer.Context) -> int:
    """The schedules: when each is due next, and how its last job ended.

    fwl cron list
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from .cron_known import known

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
        session.say(NONE)
    if not session.is_json:
        say_problems(session)
    return 0


def say_problems(session: Session) -> None:
    """Say that there are schedules in the file which are not what they must be, for they are shown nowhere."""
    from .. import declarations

    count = len({problem.name for problem in declarations.read_config(session.config)[1]})
    if count:
        session.say(
            f"{count} more in fastworker.toml cannot be; what is wrong with {'it' if count == 1 else 'them'}: fwl cron check"
        )


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
    from .cron_known import short_time

    return "over" if one.next_at is None else short_time(one.next_at, one.schedule)


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
