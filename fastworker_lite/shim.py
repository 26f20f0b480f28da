"""Runs tasks in an interpreter where nothing of ours is installed, and is `fastworker_lite` to them there.

The worker that starts this interpreter sends it the text of this file, and calls over a socket; see foreign.py. It uses
the standard library alone, of Python 3.9 or later. What it offers has the meaning that it has elsewhere.

Runs in: the interpreter of `fwl worker --python`.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from _signal import getsignal, pthread_sigmask  # type: ignore[import-not-found]  # signal's own make enums: 10 us a job
from _signal import signal as set_handler
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, NamedTuple

__all__ = ["Cancel", "ConfigError", "FastWorkerError", "NotInJob", "Retry", "SerializationError"]
__all__ += ["TaskPriority", "current_job", "task"]

# ---- what tasks import


class FastWorkerError(Exception):
    """What this package raises."""


class ConfigError(FastWorkerError, ValueError):
    """Correct the setting, option or argument."""


class SerializationError(FastWorkerError, ValueError):
    """A call or a value cannot be turned into bytes, or back."""


class NotInJob(FastWorkerError):
    """`current_job()` was called outside of a running job."""

    def __init__(self) -> None:
        super().__init__("current_job() is for code that a worker runs; here no job is running")


class Retry(Exception):
    """Raised by a task: try this job again, after *after* seconds."""

    def __init__(self, *, after: float = 0.0) -> None:
        if not isinstance(after, (int, float)) or not 0 <= after <= 1e10:
            raise ValueError(f"after must be seconds, 0 or more, got {after!r}")
        super().__init__(f"try again after {after:g} s")
        self.after = float(after)


class Cancel(Exception):
    """Raised by a task: end this job as cancelled, with this reason, and do not try it again."""

    def __init__(self, reason: str = "cancelled by its task") -> None:
        super().__init__(reason)
        self.reason = str(reason)


class TaskPriority(str, Enum):
    """How urgent a task is."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    def __str__(self) -> str:
        return self.value


class _Task(NamedTuple):
    function: Callable[..., Any]
    before: Callable[..., Any] | None
    after: Callable[..., Any] | None
    key: Any
    #: What its limits count by.
    declared: dict[str, Any]
    #: The options as they were given, as far as JSON can hold them.


_tasks: dict[str, _Task] = {}
_by_reference: dict[str, _Task] = {}
#: Under `module:qualified.name`.


def task(function: Any = None, **declared: Any) -> Any:
    """Declare a function as a task: `@task`, `@task()`, `@task("name")` or `@task(name=..., retries=...)`."""
    if callable(function):
        _register(function, function.__name__, declared)
        return function
    name = declared.pop("name", function)
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigError(f"a task's name must be a non-empty string, got {name!r}")

    def declare(function: Any) -> Any:
        _register(function, name or function.__name__, dict(declared))
        return function

    return declare


def _register(function: Callable[..., Any], name: str, declared: dict[str, Any]) -> None:
    before, after, key = (declared.pop(option, None) for option in ("before", "after", "key"))
    told = {option: _plain(value) for option, value in declared.items() if value is not None}
    if isinstance(key, str):
        told["key"] = key
    _tasks[name] = _by_reference[_reference(function)] = _Task(function, before, after, key, told)


def _reference(function: Callable[..., Any]) -> str:
    return f"{function.__module__}:{getattr(function, '__qualname__', function.__name__)}"


def _plain(value: Any) -> Any:
    """An option's value as JSON can hold it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, type) and issubclass(value, BaseException):
        return _exception_name(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    return value if isinstance(value, (str, int, float)) else str(value)


class _CurrentJob:
    """The job that this code runs in."""

    def __init__(self, call: dict[str, Any], worker: _Worker) -> None:
        self.id = str(call["id"])
        self.attempt: int = call["attempt"]
        self.queue: str = call["queue"]
        moment = call["scheduled_for"]
        self.scheduled_for = None if moment is None else datetime.fromtimestamp(moment, timezone.utc)  # noqa: UP017
        self._worker = worker
        self._last = self._asked = 0.0
        self._is_cancelled = self._has_ended = False
        self.pending: list[Any] | None = None

    @property
    def log(self) -> Any:
        """A logger whose lines go to the job's log."""
        import logging

        return logging.getLogger("fastworker_lite.job")

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the job is. May be called as often as wanted: five times a second it is written down."""
        self.pending = [float(done), None if total is None else float(total), None if note is None else str(note)]
        now = time.monotonic()
        if now - self._last >= 0.2:
            self._last, said, self.pending = now, self.pending, None
            self._ask({"progress": said})

    def _ask(self, said: dict[str, Any]) -> Any:
        with self._worker.lock:  # a task may hand its job to threads of its own
            return None if self._has_ended else self._worker.ask(said)

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for the end of this job."""
        now = time.monotonic()
        if not self._is_cancelled and now - self._asked >= 0.05:
            self._asked = now
            # Who asks wants to end by itself: TERM, which is sent to it at once, must not end it first.
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                with contextlib.suppress(ValueError):  # it asks from a thread of its own
                    signal.signal(signal.SIGTERM, _ignore)
            self._is_cancelled = bool(self._ask({"is_cancelled": True}))
        return self._is_cancelled

    def end(self) -> list[Any] | None:
        """Say no more. Returns the progress that was not yet said."""
        with self._worker.lock:
            self._has_ended = True
        return self.pending


_current: ContextVar[_CurrentJob | None] = ContextVar("fastworker_job", default=None)


def current_job() -> _CurrentJob:
    """The job that this code runs in. Raises `NotInJob` where no job is running."""
    job = _current.get()
    if job is None:
        raise NotInJob
    return job


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    package = _installed()
    if package is not None:
        return getattr(package, name)
    there = ", ".join(sorted(__all__))
    raise ImportError(
        f"fastworker_lite.{name} is not there for tasks in an interpreter of their own; there are {there}"
    )


def _installed() -> Any:
    """The package itself, where it is installed here after all, for what only it has, such as clients; else None."""
    name = "fastworker_lite._installed"
    if name not in sys.modules:
        found = importlib.machinery.PathFinder.find_spec("fastworker_lite")
        if found is None or found.origin is None or found.loader is None:
            return None
        folders = [os.path.dirname(found.origin)]
        spec: Any = importlib.util.spec_from_file_location(name, found.origin, submodule_search_locations=folders)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


# ---- values: see serialization.py

_CACHE_TAG = (sys.implementation.cache_tag or sys.implementation.name).encode()
_dumps, _loads = pickle.dumps, pickle.loads  # bound now: a task may replace the module's attributes
_MOST_TOLD, _MOST_REPR = 500_000, 1_000


def _decode(data: bytes) -> Any:
    head = data[:1]
    try:
        if head == b"\x80":
            return _loads(data)
        if head == b"J":
            return json.loads(data[1:])
        if head == b"V":
            return _decode_by_value(data)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"the stored value cannot be read: {type(error).__name__}: {error}") from error
    raise SerializationError("the stored value has an unknown format")


def _decode_by_value(data: bytes) -> Any:
    tag, _, body = data[1:].partition(b"\n")
    if tag != _CACHE_TAG:
        raise SerializationError(
            f"it was pickled by value in {tag.decode(errors='replace')} and cannot be read in {_CACHE_TAG.decode()} "
            f"({sys.executable}); use one Python, or put the function into a module"
        )
    try:
        importlib.import_module("cloudpickle")
    except ImportError:
        raise SerializationError(
            f"it was pickled by value, which needs cloudpickle in {sys.executable}; "
            "install it there, or put the function into a module"
        ) from None
    return _loads(body)


def _encode(value: Any, is_json_wanted: bool) -> bytes:
    if is_json_wanted:
        with contextlib.suppress(TypeError, ValueError, RecursionError):
            text = json.dumps(value, separators=(",", ":"))
            if json.loads(text) == value:
                return b"J" + text.encode()
    try:
        data = _dumps(value, 5)
        if b"__main__" not in data:
            return data
    except Exception as error:
        why = error
    else:
        why = ValueError("it belongs to __main__, which is another module in every process")
    try:
        by_value: Any = importlib.import_module("cloudpickle").dumps
    except ImportError:
        raise SerializationError(f"{type(value).__name__} cannot be pickled: {why}") from why
    try:
        return b"V" + _CACHE_TAG + b"\n" + bytes(by_value(value, protocol=5))
    except Exception as error:
        raise SerializationError(f"{type(value).__name__} cannot be pickled: {error}") from error


def _tell(value: Any) -> str:
    """A result as listeners get it."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
        if len(text) <= _MOST_TOLD:
            return f'{{"result":{text}}}'
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        shown = repr(value)[:_MOST_REPR]
    except BaseException as error:
        shown = f"<{type(value).__name__}: its __repr__ raised {type(error).__name__}>"
    return '{"result":null,"result_repr":' + json.dumps(shown) + "}"


def _arguments(payload: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    value = _decode(payload)
    try:
        args, kwargs = (value["args"], value["kwargs"]) if payload[:1] == b"J" else value
        return tuple(args), dict(kwargs)
    except (TypeError, ValueError, KeyError) as error:
        raise SerializationError("the stored call does not hold arguments") from error


# ---- functions: see execution.py and limits.py


class _UnknownTask(Exception):
    pass


_targets: list[_Task] = []
#: Those that were found, under the numbers that the worker knows them by.
_by_value: dict[bytes, _Task] = {}


def _find(name: str, is_named: bool, reference: bytes) -> _Task:
    """The task of a job: by its name, or what *reference* leads to."""
    if is_named and name in _tasks:
        return _tasks[name]
    if not reference:
        raise _UnknownTask(name)
    if reference[:1] != b"I":
        if reference not in _by_value:
            function, before, after = _decode(reference)
            _by_value[reference] = _Task(function, before, after, None, {})
        return _by_value[reference]
    text = reference[1:].decode()
    try:
        function = _import(text)
    except ModuleNotFoundError as error:
        parts = text.partition(":")[0].split(".")
        if (error.name or "") not in {".".join(parts[: length + 1]) for length in range(len(parts))}:
            raise  # the task's module is there; something that it imports is not
        if name not in _tasks:
            raise _UnknownTask(name) from error
        return _tasks[name]
    except ImportError:
        if text in _by_reference:  # a function within a function
            return _by_reference[text]
        raise
    return _by_reference.get(_reference_or_none(function) or text) or _Task(function, None, None, None, {})


def _reference_or_none(function: Any) -> str | None:
    try:
        return _reference(function)
    except AttributeError:
        return None


def _import(text: str) -> Any:
    module, _, qualified = text.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualified.split("."):
        if not hasattr(found, part):
            raise ImportError(f'module "{module}" has no function "{qualified}"', name=module)
        found = getattr(found, part)
    if not callable(found):
        raise ImportError(f'"{text}" is not a function', name=module)
    return found


def _group(target: _Task, payload: bytes) -> str | None:
    """What the limits of one call count by; None, the task as a whole, where that cannot be made of its arguments."""
    if target.key is None or (isinstance(target.key, str) and "{" not in target.key):
        return None if target.key is None else str(target.key)
    try:
        args, kwargs = _arguments(payload)
        if callable(target.key):
            made = target.key(*args, **kwargs)
        else:
            bound = inspect.signature(target.function).bind(*args, **kwargs)
            bound.apply_defaults()
            made = str(target.key).format_map(bound.arguments)
        return str(made)[:500].encode(errors="backslashreplace").decode().replace("\0", "\\0")
    except Exception:
        return None


def _call(target: _Task, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if target.before is not None:
        _ended(target.before(*args, **kwargs))
    value = _ended(target.function(*args, **kwargs))
    if target.after is not None:
        _ended(target.after(value))
    return value


def _ended(value: Any) -> Any:
    """The value; that of a coroutine once it has ended."""
    if not inspect.iscoroutine(value):
        return value
    import asyncio

    return asyncio.run(value)


# ---- failures

#: Characters of an exception's text and of its traceback that are told.
_MOST_TEXT = 200_000


def _describe(error: BaseException, frames: int = 1) -> dict[str, Any]:
    """An exception as the worker can read it, without the first *frames* of its traceback, which are of this file."""
    try:
        text = str(error)
    except BaseException as broken:
        text = f"<unprintable {type(error).__name__}: its __str__ raised {type(broken).__name__}>"
    begin = error.__traceback__
    for _ in range(frames):
        begin = begin.tb_next if begin is not None else None
    try:
        trace: str | None = _cut("".join(traceback.format_exception(type(error), error, begin)))
    except BaseException:
        trace = None
    return {
        "type": type(error).__name__,
        "text": _cut(text),
        "traceback": trace,
        "names": [_exception_name(kind) for kind in type(error).__mro__ if issubclass(kind, BaseException)],
        "is_final": isinstance(error, SerializationError),
        "is_cancel": isinstance(error, Cancel),
        "retry_after": error.after if isinstance(error, Retry) else None,
    }


def _exception_name(kind: type[BaseException]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT // 2]}\n...\n{text[-(_MOST_TEXT // 2) :]}"


# ---- the worker at the other end

_HEAD = struct.Struct("!II")


class _Worker:
    """The socket to it."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._reader = self._socket.makefile("rb")
        self.lock = threading.Lock()
        os.register_at_fork(after_in_child=self._close)

    def _close(self) -> None:
        self._socket.close()
        self._reader.close()

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """What it says next; ends this process when it is gone."""
        head = self._reader.read(_HEAD.size)
        if len(head) < _HEAD.size:
            os._exit(0)
        text, body = _HEAD.unpack(head)
        return json.loads(self._reader.read(text)), self._reader.read(body)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        text = json.dumps(header).encode()
        self._socket.sendall(_HEAD.pack(len(text), len(body)) + text + body)

    def ask(self, header: dict[str, Any]) -> Any:
        """Say something in the middle of a job, and get the answer. For who holds the lock."""
        self.send(header)
        return self.receive()[0]["answer"]


class _Jobs:
    """Answers a worker's requests, one after the other."""

    def __init__(self, worker: _Worker, setup: dict[str, Any]) -> None:
        self._worker = worker
        self._setup = setup
        self._pid = os.getpid()
        self._surroundings = _Surroundings(setup["output"])

    def answer(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if request["do"] == "call":
            return self._run(request, body)
        if request["do"] == "group":
            return {"group": _group(_targets[request["target"]], body)}, b""
        return self._find(request, body), b""

    def _find(self, request: dict[str, Any], reference: bytes) -> dict[str, Any]:
        if request["is_first"]:  # of many: the worker has forgotten all others
            _targets.clear()
            _by_value.clear()
        try:
            target = _find(request["task"], request["is_named"], reference)
        except _UnknownTask:
            return {"is_unknown": True}
        except BaseException as error:
            return {"failure": _describe(error)}
        _targets.append(target)
        return {"target": len(_targets) - 1, "declared": target.declared}

    def _run(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        job = _CurrentJob(request, self._worker)
        self._surroundings.prepare()
        _current.set(job)
        set_handler(_TERM, _DEFAULT)
        try:
            header, result = self._run_target(_targets[request["target"]], request, body)
        finally:
            if os.getpid() != self._pid:
                os._exit(0)  # the task forked and its child came back here
        _current.set(None)
        self._surroundings.restore()
        return dict(header, progress=job.end()), result

    def _run_target(self, target: _Task, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            payload, values = _unpack(request["sizes"], body)
            args, kwargs = _arguments(payload)
            if request["inputs"]:
                args = (values if request["inputs"] == "list" else values[0], *args)
            value = _call(target, args, kwargs)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: the interpreter lives on
            return {"failure": _describe(error, frames=2)}, b""
        try:
            result = _encode(value, payload[:1] == b"J")
        except BaseException as error:
            return {"unstorable": _cut(str(error))}, b""
        if len(result) > self._setup["max_result"]:
            return {"too_large": len(result)}, b""
        return {"told": _tell(value)}, result


def _unpack(sizes: list[int], body: bytes) -> tuple[bytes, list[Any]]:
    """The payload of a call, and the results of other jobs that are its first arguments."""
    parts, begin = [], 0
    for size in sizes:
        parts.append(body[begin : begin + size])
        begin += size
    return parts[0], [_decode(part) for part in parts[1:]]


# ---- what a job may change, and the next one must find as it was: see surroundings.py and output.py

_TERM, _DEFAULT = int(signal.SIGTERM), int(signal.SIG_DFL)
_SIGNALS = [
    int(getattr(signal, name))
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGPIPE")
]


class _Surroundings:
    """Folder, umask, environment, signals, stdout and stderr."""

    def __init__(self, output: list[str]) -> None:
        self._output = output
        self._folder = os.getcwd()
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._raw_environment = _raw_environment().copy()
        self._environment = dict(os.environ)
        self._handlers = [getsignal(number) for number in _SIGNALS]
        self._streams = [_text(1), _text(2)]
        sys.stdout, sys.stderr = self._streams

    def prepare(self) -> None:
        """Write to the files that the worker has put in the place of those that it has given to jobs."""
        for index, path in enumerate(self._output):
            try:
                is_there = os.path.samestat(os.fstat(index + 1), os.stat(path))
            except OSError:
                is_there = False
            if not is_there:
                self._redirect(index, path)

    def _redirect(self, index: int, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        if descriptor != index + 1:
            os.dup2(descriptor, index + 1)
            os.close(descriptor)
        else:
            os.set_inheritable(descriptor, True)

    def restore(self) -> None:
        for index, stream in enumerate(self._streams):
            try:
                stream.flush()
            except (OSError, ValueError):  # the task closed it
                self._streams[index] = _text(index + 1)
        sys.stdout, sys.stderr = self._streams
        try:
            is_there = os.getcwd() == self._folder
        except OSError:  # the job removed it
            is_there = False
        if not is_there:
            with contextlib.suppress(OSError):
                os.chdir(self._folder)
        os.umask(self._umask)
        if _raw_environment() != self._raw_environment:  # decoding every variable after every job would take longer
            os.environ.clear()
            os.environ.update(self._environment)
        pthread_sigmask(signal.SIG_SETMASK, ())
        for number, handler in zip(_SIGNALS, self._handlers):  # noqa: B905
            if getsignal(number) is not handler:
                set_handler(number, handler)


def _raw_environment() -> dict[bytes, bytes]:
    raw: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
    return raw


def _text(descriptor: int) -> Any:
    """Lines are written at once, so that they can be followed."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


# ---- life


def _serve(descriptor: int) -> None:
    """Do what the worker at the other end of this socket says, until it is gone."""
    worker = _Worker(descriptor)
    setup, _ = worker.receive()
    _die_with(setup["parent"])
    for number in (signal.SIGINT, signal.SIGTERM):  # TERM is for jobs; between them it would only be in the way
        signal.signal(number, _ignore)
    _be_the_package()
    sys.path[:1] = [*setup["path"], *([] if sys.path[:1] == [""] else sys.path[:1])]
    sys.argv = ["fwl"]
    trouble = _import_all(setup["modules"])
    if trouble is not None:
        worker.send({"trouble": trouble, "sys_path": sys.path})
        os._exit(2)
    worker.send({"tasks": _known_tasks()})
    jobs = _Jobs(worker, setup)
    if setup["output"]:
        import faulthandler
        import logging

        faulthandler.enable()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    while True:
        header, body = jobs.answer(*worker.receive())
        worker.send(header, body)


def _known_tasks() -> list[dict[str, Any]]:
    return [
        {"name": name, "reference": _reference(task.function), "declared": task.declared}
        for name, task in _tasks.items()
    ]


def _import_all(modules: list[str]) -> str | None:
    """Import them; what is in the way, or None."""
    if sys.version_info < (3, 9):  # noqa: UP036
        return f"{sys.executable} is Python {sys.version.split()[0]}; tasks need 3.9 or later"
    for module in modules:
        try:
            importlib.import_module(module)
        except SystemExit as error:
            return f"cannot import {module}: it calls exit({error.code})"
        except Exception as error:
            return f"cannot import {module}: {type(error).__name__}: {error}"
    return None


def _be_the_package() -> None:
    """Be found under the names that functions of the package have when they are pickled."""
    here: Any = sys.modules["fastworker_lite"]
    here.__all__, here.__file__ = __all__, None
    for name in ("current", "errors", "tasks", "tasks.models", "tasks.registry"):
        sys.modules[f"fastworker_lite.{name}"] = here
    here.tasks = here.current = here.errors = here.models = here.registry = here
    here.__path__ = []


def _ignore(*_: object) -> None:
    """A handler, where SIG_IGN would be inherited by what tasks start."""


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the worker ends; where it does not, look."""
    try:
        import ctypes

        is_bound = sys.platform == "linux" and ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):
        is_bound = False
    if os.getppid() != parent:
        os._exit(0)
    if not is_bound:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
