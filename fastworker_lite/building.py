"""What a command or a call becomes when it is to be stored, as far as its arguments need not be pickled.

Runs in: every process that submits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from . import payloads
from .errors import PayloadTooLarge
from .job import Command, Kind, NewJob, Parent
from .limits import group_of, limits_of
from .options import JobOptions

#: Bytes that a call's arguments may take, unless the configuration says otherwise.
MAX_PAYLOAD = 1024 * 1024


def build_json_call(name: str, args: list[Any], kwargs: dict[str, Any], options: JobOptions) -> NewJob:
    """A call by name whose arguments are JSON, and whose result will be, if it can."""
    payload = payloads.encode_json_call(args, kwargs)
    job = NewJob(
        kind=Kind.CALL,
        task=name,
        payload=payload,
        checksum=payloads.checksum(name, None, payload),
        options=with_path(options),
        limits=limits(name, options),
        parents=parents(options),
    )
    return sized(job, MAX_PAYLOAD)


def build_command(command: Command, environment: bytes | None, options: JobOptions) -> NewJob:
    """A command, ready to be stored.

    *environment* is what it will find, from `payloads.encode_environment`; None leaves that to the worker.
    """
    payload = payloads.encode_command(command)
    task = os.path.basename(command.argv[0]) if command.argv else "sh"
    task = task.encode(errors="replace").decode()[:200] or "command"
    job = NewJob(
        kind=Kind.COMMAND,
        task=task,
        payload=payload,
        checksum=payloads.checksum(task, None, payload),
        options=with_path(options),
        environment=environment,
        limits=limits(task, options),
        parents=parents(options),
    )
    return sized(job, MAX_PAYLOAD)


def limits(
    name: str,
    options: JobOptions,
    function: Callable[..., Any] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> str | None:
    if options.lock is None and options.concurrency is None and options.rate is None:
        return None
    return limits_of(name, options, group_of(options.key, function, args, kwargs))


def parents(options: JobOptions) -> tuple[Parent, ...]:
    if options.after is options.after_any is options.after_failure is None:
        return ()
    kinds = {"any": options.after_any, "failure": options.after_failure, "success": options.after}
    strictest = {number: kind for kind, numbers in kinds.items() for number in numbers or ()}
    return tuple(Parent(number, kind) for number, kind in strictest.items())


def with_path(options: JobOptions) -> JobOptions:
    """A callback's address is resolved where the job is submitted: what it means may depend on the environment."""
    if options.callback is None:
        return options
    from .streams import callback_path

    return options._replace(callback=callback_path(options.callback))


def sized(job: NewJob, limit: int) -> NewJob:
    size = len(job.payload) + len(job.target or b"")
    if size > limit:
        raise PayloadTooLarge(size, limit)
    return job
