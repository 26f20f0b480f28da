"""`fwl cron export`: the schedules as lines of a crontab, or as timers of systemd, which run each job with `fwl run`.

Runs in: the command line.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from .. import payloads
from ..commands import login_environment
from ..job import Kind, NewJob
from ..store import schedules
from ..store.connection import Connection
from . import render
from .problems import FAILED, usage
from .program import IS_ONE_FILE, own_command
from .session import Session

if TYPE_CHECKING:
    from ..schedule import Schedule

_UNIT = """\
# {name}.service
[Unit]
Description={name}

[Service]
Type=oneshot
ExecStart={command}

# {name}.timer
[Unit]
Description={name}

[Timer]
{times}
Persistent={persistent}

[Install]
WantedBy=timers.target
"""


class Entry(NamedTuple):
    """A schedule, and the words that run its job once."""

    name: str
    schedule: Schedule
    words: list[str]


def export(
    context: typer.Context,
    crontab: Annotated[bool, typer.Option("--crontab", help="Lines for crontab(5).")] = False,
    systemd: Annotated[bool, typer.Option("--systemd", help="Units for systemd: a service and a timer each.")] = False,
) -> int:
    """Print the schedules for somebody else's clock. Each job still runs under fwl, with its limits, history and logs.

    fwl cron export --crontab | crontab -
    fwl cron export --systemd

    Exit 1 when a schedule cannot be said there; a comment says why.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if crontab == systemd:
        raise usage("give one of --crontab and --systemd")
    with session.open() as connection:
        # A crontab's CRON_TZ holds for all lines after it: those without a zone come first.
        entries = sorted(_entries(session, connection), key=lambda one: (one.schedule.timezone or "", one.name))
    faults = 0
    for entry in entries:
        try:
            print(_line(entry) if crontab else _units(entry))
        except _Unsayable as error:
            faults += 1
            print(f"# {render.clean(entry.name)}: {error}")
    return FAILED if faults else 0


class _Unsayable(Exception):
    """The other clock has no words for it."""


def _entries(session: Session, connection: Connection) -> Iterator[Entry]:
    from .. import declarations
    from .cron_known import known

    declared = {new.name: new.job for new in declarations.read_config(session.config)[0]}
    for one in known(session, connection):
        job = declared.get(one.name) or connection.read(schedules.job_of, one.name)
        if one.schedule.enabled and not one.is_paused:
            yield Entry(one.name, one.schedule, [*_ourselves(session), *_words(one.name, one.schedule, job)])


def _ourselves(session: Session) -> list[str]:
    program = None if IS_ONE_FILE else shutil.which("fwl")
    return [*([program] if program else own_command()), "--db", session.database]


def _words(name: str, schedule: Schedule, job: NewJob | None) -> list[str]:
    if job is None or job.kind is not Kind.COMMAND:
        return ["cron", "run", "--wait", name]
    command, options = payloads.decode_command(job.payload), job.options
    words = ["run", "--name", name, "--quiet-unless-failed", "--clean-env", "--cwd", command.cwd]
    if schedule.overlap == "skip":
        words += ["--lock", name, "--skip-if-running"]
    for flag, value in (("--queue", options.queue), ("--retries", options.retries)):
        words += [flag, str(value)] if value is not None else []
    for flag, seconds in (("--timeout", options.timeout), ("--retry-delay", options.retry_delay)):
        words += [flag, f"{seconds:g}s"] if seconds is not None else []
    usual = {name: value for name, value in login_environment().items() if name != "PATH"}
    for variable, value in payloads.decode_environment(job.environment or b"{}").items():
        if usual.get(variable) == value:
            continue
        words += ["--env", f"{variable}={value}"]
    return [*words, *(["-c", command.shell] if command.shell is not None else ["--", *(command.argv or [])])]


# ---- crontab


def _line(entry: Entry) -> str:
    command = shlex.join(entry.words)
    if "\n" in command:
        raise _Unsayable("a crontab's command has one line")
    zone = f"CRON_TZ={entry.schedule.timezone}\n" if entry.schedule.timezone else ""
    when = entry.schedule.cron or _as_cron(entry.schedule.every or 0.0)
    escaped = command.replace("%", "\\%")  # which would begin its input
    return f"# {render.clean(entry.name)}\n{zone}{when} {render.clean(escaped)}"


def _as_cron(every: float) -> str:
    """An interval by the clock, where it divides an hour or a day."""
    minutes = every / 60
    if minutes in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30):
        return f"*/{minutes:g} * * * *"
    if minutes / 60 in (1, 2, 3, 4, 6, 8, 12):
        return f"0 */{minutes / 60:g} * * *"
    if minutes == 1440:
        return "0 0 * * *"
    raise _Unsayable(f"every {every:g} s does not divide an hour or a day, as a crontab would need")


# ---- systemd


def _units(entry: Entry) -> str:
    if entry.schedule.every is not None:
        times = [f"OnBootSec={entry.schedule.every:g}s", f"OnUnitActiveSec={entry.schedule.every:g}s"]
    else:
        zone = f" {entry.schedule.timezone}" if entry.schedule.timezone else ""
        times = [f"OnCalendar={one}{zone}" for one in _calendar(entry.schedule.cron or "")]
    if entry.schedule.jitter:
        times += [f"RandomizedDelaySec={entry.schedule.jitter:g}s", "FixedRandomDelay=true"]
    command = " ".join(map(_quoted, entry.words))
    persistent = "false" if entry.schedule.catch_up == "none" else "true"
    name = render.clean(entry.name)
    return _UNIT.format(name=name, command=command, times="\n".join(times), persistent=persistent)


def _quoted(word: str) -> str:
    r"""A word as systemd reads it: `%` and `$` stand for something there."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return '"' + escaped.replace("\n", "\\n") + '"'


_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def _calendar(cron: str) -> list[str]:
    """A cron expression as calendar events; two of them where it names days of the month OR of the week."""
    fields = cron.split()
    if len(fields) != 5 or any(letter in cron for letter in "LW#?~"):
        raise _Unsayable(f'"{cron}" has no counterpart in systemd.time(7)')
    minute, hour, day, month, weekday = fields
    clock = f"{_part(hour)}:{_part(minute)}:00"
    months, days = _part(month, 1), _weekdays(weekday)
    if day.startswith("*") or weekday.startswith("*"):
        return [f"{days}*-{months}-{_part(day, 1)} {clock}"]
    return [f"*-{months}-{_part(day, 1)} {clock}", f"{days}*-{months}-* {clock}"]


def _part(field: str, least: int = 0) -> str:
    if any(letter.isalpha() for letter in field):
        raise _Unsayable(f'"{field}": give months as numbers')
    return ",".join(_range(one, least) for one in field.split(","))


def _range(one: str, least: int) -> str:
    span, slash, step = one.partition("/")
    first = str(least) if span == "*" and slash else span.replace("-", "..")
    return f"{first}/{step}" if slash else first


def _weekdays(field: str) -> str:
    if field == "*":
        return ""
    if "/" in field:
        raise _Unsayable(f'"{field}": steps of weekdays have no counterpart')
    named = [
        "..".join(_DAYS[int(day)] if day.isdigit() else day.title() for day in one.split("-"))
        for one in field.split(",")
    ]
    return f"{','.join(named)} "
