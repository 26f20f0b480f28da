"""`fwl cron check`: everything that is wrong with the schedules of the configuration, before it matters.

Runs in: the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from ..job import Command, Kind
from ..settings import Config
from . import render
from .ordering import find_program
from .problems import CONFIG
from .session import Session

if TYPE_CHECKING:
    from ..declarations import Problem
    from ..store.schedules import NewSchedule


def check(context: typer.Context) -> int:
    """Look through the schedules of fastworker.toml, and say all that is wrong, with line numbers.

    fwl cron check
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from .. import declarations

    config = session.config
    found, problems = declarations.read_config(config)
    told = [(problem, True) for problem in problems]
    told += [(problem, False) for new in found for problem in _unfit(new)]
    told.sort(key=lambda one: declarations.line_of(config, one[0]) or 0)
    count = len(config.cron)
    if session.is_json:
        rows = [_as_json(config, problem) for problem, _ in told]
        session.put_json("fwl.check/1", schedules=count, problems=rows, warnings=list(_surprises(found)))
        return CONFIG if told else 0
    for problem, is_field_named in told:
        where = declarations.place(config, problem, is_field_named=is_field_named)
        print(render.clean(f"{where}{problem.text}"))
    for warning in _surprises(found):
        session.say(f"warning: {render.clean(warning)}")
    schedules = f"{count} schedule{'' if count == 1 else 's'}"
    if told:
        print(f"{len(told)} problem{'' if len(told) == 1 else 's'} in {schedules}")
        return CONFIG
    print(f"{schedules}, no problems")
    if not count:
        session.chat("how one is made: fwl help schedules")
    return 0


def _as_json(config: Config, problem: Problem) -> dict[str, object]:
    from .. import declarations

    return {
        "file": config.path,
        "line": declarations.line_of(config, problem),
        "schedule": problem.name,
        "field": problem.field,
        "message": problem.text,
    }


def _unfit(new: NewSchedule) -> Iterator[Problem]:
    """What is written as it must be, and could not be run here and now."""
    from .. import payloads
    from ..declarations import Problem

    if new.job.kind is not Kind.COMMAND:
        return
    command = payloads.decode_command(new.job.payload)
    environment = payloads.decode_environment(new.job.environment or b"")
    if not os.path.isdir(command.cwd):
        yield Problem(new.name, "cwd", f"there is no folder {command.cwd}")
    elif command.argv is not None and find_program(command.argv[0], command.cwd, environment["PATH"]) is None:
        yield Problem(new.name, "command", _not_found(command, command.argv[0], environment["PATH"]))


def _not_found(command: Command, program: str, path: str) -> str:
    if "/" in program:
        return f'command "{program}" is not an executable file'
    here = find_program(program, command.cwd, os.environ.get("PATH", os.defpath))
    home = os.path.expanduser("~")
    near = here.replace(f"{home}/", "~/", 1) if here is not None and here.startswith(f"{home}/") else here
    return f'command "{program}" not found on PATH={path}' + (f" (in your shell it is {near})" if near else "")


def _surprises(found: list[NewSchedule]) -> Iterator[str]:
    """What does what it says, and perhaps not what was meant."""
    for new in found:
        fields = (new.schedule.cron or "").split()
        if len(fields) == 5 and not fields[2].startswith("*") and not fields[4].startswith("*"):
            yield f'cron.{new.name}: "{new.schedule.cron}" comes on day {fields[2]} of the month OR on weekday {fields[4]}, as in cron'
