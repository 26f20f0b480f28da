"""`fwl cron history`: what became of the ticks of a schedule.

Runs in: the command line.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..job import Job
from ..store import queries, ticks
from . import render
from .options import ScheduleName
from .records import state_label
from .session import Session

if TYPE_CHECKING:
    from ..schedule import Schedule
    from ..store.ticks import Past


def history(
    context: typer.Context,
    name: ScheduleName,
    count: Annotated[int, typer.Option("-n", "--lines", metavar="N", min=1, max=1000, help="How many.")] = 20,
) -> int:
    """The last ticks of a schedule, and what became of them; the newest first.

    fwl cron history nightly-backup -n 4
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from .cron_known import find

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
