"""What `fwl submit` and `fwl run` were asked for, and the jobs that it becomes.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .. import producer
from ..errors import ConfigError
from ..job import Command, Kind, NewJob
from ..options import JobOptions
from . import render
from .problems import CommandError, usage
from .values import read_arguments

#: The keys of a line of --format jsonl.
_OPTIONS = ("name", "queue", "priority", "timeout", "retries", "after", "unique", "lock")
_KEYS = {"argv", "shell", "task", "args", "kwargs", "cwd", "env", *_OPTIONS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The words of one command line, parsed as far as they do not depend on each other."""

    words: list[str]
    shell: str | None = None
    task: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    source_format: str = "lines"
    cwd: str
    environment: dict[str, str]
    is_checked: bool = True
    allowed_modules: tuple[str, ...] = ()
    options: JobOptions


def build(order: Order) -> list[NewJob]:
    """The jobs of an order, all of them checked. Raises before anything is stored."""
    if order.shell is not None and order.task is not None:
        raise usage("give one of -- CMD, -c STRING and --task NAME")
    if order.source is not None:
        jobs = list(_bulk(order))
        if not jobs:
            raise usage(f"nothing to run: {order.source} is empty")
        return jobs
    return [build_one(order)]


def build_one(order: Order) -> NewJob:
    """One call or command."""
    if order.task is not None:
        return _call(order)
    if order.shell is not None:
        if order.words:
            raise usage("-c takes one string; put its arguments into it, or use -- CMD [ARG...]")
        if not order.shell.strip():
            raise usage("-c: the string is empty")
        return _command(order, Command(argv=None, shell=order.shell, cwd=order.cwd))
    if not order.words or not order.words[0]:
        raise usage("nothing to run. Usage: fwl submit [options] -- CMD [ARG...]")
    if order.is_checked:
        check_program(order.words[0], order.cwd, order.environment.get("PATH", os.defpath))
    return _command(order, Command(argv=order.words, shell=None, cwd=order.cwd))


def _command(order: Order, command: Command) -> NewJob:
    if order.is_checked and not os.path.isdir(order.cwd):
        raise usage(f"--cwd: there is no folder {order.cwd}")
    return producer.build_command(command, order.environment, order.options)


def _call(order: Order) -> NewJob:
    assert order.task is not None
    module, colon, _ = order.task.partition(":")
    if colon and module not in order.allowed_modules:
        raise usage(
            f'--task: module "{module}" is not among the task modules',
            f'Allow it: --import {module}, or tasks = ["{module}"] in fastworker.toml',
        )
    args, kwargs = read_arguments(order.words)
    if not order.task or len(order.task) > 500:
        raise usage("--task: a name has 1 to 500 characters")
    try:
        return producer.build_json_call(order.task, args, kwargs | order.kwargs, order.options)
    except UnicodeEncodeError:
        raise usage("--task: the name is not valid Unicode") from None


def check_task(job: NewJob) -> bool:
    """Whether some runner must know the job's task by name."""
    return job.kind == Kind.CALL and ":" not in job.task


# ---- programs


def check_program(program: str, cwd: str, path: str) -> None:
    """Refuse what could not be started from here: most are slips of the pen."""
    if find_program(program, cwd, path) is not None:
        return
    if "/" in program:
        raise usage(f'no executable file "{program}"', "Queue it anyway: --no-check")
    if any(character in program for character in " |;&<>$"):
        hint = f"That is a shell line. Use:  fwl submit -c {shlex.quote(program)}"
    else:
        hint = "Queue it anyway: --no-check"
    raise usage(f'no executable named "{program}" on PATH', hint)


def find_program(program: str, cwd: str, path: str) -> str | None:
    """The file that would be started."""
    if "/" in program:
        candidates = [os.path.join(cwd, program)]
    else:
        candidates = [os.path.join(cwd, folder, program) for folder in path.split(os.pathsep)]
    return next((file for file in candidates if os.path.isfile(file) and os.access(file, os.X_OK)), None)


# ---- --from


def _bulk(order: Order) -> Iterator[NewJob]:
    if order.shell is not None or (order.task is not None and order.source_format == "jsonl"):
        raise usage("--from takes -- CMD [ARG...] or --task NAME, and with --format jsonl neither")
    text = _read_source(order.source or "-")
    if order.source_format == "jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _from_json(order, number, line)
        return
    if order.source_format not in ("lines", "nul"):
        raise usage(f'--format: "{order.source_format}" is not a format. Formats: lines nul jsonl')
    if not order.words and order.task is None:
        raise usage("nothing to run. Usage: fwl submit --from FILE -- CMD [ARG...]  ({} is the line)")
    for line in text.split("\0") if order.source_format == "nul" else text.split("\n"):
        if line:
            yield build_one(replace(order, words=fill_in(order.words, line)))


def fill_in(words: Sequence[str], line: str) -> list[str]:
    """*words* with *line* in the place of every `{}`, or at the end when there is none."""
    if any("{}" in word for word in words):
        return [word.replace("{}", line) for word in words]
    return [*words, line]


def _read_source(source: str) -> str:
    if source == "-":
        if render.is_terminal(sys.stdin):
            raise usage("--from - reads stdin, which is a terminal; pipe something into it, or name a file")
        return os.fsdecode(sys.stdin.buffer.read())
    try:
        with open(source, "rb") as file:
            return os.fsdecode(file.read())
    except OSError as error:
        raise usage(f"--from: {source}: {error.strerror}") from None


def _from_json(order: Order, number: int, line: str) -> NewJob:
    where = f"--from: line {number}"
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise usage(f"{where}: {error}") from None
    if not isinstance(fields, dict) or len({"argv", "shell", "task"} & fields.keys()) != 1:
        raise usage(f'{where}: must be an object with one of "argv", "shell" and "task"')
    unknown = sorted(fields.keys() - _KEYS)
    if unknown:
        raise usage(f'{where}: there is no key "{unknown[0]}"; the keys are {", ".join(sorted(_KEYS))}')
    try:
        return _job_from(order, fields)
    except (CommandError, ConfigError) as error:
        raise usage(f"{where}: {error}") from None


def _job_from(order: Order, fields: dict[str, Any]) -> NewJob:
    _check_types(fields)
    given: dict[str, Any] = {key: fields[key] for key in _OPTIONS if key in fields}
    parsed = JobOptions.parse(given)
    changed = {key: getattr(parsed, key) for key in given}
    own = replace(
        order,
        words=list(fields.get("argv", [])),
        shell=fields.get("shell"),
        task=fields.get("task"),
        cwd=os.path.join(order.cwd, fields.get("cwd", "")).rstrip("/") or "/",
        environment=order.environment | fields.get("env", {}),
        options=replace(order.options, **changed),
    )
    if own.task is None:
        return build_one(own)
    _call(replace(own, kwargs={}))  # checks the name
    return producer.build_json_call(own.task, fields.get("args", []), fields.get("kwargs", {}), own.options)


def _check_types(fields: dict[str, Any]) -> None:
    kinds = {"argv": list, "shell": str, "task": str, "args": list, "kwargs": dict, "cwd": str, "env": dict}
    for key, kind in kinds.items():
        if key in fields and not isinstance(fields[key], kind):
            raise usage(f'"{key}" must be a JSON {"array" if kind is list else "object" if kind is dict else "string"}')
    texts = [*fields.get("argv", []), *fields.get("env", {}).values()]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise usage('"argv" and "env" must hold strings without NUL')
