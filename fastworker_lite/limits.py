"""What a job must not exceed while it runs: so many at a time, so many in a span, one holder of a lock.

Runs in: every process that submits, and workers.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import ConfigError
from .options import JobOptions, rate_of


class Limit(NamedTuple):
    """One limit that a job is under. Who shares its key shares the limit."""

    key: str
    #: `concurrency resize[host1]`, `rate resize`, `lock backup`: as a person reads it in a job's reason.
    most: int
    #: So many at a time; with *seconds*, so many begun in that span.
    seconds: float | None = None


def limits_of(task: str, options: JobOptions, group: str | None) -> str | None:
    """The limits of a job as its row has them, None for a job without any. *group* is its key, see `group_of`."""
    shared = task if group is None else f"{task}[{group}]"
    limits = []
    if options.lock is not None:
        limits.append(Limit(f"lock {options.lock}", 1))
    if options.concurrency is not None:
        limits.append(Limit(f"concurrency {shared}", options.concurrency))
    if options.rate is not None:
        limits.append(Limit(f"rate {shared}", *rate_of(options.rate)))
    return json.dumps(limits) if limits else None


def read_limits(text: str) -> list[Limit]:
    """What `limits_of` wrote."""
    return [Limit(*one) for one in json.loads(text)]


def group_of(
    key: str | Callable[..., object] | None,
    function: Callable[..., Any] | None,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str | None:
    """The key of one call: a text as it is, one with braces filled in from the call's arguments, or what a function says.

    Raises `ConfigError` when the call has no such argument, or when nobody here knows the function (None).
    """
    if key is None or (isinstance(key, str) and "{" not in key):
        return key
    if callable(key):
        return _storable(_called(key, args, kwargs))
    if function is None:
        raise ConfigError(
            f"key {key!r} names arguments of a task that this process does not know; give it as it is meant"
        )
    arguments = _bound(function, args, kwargs)
    try:
        return _storable(key.format_map(arguments))
    except KeyError as error:
        known = ", ".join(sorted(arguments)) or "no arguments"
        raise ConfigError(f"key {key!r} names {error.args[0]}, but the call has {known}") from None
    except Exception as error:
        raise ConfigError(f"key {key!r} cannot be filled in: {error}") from None


def _storable(value: object) -> str:
    return str(value)[:500].encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _called(key: Callable[..., object], args: Sequence[Any], kwargs: Mapping[str, Any]) -> object:
    try:
        return key(*args, **kwargs)
    except Exception as error:
        raise ConfigError(f"the key's function failed: {type(error).__name__}: {error}") from error


def _bound(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return dict(kwargs)  # the call itself is wrong, and will say so
    bound.apply_defaults()
    return dict(bound.arguments)
