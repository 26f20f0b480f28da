"""`fwl cron next`: when schedules, and expressions, have their next ticks.

Runs in: the command line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..errors import ConfigError
from ..schedule import Schedule
from ..store import outbox
from . import render
from .problems import NOT_FOUND, CommandError, usage
from .session import Session
from .values import parse_duration

if TYPE_CHECKING:
    from ..schedules import Status

#: Ticks of one schedule that are shown at most.
MOST = 10_000


class _Coming(NamedTuple):
    """A tick that is to come."""

    fires_at: float
    name: str
    tick: float
    schedule: Schedule


def next_ticks(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(metavar="NAME|EXPR", help="A schedule, or a cron expression; all schedules without it."),
    ] = None,
    count: Annotated[int | None, typer.Option("-n", "--lines", metavar="N", min=1, max=MOST, help="How many.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Begin then: 2026-03-27, or 2026-03-27 12:00.")
    ] = None,
    within: Annotated[str | None, typer.Option("--within", metavar="DUR", help="All within this time.")] = None,
    timezone: Annotated[
        str | None, typer.Option("--timezone", metavar="ZONE", help="The zone of an expression.")
    ] = None,
) -> int:
    """When the next jobs are made.

    fwl cron next nightly-backup -n 3 --from 2026-03-27
    fwl cron next --within 1h
    fwl cron next '*/35 * * * *' -n 4
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from .cron_known import known

    with session.open() as connection:
        file = connection.read(outbox.database_id)
        everybody = known(session, connection)
    is_known = any(one.name == what for one in everybody)
    chosen = _chosen(what, everybody, timezone)
    span = parse_duration("--within", within)
    found: list[_Coming] = []
    for name, schedule in chosen.items():
        first = _start(start, schedule)
        found += _coming(name, schedule, file if is_known or what is None else None, first, span, count or 1)
    found.sort()
    if what is None and span is None:
        found = found[: count or 20]
    if not (found or everybody or what is not None or session.is_json):
        from .cron import NONE, say_problems

        session.say(NONE)
        say_problems(session)
        return 0
    _put(session, found, is_expression=what is not None and not is_known, is_within=span is not None)
    if what is not None and not is_known:
        _explain(session, chosen[what])
    return 0


def _chosen(what: str | None, everybody: list[Status], timezone: str | None) -> dict[str, Schedule]:
    if what is None:
        return {one.name: one.schedule for one in everybody if one.schedule.enabled and not one.is_paused}
    if any(one.name == what for one in everybody):
        return {what: next(one.schedule for one in everybody if one.name == what)}
    from .cron_known import names_of

    if " " not in what.strip() and not what.startswith("@"):
        message = f'no schedule "{what}" and not a cron expression (5 fields). Schedules: {names_of(everybody)}'
        raise CommandError(message, NOT_FOUND)
    try:
        return {what: Schedule.parse({"cron": what, "timezone": timezone})}
    except ConfigError as error:
        raise usage(str(error)) from None


def _start(text: str | None, schedule: Schedule) -> float:
    if text is None:
        return time.time()
    try:
        moment = datetime.fromisoformat(text)
        placed = moment if moment.tzinfo is not None else moment.replace(tzinfo=schedule.tzinfo())
        return placed.timestamp() - 0.001
    except (ValueError, OverflowError, OSError):
        raise usage(f'--from: cannot read "{text}". Use 2026-03-27, 2026-03-27 12:00 or 2026-03-27T12:00Z.') from None


def _coming(
    name: str, schedule: Schedule, file: str | None, first: float, span: float | None, count: int
) -> Iterator[_Coming]:
    delay = 0.0 if file is None else schedule.delay(file, name)
    tick = schedule.next(first - delay)
    for _ in range(MOST if span is not None else count):
        if tick is None or (span is not None and tick + delay > first + span):
            return
        yield _Coming(tick + delay, name, tick, schedule)
        tick = schedule.next(tick)


# ---- what is said


def _put(session: Session, found: list[_Coming], *, is_expression: bool, is_within: bool) -> None:
    shown = [datetime.fromtimestamp(one.fires_at, one.schedule.tzinfo()) for one in found]
    is_one_day = len({moment.date() for moment in shown}) == 1
    if session.is_json:
        session.put_json("fwl.ticks/1", ticks=[_as_json(one, is_expression) for one in found])
    elif not found:
        session.say("none" if is_expression or is_within else "no schedule has a tick to come")
    elif is_expression and is_one_day:
        print("  ".join(f"{moment:%H:%M}" for moment in shown))
    elif is_within and is_one_day:
        for one in found:
            print(f"{datetime.fromtimestamp(one.fires_at):%H:%M:%S} {render.clean(one.name)}")
    else:
        is_many = len({one.name for one in found}) > 1 or is_within
        for one, moment in zip(found, shown, strict=True):
            name = f" {render.clean(one.name)}" if is_many else ""
            note = _note(one)
            text = moment.isoformat(" ", "seconds")  # 2026-03-28 02:37:12+01:00
            print(f"{text[:19]} {text[19:]}{name}" + (f"   {note}" if note else ""))


def _as_json(one: _Coming, is_expression: bool) -> dict[str, object]:
    return {
        "schedule": None if is_expression else one.name,
        "at": render.rfc3339(one.tick),
        "fires_at": render.rfc3339(one.fires_at),
        "note": _note(one),
    }


def _note(one: _Coming) -> str | None:
    skipped = one.schedule.skipped_time(one.tick)
    if skipped is None:
        return None
    instead = datetime.fromtimestamp(one.tick, one.schedule.tzinfo())
    jitter = " + jitter" if one.fires_at != one.tick else ""
    return f"{skipped:%H:%M} does not exist (clocks forward): {instead:%H:%M}{jitter}"


def _explain(session: Session, schedule: Schedule) -> None:
    """Steps that do not divide the hour, or the day, surprise everybody once."""
    minute, hour, *_ = [*(schedule.cron or "").split(), "", ""]
    for field, size, unit, letter in ((minute, 60, "hour", "m"), (hour, 24, "day", "h")):
        step = field.removeprefix("*/")
        if field.startswith("*/") and step.isdigit() and 0 < int(step) < size and size % int(step):
            what = "minutes" if unit == "hour" else "hours"
            values = [str(value) for value in range(0, size, int(step))]
            listed = " and ".join([", ".join(values[:-1]), values[-1]] if len(values) > 1 else values)
            session.say(
                f'note: {field} restarts every {unit} ({what} {listed}). For every {step} {what}: every = "{step}{letter}"'
            )
