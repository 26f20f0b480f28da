"""`fwl doctor`: what is wrong with the set-up here, and what to type about it.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator

import typer

from .. import config as configuration
from ..errors import ConfigError, FastWorkerError
from ..paths import SidePaths
from ..settings import Config
from . import doctor_database, doctor_files, doctor_machine, render
from .findings import Finding, problem
from .problems import FAILED, CommandError
from .session import Session


def doctor(context: typer.Context) -> int:
    """Look for what is wrong with the set-up here. Exit 0 when there is no problem; warnings are none. Changes nothing.

    fwl doctor
    fwl --db jobs.db doctor --json
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    found: list[Finding] = []
    for finding in _examine(session):
        found.append(finding)
        if not session.is_json and not (session.is_quiet and finding.level == "ok"):
            _put(finding)
    count = {level: sum(1 for one in found if one.level == level) for level in ("problem", "warning")}
    if session.is_json:
        listed = [one._asdict() for one in found]
        session.put_json("fwl.doctor/1", problems=count["problem"], warnings=count["warning"], findings=listed)
    else:
        session.chat(", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in count.items()))
    return FAILED if count["problem"] else 0


def _put(finding: Finding) -> None:
    print(render.clean(f"{finding.level:<8} {finding.check.replace('_', ' ')}: {finding.text}"), flush=True)
    for line in (finding.hint or "").splitlines():
        print(f"           {render.clean(line)}", flush=True)


def _examine(session: Session) -> Iterator[Finding]:
    for check in (doctor_machine.versions, doctor_machine.sqlite, doctor_machine.clock):
        yield from _safely(check.__name__, check)
    yield from _safely("settings", doctor_machine.settings, session)
    try:
        paths = _find_files(session)
    except ConfigError as error:
        yield problem("database", str(error), "Name a file: fwl --db FILE doctor")
        paths = None
    if paths is not None:
        for look in (*doctor_files.CHECKS, *doctor_database.CHECKS):
            yield from _safely(look.__name__, look, paths)
    yield from _safely("hooks", doctor_machine.hooks, session)
    yield from _safely("tasks", doctor_machine.tasks, session)
    yield from _safely("service", doctor_machine.service)


def _find_files(session: Session) -> SidePaths | None:
    """The files to look at; None where the settings would name them and cannot be read, which has been told already."""
    try:
        config = session.config
    except CommandError:
        if session.database_flag is None and not os.environ.get("FWL_DB"):
            return None
        config = Config()
    return SidePaths.of(configuration.expected_database(session.database_flag, config))


def _safely(name: str, check: Callable[..., Iterable[Finding]], *args: object) -> Iterator[Finding]:
    """What a check finds; that it could not look is a finding, too."""
    try:
        yield from check(*args)
    except OSError as error:
        yield problem(name, f"cannot be looked at: {error}", "See who may: ls -ld " + str(error.filename or "."))
    except (FastWorkerError, sqlite3.Error) as error:
        yield problem(name, str(error).partition("\n")[0], "Where the database is: fwl db path")
