"""Calls and values as bytes, and back. The only owner of cloudpickle.

A value's first byte says how to read it: 0x80 plain pickle, `J` JSON, `V` pickled by value, followed by the tag of the
Python that did it, because the bytecode in it would crash another one.

Only the client and the workers read values. Everybody else moves them as opaque bytes.

Runs in: every process that submits or works.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import SerializationError
from .options import NO_OPTIONS, JobOptions
from .payloads import encode_json, is_json, result_checksum

if TYPE_CHECKING:
    from .tasks.registry import Task

_PROTOCOL = 5
_CACHE_TAG = (sys.implementation.cache_tag or sys.implementation.name).encode()
_dumps, _loads = pickle.dumps, pickle.loads  # bound now: a task may replace the module's attributes


def read_result(job_id: int, data: bytes | None, stored_checksum: int | None) -> Any:
    """The result of a job as it was stored, None for a command. Unpickles it. Raises `SerializationError`."""
    return None if data is None else decode(checked_result(job_id, data, stored_checksum))


def checked_result(job_id: int, data: bytes, stored_checksum: int | None) -> bytes:
    """The result of a job as it was stored, still as bytes. Raises `SerializationError`."""
    if result_checksum(data) != stored_checksum:
        raise SerializationError(f"the result of job {job_id} is damaged: its checksum does not match")
    return data


# ---- values


def encode(value: object) -> bytes:
    """*value* as bytes: by pickle where that is enough, by value where it holds closures or things of `__main__`.

    Raises `SerializationError`.
    """
    try:
        data = _dumps(value, _PROTOCOL)
    except Exception:
        return _encode_by_value(value)
    if b"__main__" in data:  # a reference into a module that is another one in every process
        return _encode_by_value(value)
    return data


def _encode_by_value(value: object) -> bytes:
    buffer = io.BytesIO()
    try:
        _by_value_pickler()(buffer, protocol=_PROTOCOL).dump(value)
    except Exception as error:
        raise SerializationError(f"{type(value).__name__} cannot be pickled: {error}") from error
    return b"V" + _CACHE_TAG + b"\n" + buffer.getvalue()


@cache
def _by_value_pickler() -> Any:
    import cloudpickle  # type: ignore[import-untyped]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """cloudpickle would read an open file and send a copy, which is never what was meant."""

        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, io.IOBase) and not isinstance(value, (io.BytesIO, io.StringIO)):
                raise pickle.PicklingError("an open file does not travel; send its path")
            return super().reducer_override(value)

    return Pickler


def decode(data: bytes) -> Any:
    """The value that was encoded. Runs whatever the pickle says: see the README on trust.

    Raises `SerializationError`.
    """
    head = data[:1]
    try:
        if head == b"\x80":
            return _loads(data)
        if head == b"J":
            return json.loads(data[1:])
        if head == b"V":
            tag, _, body = data[1:].partition(b"\n")
            _check_tag(tag)
            return _loads(body)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"the stored value cannot be read: {type(error).__name__}: {error}") from error
    raise SerializationError("the stored value has an unknown format")


def _check_tag(tag: bytes) -> None:
    if tag != _CACHE_TAG:
        raise SerializationError(
            f"it was pickled by value in {tag.decode(errors='replace')} and cannot be read in {_CACHE_TAG.decode()}; "
            "use one Python, or put the function into a module"
        )


# ---- calls


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The arguments of a call."""
    return encode((args, kwargs))


def decode_call(payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call. Raises `SerializationError`."""
    value = decode(payload)
    try:
        args, kwargs = (value["args"], value["kwargs"]) if is_json(payload) else value
        return tuple(args), dict(kwargs)
    except (TypeError, ValueError, KeyError) as error:
        raise SerializationError("the stored call does not hold arguments") from error


def encode_result(value: object, is_json_wanted: bool) -> bytes:
    """A task's return value, as JSON where the caller spoke JSON and the value is."""
    if is_json_wanted:
        try:
            return encode_json(value)
        except SerializationError:
            pass
    return encode(value)


#: Characters of a result that listeners get as JSON, and of its `repr` otherwise.
MOST_TOLD, MOST_REPR = 500_000, 1_000


def tell(value: object) -> str:
    """A result as listeners get it: `{"result": ...}`, and `result_repr` where JSON cannot hold it."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if len(text) <= MOST_TOLD:
            return f'{{"result":{text}}}'
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        shown = repr(value)[:MOST_REPR]
    except BaseException as error:
        shown = f"<{type(value).__name__}: its __repr__ raised {type(error).__name__}>"
    return '{"result":null,"result_repr":' + json.dumps(shown) + "}"


# ---- functions


class StandIn:
    """In the place of a function that only another Python has."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        #: `module:qualified.name` there.
        self.__module__, _, self.__qualname__ = reference.partition(":")

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise SerializationError(f"{self.reference} is a task of another Python, and can only be submitted here")


class Target(NamedTuple):
    """A function, and what is called around it."""

    function: Callable[..., Any]
    before: Callable[..., Any] | None
    after: Callable[..., Any] | None
    is_async: bool
    #: Whether calling the function gives a coroutine.
    options: JobOptions = NO_OPTIONS
    #: What the task's declaration says of its jobs.

    @classmethod
    def make(
        cls,
        function: Callable[..., Any],
        before: Callable[..., Any] | None = None,
        after: Callable[..., Any] | None = None,
    ) -> Target:
        return cls(function, before, after, is_async(function))

    @classmethod
    def of(cls, task: Task) -> Target:
        return cls.make(task.function, task.before, task.after)._replace(options=task.options)


def encode_target(target: Target) -> bytes:
    """Where a worker finds the function: `I` and its importable name, or the function itself by value.

    Raises `SerializationError`.
    """
    name = importable_name(target.function)
    return b"I" + name.encode() if name else _encode_by_value((target.function, target.before, target.after))


def importable_name(function: Callable[..., Any]) -> str | None:
    """`module:qualified.name` when importing that gives this very function in another process, else None."""
    if isinstance(function, StandIn):
        return function.reference
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module in ("__main__", "__mp_main__"):
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is function else None


def decode_target(data: bytes) -> Target:
    """The function behind `encode_target`'s bytes. Functions that came by value keep their globals between jobs.

    Raises `SerializationError`, or `ImportError` when the module does not load here.
    """
    known = _targets.get(data)
    if known is not None:
        _targets.move_to_end(data)
        return known
    target = Target.make(import_function(data[1:].decode())) if data[:1] == b"I" else Target.make(*decode(data))
    _targets[data] = target
    if len(_targets) > _TARGETS_KEPT:
        _targets.popitem(last=False)
    return target


_TARGETS_KEPT = 256
_targets: OrderedDict[bytes, Target] = OrderedDict()


def import_function(name: str) -> Callable[..., Any]:
    """The function that `module:qualified.name` names. Raises `ImportError` when there is none."""
    module, _, qualified = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        if not hasattr(found, part):
            raise ImportError(f'module "{module}" has no function "{qualified}"', name=module)
        found = getattr(found, part)
    if not callable(found):
        raise ImportError(f'"{name}" is not a function', name=module)
    function: Callable[..., Any] = found
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def function_name(function: Callable[..., Any]) -> str:
    """What a function is called in lists."""
    return importable_name(function) or getattr(function, "__qualname__", None) or type(function).__name__
