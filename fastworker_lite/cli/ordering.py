"""What `fwl submit` and `fwl run` were asked for, and the jobs that it becomes.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from .. import building, payloads
from ..errors import ConfigError
from ..job import Command, Kind, NewJob
from ..options import JobOptions
from . import render
from .problems import CommandError, usage
from .values import read_arguments, typed_wrongly

#: The keys of a line of --format jsonl.
_OPTIONS = ("name", "queue", "priority", "timeout", "retries", "tags", "after", "unique", "lock")
_KEYS = {"argv", "shell", "task", "args", "kwargs", "cwd", "env", *_OPTIONS}


class Order(NamedTuple):
    """The words of one command line, parsed as far as they do not depend on each other."""

    words: list[str]
    cwd: str
    environment: dict[str, str]
    options: JobOptions
    shell: str | None = None
    script: str | None = None
    #: A file, or - for stdin, whose text is the program.
    task: str | None = None
    kwargs: Mapping[str, Any] = MappingProxyType({})
    source: str | None = None
    source_format: str = "lines"
    stdin: str | None = None
    #: A file that the command reads, or - for ours, which comes along.
    is_checked: bool = True
    allowed_modules: tuple[str, ...] = ()
    verb: str = "submit"
    #: The command that was typed.
    stored_environment: bytes = b""
    script_text: str | None = None
    input_text: str | None = None
    #: What was read of the files named above.


def build(order: Order) -> list[NewJob]:
    """The jobs of an order, all of them checked. Raises before anything is stored."""
    if sum(one is not None for one in (order.shell, order.task, order.script)) > 1:
        raise usage("give one of -- CMD, -c STRING, --script FILE and --task NAME")
    if order.task is not None and order.stdin is not None:
        raise usage("--stdin is for commands; a task gets arguments")
    if [order.source, order.script, order.stdin].count("-") > 1:
        raise usage("only one of --from, --script and --stdin can read stdin")
    order = _with_texts(order)
    if order.source is not None:
        jobs = list(_bulk(order))
        if not jobs:
            raise usage(f"nothing to run: {order.source} is empty")
        return jobs
    return [build_one(order)]


def _with_texts(order: Order) -> Order:
    """With what is the same for all its jobs, read and encoded once."""
    given: dict[str, Any] = {"stored_environment": payloads.encode_environment(order.environment)}
    if order.script is not None:
        given["script_text"] = _read_text("--script", order.script)
    if order.stdin == "-":
        given["input_text"] = _read_text("--stdin", "-")
    elif order.stdin is not None:
        given["stdin"] = os.path.join(order.cwd, order.stdin)
        if order.is_checked and not os.access(given["stdin"], os.R_OK):
            raise usage(f"--stdin: cannot read {order.stdin}")
    return order._replace(**given)


def build_one(order: Order) -> NewJob:
    """One call or command."""
    if order.task is not None:
        return _call(order)
    if order.script is not None:
        name = "script" if order.script == "-" else os.path.basename(order.script)
        return _command(order, Command(argv=[name, *order.words], shell=None, cwd=order.cwd, script=order.script_text))
    if order.shell is not None:
        if order.words:
            raise usage("-c takes one string; put its arguments into it, or use -- CMD [ARG...]")
        if not order.shell.strip():
            raise usage("-c: the string is empty")
        return _command(order, Command(argv=None, shell=order.shell, cwd=order.cwd))
    if not order.words or not order.words[0]:
        raise usage(f"nothing to run. Usage: fwl {order.verb} [options] -- CMD [ARG...]")
    if order.is_checked:
        check_program(order.words[0], order.cwd, order.environment.get("PATH", os.defpath))
    return _command(order, Command(argv=order.words, shell=None, cwd=order.cwd))


def _command(order: Order, command: Command) -> NewJob:
    if order.is_checked and not _is_folder(order.cwd):
        raise usage(f"--cwd: there is no folder {order.cwd}")
    if order.stdin is not None:
        command = command._replace(stdin=None if order.stdin == "-" else order.stdin, input=order.input_text)
    return building.build_command(command, order.stored_environment, order.options)


@lru_cache(maxsize=64)
def _is_folder(path: str) -> bool:
    return os.path.isdir(path)


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
        return building.build_json_call(order.task, args, kwargs | dict(order.kwargs), order.options)
    except UnicodeEncodeError:
        raise usage("--task: the name is not valid Unicode") from None


def changed_command(job: NewJob, words: Sequence[str], cwd: str | None) -> NewJob:
    """A command with other words, or in another folder; as it is when there is neither."""
    if not words and cwd is None:
        return job
    if job.kind is not Kind.COMMAND:
        raise usage("the job is a task's call; it has neither command nor folder")
    command = payloads.decode_command(job.payload)
    if cwd is not None:
        command = command._replace(cwd=os.path.abspath(cwd))
        if not _is_folder(command.cwd):
            raise usage(f"--cwd: there is no folder {cwd}")
    if words:
        command = command._replace(argv=list(words), shell=None, script=None)
    built = building.build_command(command, job.environment, job.options)
    return job._replace(task=built.task, payload=built.payload, checksum=built.checksum)


def check_task(job: NewJob) -> bool:
    """Whether some runner must know the job's task by name."""
    return job.kind == Kind.CALL and ":" not in job.task


# ---- programs


def check_program(program: str, cwd: str, path: str) -> None:
    """Refuse what could not be started from here: most are slips of the pen."""
    if find_program(program, cwd, path) is not None:
        return
    from .advising import advise

    what = f'no executable file "{program}"' if "/" in program else f'no executable named "{program}" on PATH'
    raise usage(what, advise(program, cwd, path))


@lru_cache(maxsize=64)  # of a hundred thousand lines, all but few run the same
def find_program(program: str, cwd: str, path: str) -> str | None:
    """The file that would be started."""
    if "/" in program:
        candidates = [os.path.join(cwd, program)]
    else:
        candidates = [os.path.join(cwd, folder, program) for folder in path.split(os.pathsep)]
    return next((file for file in candidates if os.path.isfile(file) and os.access(file, os.X_OK)), None)


# ---- --from


def _bulk(order: Order) -> Iterator[NewJob]:
    is_whole = order.source_format == "jsonl"
    if order.shell is not None or (is_whole and (order.task is not None or order.script is not None)):
        hint = """A shell line for each: fwl submit --from FILE -- sh -c 'wc -l "$1" | sort' sh {}"""
        raise usage("--from takes -- CMD [ARG...] or --task NAME, and with --format jsonl neither", hint)
    text = _read_text("--from", order.source or "-")
    if order.source_format == "jsonl":
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                yield _from_json(order, number, line)
        return
    if order.source_format not in ("lines", "nul"):
        raise usage(f'--format: "{order.source_format}" is not a format. Formats: lines nul jsonl')
    if not order.words and order.task is None and order.script is None:
        raise usage("nothing to run. Usage: fwl submit --from FILE -- CMD [ARG...]  ({} is the line)")
    has_places = any("{" in text for text in _texts(order.options))
    for line in text.split("\0") if order.source_format == "nul" else text.split("\n"):
        if line:
            options = _fill_options(order.options, line) if has_places else order.options
            yield build_one(order._replace(words=fill_in(order.words, line), options=options))


#: What stands for a line, or for a part of it, as in GNU parallel.
_PLACES: dict[str, Callable[[str], str]] = {
    "{}": str,
    "{.}": lambda line: re.sub(r"\.[^/.]+$", "", line),
    "{/}": lambda line: line.rpartition("/")[2],
    "{//}": lambda line: os.path.dirname(line) or ".",
    "{/.}": lambda line: re.sub(r"\.[^/.]+$", "", line.rpartition("/")[2]),
}
_PLACE = r"\{(?:|\.|/|//|/\.)\}"  # compiled when used


def fill_in(words: Sequence[str], line: str) -> list[str]:
    """*words* with *line* in the place of every `{}`, or at the end when nothing stands for it.

    `{.}` is the line without its extension, `{/}` its last part, `{//}` its folder, `{/.}` the last part without its extension.
    """
    filled = [_fill(word, line) for word in words]
    return filled if any("{" in word and re.search(_PLACE, word) for word in words) else [*filled, line]


def _fill(text: str, line: str) -> str:
    return re.sub(_PLACE, lambda found: _PLACES[found[0]](line), text) if "{" in text else text


#: The options that may be another one for each line, beside tags.
_FILLED = ("name", "unique", "idempotency_key", "lock", "key")


def _texts(options: JobOptions) -> list[str]:
    tags = json.loads(options.tags or "{}")
    return [*(text for name in _FILLED if (text := getattr(options, name))), *tags, *tags.values()]


def _fill_options(options: JobOptions, line: str) -> JobOptions:
    """As `fill_in`, of what the job is called, its tags and its keys; checked again, for the line may be anything."""
    given: dict[str, Any] = {name: _fill(text, line) for name in _FILLED if (text := getattr(options, name))}
    if options.tags is not None:
        given["tags"] = {_fill(name, line): _fill(text, line) for name, text in json.loads(options.tags).items()}
    try:
        filled = JobOptions.parse(given)
    except ConfigError as error:
        raise typed_wrongly(error) from None
    return options._replace(**{name: getattr(filled, name) for name in given})


def _read_text(option: str, source: str) -> str:
    """What is in a file, or comes from stdin; bytes that are not UTF-8 stay as they are."""
    if source == "-":
        if render.is_terminal(sys.stdin):
            raise usage(f"{option} - reads stdin, which is a terminal; pipe something into it, or name a file")
        return os.fsdecode(sys.stdin.buffer.read())
    try:
        with open(source, "rb") as file:
            return os.fsdecode(file.read())
    except OSError as error:
        raise usage(f"{option}: {source}: {error.strerror}") from None


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
    own = order._replace(
        words=list(fields.get("argv", [])),
        shell=fields.get("shell"),
        task=fields.get("task"),
        cwd=os.path.join(order.cwd, fields.get("cwd", "")).rstrip("/") or "/",
        options=order.options._replace(**changed),
    )
    if "env" in fields:
        environment = order.environment | fields["env"]
        own = own._replace(environment=environment, stored_environment=payloads.encode_environment(environment))
    if own.task is None:
        return build_one(own)
    _call(own._replace(kwargs={}))  # checks the name
    return building.build_json_call(own.task, fields.get("args", []), fields.get("kwargs", {}), own.options)


def _check_types(fields: dict[str, Any]) -> None:
    kinds = {"argv": list, "shell": str, "task": str, "args": list, "kwargs": dict, "cwd": str, "env": dict}
    for key, kind in kinds.items():
        if key in fields and not isinstance(fields[key], kind):
            raise usage(f'"{key}" must be a JSON {"array" if kind is list else "object" if kind is dict else "string"}')
    texts = [*fields.get("argv", []), *fields.get("env", {}).values()]
    if not all(isinstance(text, str) and "\0" not in text for text in texts):
        raise usage('"argv" and "env" must hold strings without NUL')
