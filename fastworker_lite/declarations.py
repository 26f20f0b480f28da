"""Schedules as people declare them, checked and made ready to be stored: tables of the configuration, tasks, calls.

Runs in: every process that runs or changes schedules.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from . import building, calls
from . import schedule as schedule_module
from .commands import read_command
from .errors import ConfigError, FastWorkerError
from .job import Lane, NewJob
from .options import NO_OPTIONS, OF_ONE_JOB, JobOptions
from .rules import read_option
from .schedule import Schedule
from .settings import Config, CronSetting
from .store.schedules import NewSchedule
from .tasks.registry import task_registry

log = logging.getLogger("fastworker_lite")

#: The settings of a table that say what is run; one of the first three is given.
_WHAT = ("command", "shell", "python")
_OF_WHAT = (*_WHAT, "args", "kwargs", "cwd", "env", "env_file")
_WHEN = schedule_module.FIELDS - {"repeat_interval"}
_OPTIONS = set(JobOptions._fields) - OF_ONE_JOB


class Problem(NamedTuple):
    """What is wrong with a schedule of the configuration."""

    name: str
    field: str | None
    #: None where it is the whole.
    text: str


# ---- from each of the three places


def from_config(config: Config) -> list[NewSchedule]:
    """The schedules of the configuration. Raises `ConfigError` naming file, line and setting of the first that is wrong."""
    found, problems = read_config(config)
    if problems:
        more = f" (and {len(problems) - 1} more: fwl cron check)" if len(problems) > 1 else ""
        raise ConfigError(f"{place(config, problems[0])}{problems[0].text}{more}")
    return found


def read_config(config: Config) -> tuple[list[NewSchedule], list[Problem]]:
    """The schedules of the configuration that are right, and all that is wrong with the others."""
    found, problems = [], []
    for setting in config.cron:
        new, faults = _read_table(setting, config)
        problems += [Problem(setting.name, field or None, fault) for field, fault in faults.items()]
        if new is not None:
            found.append(new)
    return found, problems


def from_tasks(config: Config) -> list[NewSchedule]:
    """The schedules of the tasks that this process knows."""
    found = []
    for task in task_registry.tasks():
        if task.schedule is None:
            continue
        try:
            job = calls.build_call(task.function, (), {}, NO_OPTIONS, defaults=config.job)
        except FastWorkerError as error:
            log.warning("task %s is not called by the clock: %s", task.name, error)
            continue
        found.append(_new(task.name, "task", task.name, task.schedule, job))
    return found


def from_call(
    name: str, what: Callable[..., Any] | str | Sequence[str], given: Mapping[str, Any], config: Config
) -> NewSchedule:
    """A schedule for `Client.schedule`: a function or a task's name with `args` and `kwargs`, or a command's words."""
    faults: dict[str, str] = _name_fault(name)
    schedule, when_faults = schedule_module.read({key: given[key] for key in given if key in schedule_module.FIELDS})
    others = {key: value for key, value in given.items() if key not in schedule_module.FIELDS and value is not None}
    options = _read_options({key: value for key, value in others.items() if key not in _OF_WHAT}, faults)
    faults |= when_faults
    job: NewJob | None = None
    if isinstance(what, (list, tuple)):
        job = read_command(others | {"command": list(what)}, os.curdir, options.over(config.job), faults)
    elif command_only := {"cwd", "env", "env_file"}.intersection(others):
        faults[command_only.pop()] = "is for commands"
    else:
        args, kwargs = others.get("args", ()), others.get("kwargs", {})
        if not isinstance(args, (list, tuple)) or not isinstance(kwargs, Mapping):
            raise ConfigError("args must be a list or a tuple and kwargs a mapping: those of the call")
        job = calls.build_call(
            what, tuple(args), dict(kwargs), options, defaults=config.job, max_payload=config.max_payload  # type: ignore[arg-type]
        )  # fmt: skip
    for field, fault in faults.items():
        raise ConfigError(f"{field}: {fault}")
    assert schedule is not None and job is not None
    return _new(name, "api", None, schedule, job)


def declared_here(config: Config, in_file: Sequence[NewSchedule]) -> tuple[list[NewSchedule], set[tuple[str, str]]]:
    """The schedules *in_file* and those of the tasks known by now, and whose they are: what those do not declare is over."""
    found = {new.name: new for new in from_tasks(config)}
    for new in in_file:
        if new.name in found:
            log.warning("schedule %s of %s goes before that of the task of this name", new.name, new.source)
        found[new.name] = new
    sources = {("task", name) for name in task_registry.list_tasks()}
    return list(found.values()), sources | ({("file", config.path)} if config.path is not None else set())


def _new(name: str, origin: str, source: str | None, schedule: Schedule, job: NewJob) -> NewSchedule:
    named = job._replace(options=job.options._replace(name=name))
    return NewSchedule(name=name, origin=origin, source=source, schedule=schedule, job=named)


# ---- a table


def _read_table(setting: CronSetting, config: Config) -> tuple[NewSchedule | None, dict[str, str]]:
    """A schedule, or for each setting of its table that is wrong what is; the empty name stands for the whole."""
    table = setting.table
    faults = _name_fault(setting.name)
    schedule, when_faults = schedule_module.read({key: table[key] for key in table if key in _WHEN})
    options = _read_options({key: table[key] for key in table if key not in _WHEN and key not in _OF_WHAT}, faults)
    faults |= when_faults
    job = _read_job(table, options.over(config.job), config, faults)
    if faults or schedule is None or job is None:
        return None, faults
    return _new(setting.name, "file", config.path, schedule, job), {}


def _read_job(table: Mapping[str, Any], options: JobOptions, config: Config, faults: dict[str, str]) -> NewJob | None:
    what = [key for key in _WHAT if key in table]
    if len(what) != 1:
        faults[what[1] if what else ""] = "give one of command, shell and python" + ("" if what else ": what is to run")
        return None
    try:
        if what == ["python"]:
            return _read_python(table, options, faults)
        folder = os.path.dirname(os.path.abspath(config.path)) if config.path is not None else os.curdir
        return read_command(table, folder, options, faults)
    except FastWorkerError as error:  # of what only its options together, or with the call, can break
        faults[what[0]] = str(error)
        return None


def _name_fault(name: object) -> dict[str, str]:
    if isinstance(name, str) and name.isprintable() and 0 < len(name) <= 200 and name == name.strip():
        return {}
    return {"name": f"must be a text of 1 to 200 characters that can be printed, got {name!r:.80}"}


def _read_options(given: Mapping[str, Any], faults: dict[str, str]) -> JobOptions:
    parsed = NO_OPTIONS
    for key, value in given.items():
        try:
            if key not in _OPTIONS:
                raise ConfigError(_no_such_setting(key))
            parsed = JobOptions.parse_for_tasks({key: read_option(key, value)}).over(parsed)
        except ConfigError as error:
            faults[key] = str(error)
    return parsed


def _no_such_setting(key: str) -> str:
    known = sorted(_WHEN | _OPTIONS | set(_OF_WHAT))
    close = difflib.get_close_matches(key, known, n=1)
    meant = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(known)}"
    return f"there is no such setting; {meant}"


def _read_python(table: Mapping[str, Any], options: JobOptions, faults: dict[str, str]) -> NewJob | None:
    name, args, kwargs = table["python"], table.get("args", []), table.get("kwargs", {})
    if not isinstance(name, str) or not name.strip() or len(name) > 500 or not name.isprintable():
        faults["python"] = f'must be the name of a task, or "module:function", got {name!r:.80}'
    if not isinstance(args, list):
        faults["args"] = f"must be a list, got {args!r:.80}"
    if not isinstance(kwargs, dict):
        faults["kwargs"] = f"must be a table, got {kwargs!r:.80}"
    for key in ("cwd", "env", "env_file"):
        if key in table:
            faults[key] = "is for commands; python has a worker's"
    if faults:
        return None
    task = task_registry.get(name)
    job = building.build_json_call(name, args, kwargs, options.over(task.options) if task else options)
    return job._replace(lane=Lane.ASYNC) if task is not None and task.is_async else job


# ---- where in the file


def place(config: Config, problem: Problem, *, is_field_named: bool = True) -> str:
    """`fastworker.toml:14: cron.nightly-backup.schedule: `, as far as it is known."""
    field = f".{problem.field}" if problem.field and is_field_named else ""
    if config.path is None:
        return f"cron.{problem.name}{field}: "
    line, near = line_of(config, problem), os.path.relpath(config.path)
    file = config.path if near.startswith(os.pardir) else near
    return f"{file}:{f'{line}:' if line else ''} cron.{problem.name}{field}: "


def line_of(config: Config, problem: Problem) -> int | None:
    """The line of the configuration in which the setting stands, or its table; None where it is not to be found."""
    try:
        with open(config.path or "", encoding="utf-8-sig") as file:
            return _line_of(file.read().splitlines(), problem)
    except (OSError, ValueError):
        return None


def _line_of(lines: Sequence[str], problem: Problem) -> int | None:
    name = rf"""["']?{re.escape(problem.name)}["']?"""
    head = re.compile(rf"\s*\[\s*(?:tool\s*\.\s*fastworker\s*\.\s*)?cron\s*\.\s*{name}\s*\]")
    entry = re.compile(rf"\s*(?:cron\s*\.\s*)?{name}\s*[.=]")
    first = next((at for at, line in enumerate(lines) if head.match(line)), None)
    if first is None:
        return next((at + 1 for at, line in enumerate(lines) if entry.match(line)), None)
    for at in range(first + 1, len(lines)):
        if re.match(r"\s*\[", lines[at]):
            break
        if problem.field and re.match(rf"""\s*["']?{re.escape(problem.field)}["']?\s*[.=]""", lines[at]):
            return at + 1
    return first + 1
