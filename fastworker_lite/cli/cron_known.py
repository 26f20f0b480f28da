"""The schedules that `fwl cron` knows: those of the file, and those of the configuration that no runner has registered yet.

Imported where it is needed: no other command has to wait for what it needs itself.

Runs in: the command line.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta

from .. import declarations
from ..schedule import Schedule
from ..schedules import Status, first_tick, put, status
from ..store import outbox, schedules
from ..store.connection import Connection
from .problems import NOT_FOUND, CommandError
from .session import Session


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
    hint = None if everybody else "How one is made: fwl help schedules"
    if any(problem.name == name for problem in declarations.read_config(session.config)[1]):
        hint = "It stands in fastworker.toml, and cannot be: fwl cron check"
    raise CommandError(f'no schedule "{name}". Schedules: {names_of(everybody)}', NOT_FOUND, hint)


def names_of(found: list[Status]) -> str:
    return ", ".join(one.name for one in found) or "none"


def registered(session: Session, connection: Connection, name: str) -> Status:
    """As `find`; one that only the configuration knows is registered, so that something can be done with it."""
    found = find(session, connection, name)
    own, _ = declarations.read_config(session.config)
    for new in own:
        if new.name == name and connection.read(schedules.get, name) is None:
            connection.write(put, new, time.time())
    return found


def short_time(moment: float, schedule: Schedule) -> str:
    """`Wed 25 Nov 02:37 +1`, in the schedule's own zone."""
    shown = datetime.fromtimestamp(moment, schedule.tzinfo())
    minutes = int((shown.utcoffset() or timedelta()).total_seconds()) // 60
    sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
    return f"{shown:%a %d %b %H:%M} {sign}{hours}{f':{rest:02}' if rest else ''}"
