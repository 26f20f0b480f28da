"""The settings: where each default lives, and how a file, the environment and arguments change it.

`load` reads fastworker.toml, or [tool.fastworker] of a pyproject.toml; `with_overrides` lays arguments over it;
`database_path` says which file is meant. fastworker.toml.example shows every setting.

Runs in: every process.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any, NamedTuple

from .errors import ConfigError
from .options import NO_OPTIONS, JobOptions, parse_count, parse_queue, parse_rate

FILE_NAME = "fastworker.toml"
_PYPROJECT = "pyproject.toml"
_VCS = (".git", ".hg", ".svn", ".jj")
#: A larger file is no configuration; a device or a pipe would never end.
_MOST_BYTES = 1024 * 1024
_MOST_SECONDS = 1e10


@dataclass(frozen=True, slots=True, kw_only=True)
class Callbacks:
    """How long events wait for a listener that does not answer."""

    max_age: float = 604_800.0
    #: Seconds after which one is tried no more.
    max_events: int = 100_000
    #: For one address; the oldest of more are tried no more.


class CronSetting(NamedTuple):
    """A table [cron.NAME], as it was written; declarations.py reads it."""

    name: str
    table: dict[str, Any]


class ListenerSetting(NamedTuple):
    """A listener that is registered by whoever runs jobs."""

    name: str
    address: str
    task: str
    queue: str | None
    on: tuple[str, ...]


class QueueSetting(NamedTuple):
    """Limits of a queue that whoever runs jobs sets when it starts."""

    name: str
    limits: tuple[tuple[str, int | str], ...]
    #: Of `workers`, `max_length` and `rate`, those that were given.


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """How long jobs that have ended are kept, with their results and logs."""

    succeeded: float = 604_800.0
    failed: float = 2_592_000.0
    cancelled: float = 2_592_000.0
    expired: float = 2_592_000.0
    #: Seconds, all four.
    results: float | None = None
    #: Seconds after which a result is dropped although the job is kept; None for as long as the job.
    jobs: int = 1_000_000
    #: Ended jobs that are kept at most; the oldest of more go.


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What is run when jobs end. Commands are argument lists; they get the job in their environment and as JSON on stdin."""

    on_success: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    on_recovered: tuple[str, ...] = ()
    #: After the first success of a task that had failed.
    ping: str = ""
    #: A URL; `/0` or `/1` is added to it and it is posted to, as healthchecks.io has it.
    desktop: bool = False
    #: Whether a failure shows a notice on the desktop.
    timeout: float = 30.0
    #: Seconds that each of them may take.

    @property
    def is_wanted(self) -> bool:
        return bool(self.on_success or self.on_failure or self.on_recovered or self.ping or self.desktop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting, with its default."""

    db: str | None = None
    #: The database, relative to the file this was read from. `database_path` says what None means.
    workers: int = 0
    #: Worker processes; 0 is one for each core. See `worker_count`.
    queues: tuple[str, ...] | None = None
    #: The queues the workers serve, None for all.
    tasks: tuple[str, ...] = ()
    #: Modules the workers import, so that they know the tasks declared there.
    durability: str | None = None
    #: "full" or "normal", None for what the file says; a new one says "full".
    stop_timeout: float = 30.0
    #: Seconds that running jobs may go on once a runner was asked to stop.
    kill_grace: float = 5.0
    #: Seconds between asking a process to end and killing it.
    max_payload: int = 1_048_576
    #: Bytes the arguments of one call may take.
    max_result: int = 16_777_216
    #: Bytes the result of one job may take.
    max_coroutines: int = 1000
    #: Async jobs that one worker process runs at a time.
    max_log: int = 10_485_760
    #: Bytes kept of what one attempt prints to stdout, and as many of stderr: the first MiB, and the last ones.
    max_jobs_per_worker: int = 0
    #: Jobs after which a worker process is replaced; 0 for never.
    max_memory_per_worker: int = 0
    #: Bytes above which a worker process is replaced once its job has ended; 0 for no limit.
    callbacks: Callbacks = Callbacks()
    #: How long what is to be told waits for who is to be told.
    listener: tuple[ListenerSetting, ...] = ()
    #: Who is told of ended jobs, beside those that register themselves.
    queue: tuple[QueueSetting, ...] = ()
    #: Limits of single queues.
    keep: Keep = Keep()
    #: How long jobs that have ended are kept.
    hooks: Hooks = Hooks()
    #: What is run when jobs end.
    cron: tuple[CronSetting, ...] = ()
    #: What makes jobs by the clock.
    job: JobOptions = NO_OPTIONS
    #: The options of jobs where neither they nor their tasks say anything.
    timeout: float = 30.0
    #: Seconds that `submit_task` waits for a result.
    path: str | None = None
    #: The file this was read from, None for none. Not a setting.

    @property
    def worker_count(self) -> int:
        """How many worker processes to run, the cores counted now."""
        return self.workers or os.cpu_count() or 1


def load(config_path: str | os.PathLike[str] | None = None, start: str | os.PathLike[str] | None = None) -> Config:
    """The settings of the file that applies, or the defaults when there is none.

    The file is *config_path*, else $FWL_CONFIG, else the nearest fastworker.toml from *start* (the current folder)
    upwards, else the nearest pyproject.toml with a table [tool.fastworker]. The search ends at the root of a checkout,
    at $HOME, or at /.
    Raises `ConfigError` naming the file, the line where it is known, the setting and the rule it breaks.
    """
    if config_path is not None:
        return _read_named(_path("the configuration's path", config_path))
    if os.environ.get("FWL_CONFIG"):
        return _read_named(_path("FWL_CONFIG", os.environ["FWL_CONFIG"]))
    folders = list(_folders(start))
    for folder in folders:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return _read_named(path)
    for folder in folders:
        path = os.path.join(folder, _PYPROJECT)
        if os.path.isfile(path) and (config := _read_pyproject(path)) is not None:
            return config
    return Config()


def with_overrides(config: Config, **given: object) -> Config:
    """*config* with the settings in *given*, checked as those of a file are; None leaves one as it is.

    A relative *db* is taken from the current folder, not from the file's. Raises `ConfigError`.
    """
    changes = {key: _parsed("", key, value) for key, value in given.items() if value is not None or key not in _RULES}
    if "db" in changes:
        changes["db"] = _absolute(changes["db"], os.curdir)
    return replace(config, **changes)


def database_path(flag: str | None, config: Config) -> str:
    """The absolute path of the database: *flag*, else $FWL_DB, else the configuration's, else one for this user.

    A folder that has to exist for a default is created, for this user alone. Raises `ConfigError`.
    """
    if flag is not None:
        return _absolute(_path("--db", flag), os.curdir)
    if os.environ.get("FWL_DB"):
        return _absolute(_path("FWL_DB", os.environ["FWL_DB"]), os.curdir)
    beside = os.path.dirname(os.path.abspath(config.path)) if config.path is not None else os.curdir
    if config.db is not None:
        return _absolute(config.db, beside)
    folder = os.path.join(beside, ".fastworker") if config.path is not None else _state_folder()
    _make_private_folders(folder)
    return os.path.join(folder, "fwl.db")


# ---- durations

_UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"\s*".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _UNITS))
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def parse_duration(text: str) -> float:
    """The seconds that "30s", "5m", "1h30m" or "2d" stand for; the units are w, d, h, m, s and ms, largest first.

    Raises `ConfigError`, for a number without a unit too: nobody can tell what 30 was meant to be.
    """
    found = _DURATION.fullmatch(text.strip())
    if _NUMBER.fullmatch(text.strip()):
        raise ConfigError(f"{_shown(text)} needs a unit, as in 30s, 5m, 1h30m or 2d")
    if found is None or not any(found.groups()):
        raise ConfigError(f"{_shown(text)} is not a duration; write it as 30s, 5m, 1h30m or 2d")
    seconds = sum(float(number or 0) * unit for number, unit in zip(found.groups(), _UNITS.values(), strict=True))
    if seconds > _MOST_SECONDS:
        raise ConfigError(f"{_shown(text)} is longer than {_MOST_SECONDS:.0f} seconds")
    return seconds


# ---- what each setting may be: a rule returns the value, or raises with the end of "<setting> …"


def _whole(least: int, most: int, more: str = "") -> Callable[[object], int]:
    def rule(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"must be a whole number, got {_shown(value)}")
        if value < least:
            raise ConfigError(f"must be at least {least}{more}, got {_shown(value)}")
        if value > most:
            raise ConfigError(f"must be at most {most}, got {_shown(value)}")
        return value

    return rule


def _seconds(value: object) -> float:
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ConfigError as error:
            raise ConfigError(f"must be a duration: {error}") from None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _is_finite(value):
        raise ConfigError(f'must be seconds or a duration such as "30s" or "1h30m", got {_shown(value)}')
    if not 0 <= value <= _MOST_SECONDS:
        raise ConfigError(f"must be from 0 to {_MOST_SECONDS:.0f} seconds, got {_shown(value)}")
    return float(value)


def _is_finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an integer may be too large to become a float


def _list(value: object, of: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"must be a list of {of}, got {_shown(value)}")
    if len(value) > 10_000:
        raise ConfigError(f"must be a list of at most 10000 {of}, got {len(value)}")
    return value


def _queues(value: object) -> tuple[str, ...]:
    try:
        names = tuple(parse_queue(name) for name in _list(value, "queue names"))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(f"holds a name that cannot be: {text}" if text.startswith("queue ") else text) from None
    if not names:
        raise ConfigError("must name at least one queue, got []; leave it out to serve them all")
    return names


_MODULE = re.compile(r"[\w-]+(\.[\w-]+)*")


def _tasks(value: object) -> tuple[str, ...]:
    modules = tuple(_list(value, "module names"))
    for module in modules:
        if not isinstance(module, str) or not _MODULE.fullmatch(module) or module.endswith(".py"):
            raise ConfigError(f'must be a list of modules such as "app.tasks", got {_shown(module)}')
    return modules


def _durability(value: object) -> str:
    if value not in ("full", "normal"):
        raise ConfigError(f'must be "full" or "normal", got {_shown(value)}')
    return str(value)


def _db(value: object) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ConfigError(f"must be the path of a file, got {_shown(value)}")
    if value == ":memory:" or value.startswith("file:"):
        raise ConfigError(f"must be the path of a file that several processes can open, got {_shown(value)}")
    return value


def _job(value: object) -> JobOptions:
    if isinstance(value, JobOptions):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be a table of job options, got {_shown(value)}")
    try:
        return JobOptions.parse_for_tasks({key: read_option(key, one) for key, one in value.items()})
    except ConfigError as error:
        raise ConfigError(f"holds what cannot be: {error}") from None


def _argv(value: object) -> tuple[str, ...]:
    words = tuple(_list(value, "words"))
    if any(not isinstance(word, str) or not word or "\0" in word for word in words):
        raise ConfigError(f'must be a command as a list of words, such as ["notify-send", "done"], got {_shown(value)}')
    return words


def _url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]+|", value):
        raise ConfigError(f"must be an http or https URL, got {_shown(value)}")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, got {_shown(value)}")
    return value


def _table(kind: type[Any], rules: dict[str, Callable[[object], Any]]) -> Callable[[object], Any]:
    """A rule for a table whose settings have rules of their own, read into *kind*."""

    def rule(value: object) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"must be a table with {', '.join(rules)}, got {_shown(value)}")
        read = {}
        for key, one in value.items():
            if key not in rules:
                close = difflib.get_close_matches(key, rules, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"it may have {', '.join(rules)}"
                raise ConfigError(f"has no setting {_shown(key)}; {hint}")
            try:
                read[key] = rules[key](one)
            except ConfigError as error:
                raise ConfigError(f"holds {key}, which {error}") from None
        return kind(**read)

    return rule


def _queue_settings(value: object) -> tuple[QueueSetting, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be tables such as [queue.io], got {_shown(value)}")
    return tuple(_queue_setting(name, table) for name, table in value.items())


_QUEUE_RULES: dict[str, Callable[[str, object], Any]] = {
    "workers": parse_count,
    "max_length": parse_count,
    "rate": parse_rate,
}


def _queue_setting(name: str, table: object) -> QueueSetting:
    if not isinstance(table, dict):
        raise ConfigError(f"holds {name}, which must be a table with {', '.join(_QUEUE_RULES)}, got {_shown(table)}")
    if unknown := table.keys() - _QUEUE_RULES.keys():
        raise ConfigError(
            f"holds {name}, which has no setting {_shown(min(unknown))}; it may have {', '.join(_QUEUE_RULES)}"
        )
    try:
        return QueueSetting(parse_queue(name), tuple((key, _QUEUE_RULES[key](key, one)) for key, one in table.items()))
    except ConfigError as error:
        raise ConfigError(f"holds {name}, whose {error}") from None


def _listeners(value: object) -> tuple[ListenerSetting, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be tables such as [listener.app], got {_shown(value)}")
    return tuple(_listener(name, table) for name, table in value.items())


def _listener(name: str, table: object) -> ListenerSetting:
    if not isinstance(table, dict) or not isinstance(table.get("address"), str):
        raise ConfigError(f'holds {name}, which must be a table with an address, such as "unix:///run/app.sock"')
    if unknown := set(table) - {"address", "task", "queue", "on"}:
        raise ConfigError(
            f"holds {name}, which has no setting {_shown(unknown.pop())}; it may have address, task, queue, on"
        )
    ends = table.get("on", ["success", "failure", "cancelled"])
    if not isinstance(ends, list) or not ends or not set(map(str, ends)) <= {"success", "failure", "cancelled"}:
        raise ConfigError(f"holds {name}, whose on must be a list of success, failure, cancelled, got {_shown(ends)}")
    task, queue = table.get("task", "*"), table.get("queue")
    if not isinstance(task, str) or not task:
        raise ConfigError(f"holds {name}, whose task must be a pattern such as resize*, got {_shown(task)}")
    return ListenerSetting(name, table["address"], task, None if queue is None else parse_queue(queue), tuple(ends))


def _cron(value: object) -> tuple[CronSetting, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be tables such as [cron.nightly-backup], got {_shown(value)}")
    for name, table in value.items():
        if not isinstance(table, dict):
            raise ConfigError(f"holds {name}, which must be a table such as [cron.nightly-backup], got {_shown(table)}")
    return tuple(CronSetting(name, table) for name, table in value.items())


_SPANS = {"timeout", "kill_grace", "retry_delay", "retry_max_delay", "expires"}


def read_option(key: str, value: object) -> object:
    """An option of a job as a file has it: durations may be text there."""
    return parse_duration(value) if key in _SPANS and isinstance(value, str) else value


_SIZE = _whole(1, 128 * 1024 * 1024)  # half of what a row may take
_RULES: dict[str, Callable[[object], Any]] = {
    "db": _db,
    "workers": _whole(0, 1000, " (0 is one for each core)"),
    "queues": _queues,
    "tasks": _tasks,
    "durability": _durability,
    "stop_timeout": _seconds,
    "kill_grace": _seconds,
    "max_payload": _SIZE,
    "max_result": _SIZE,
    "max_coroutines": _whole(1, 1_000_000),
    "max_log": _whole(4096, 2**40),
    "max_jobs_per_worker": _whole(0, 2**40, " (0 is never)"),
    "max_memory_per_worker": _whole(0, 2**50, " (0 is no limit)"),
    "callbacks": _table(Callbacks, {"max_age": _seconds, "max_events": _whole(1, 10**9)}),
    "listener": _listeners,
    "queue": _queue_settings,
    "keep": _table(
        Keep,
        {
            "succeeded": _seconds,
            "failed": _seconds,
            "cancelled": _seconds,
            "expired": _seconds,
            "results": _seconds,
            "jobs": _whole(1, 10**12),
        },
    ),
    "hooks": _table(
        Hooks,
        {
            "on_success": _argv,
            "on_failure": _argv,
            "on_recovered": _argv,
            "ping": _url,
            "desktop": _bool,
            "timeout": _seconds,
        },
    ),
    "cron": _cron,
    "job": _job,
    "timeout": _seconds,
}
assert set(_RULES) | {"path"} == {field.name for field in fields(Config)}


def _parsed(where: str, key: str, value: object) -> Any:
    if key not in _RULES:
        close = difflib.get_close_matches(key, _RULES, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"the settings are {', '.join(_RULES)}"
        raise ConfigError(f"{where}there is no setting {_shown(key)}; {hint}")
    try:
        return _RULES[key](value)
    except ConfigError as error:
        raise ConfigError(f"{where}{key} {error}") from None


def _shown(value: object) -> str:
    """A value as it may stand in a message, however large it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = f'"{value}"' if isinstance(value, str) and value.isprintable() and '"' not in value else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


# ---- files


class _Source(NamedTuple):
    """A file's text, and the table of it that is ours."""

    path: str
    text: str
    table: dict[str, Any]
    is_pyproject: bool


def _folders(start: str | os.PathLike[str] | None) -> Iterator[str]:
    try:
        folder = os.path.abspath(os.curdir if start is None else start)
    except FileNotFoundError:  # the current folder was removed
        return
    home = os.path.abspath(os.path.expanduser("~"))
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if folder in (home, parent) or any(os.path.lexists(os.path.join(folder, name)) for name in _VCS):
            return
        folder = parent


def _read_named(path: str) -> Config:
    path = os.path.abspath(path)
    if os.path.basename(path) != _PYPROJECT:
        text = _read(path)
        return _config(_Source(path, text, _toml(path, text), False))
    config = _read_pyproject(path)
    if config is None:
        raise ConfigError(f"{_name(path)} has no table [tool.fastworker]; add it or name another file")
    return config


def _read_pyproject(path: str) -> Config | None:
    text = _read(path)
    if "fastworker" not in text:  # most do not, and parsing takes longer than looking
        return None
    tool = _toml(path, text).get("tool")
    table = tool.get("fastworker") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(f"{_name(path)}: tool.fastworker must be a table, got {_shown(table)}")
    return _config(_Source(path, text, table, True))


def _config(source: _Source) -> Config:
    settings = {key: _parsed(_where(source, key), key, value) for key, value in source.table.items()}
    return Config(**settings, path=source.path)


def _read(path: str) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{_name(path)} is not a regular file; name the file with the settings")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{_name(path)} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{_name(path)} is larger than {_MOST_BYTES} bytes, which no configuration needs")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{_name(path)}:{line}: the file must be UTF-8, got byte 0x{data[error.start]:02x}") from None


def _toml(path: str, text: str) -> dict[str, Any]:
    import tomllib  # 6 ms that a process without a file need not spend

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of more digits than Python reads
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = (place[1] or text.count("\n") + 1) if place else None
        what = str(error)[: place.start()] if place else str(error)
        raise ConfigError(f"{_name(path)}{f':{line}' if line else ''}: not TOML: {what}") from None


def _where(source: _Source, key: str) -> str:
    """`fastworker.toml:7: `, without the line when the key is written in an unusual way."""
    is_ours = not source.is_pyproject
    named = re.compile(rf"""\s*(?:\[\s*)?(?:tool\s*\.\s*fastworker\s*\.\s*)?["']?{re.escape(key)}["']?\s*[].=]""")
    for number, line in enumerate(source.text.splitlines(), 1):
        if is_ours and named.match(line):
            return f"{_name(source.path)}:{number}: "
        if source.is_pyproject and re.match(r"\s*\[", line):
            is_ours = re.match(r"\s*\[\s*tool\s*\.\s*fastworker\s*[].]", line) is not None
            if is_ours and named.match(line):
                return f"{_name(source.path)}:{number}: "
    return f"{_name(source.path)}: "


def _name(path: str) -> str:
    """A path as a person in the current folder would write it."""
    try:
        near = os.path.relpath(path)
    except OSError:
        return path
    return path if near.startswith(os.pardir) else near


# ---- paths


def _path(what: str, value: str | os.PathLike[str]) -> str:
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{what} must be the path of a file, got {_shown(text)}")
    if text == ":memory:" or text.startswith("file:"):
        raise ConfigError(f"{what} must be the path of a file that several processes can open, got {_shown(text)}")
    return text


def _absolute(path: str, folder: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def _state_folder() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification has relative ones ignored
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "fastworker")


def _make_private_folders(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise ConfigError(f"{path} is in the way of a folder; name the database with --db or FWL_DB") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name the database with --db or FWL_DB") from error
        else:
            _sync(os.path.dirname(path))


def _sync(folder: str) -> None:
    """Make the names in *folder* survive a power cut, and with them the database that will lie below."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
