"""What each setting may be: a rule returns the value, or raises with the end of "<setting> …".

Runs in: every process.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from .durations import MOST_SECONDS, parse_duration, shown
from .errors import ConfigError
from .options import QUEUE_RULES, JobOptions, parse_queue
from .settings import Callbacks, Config, CronSetting, Hooks, Keep, ListenerSetting, QueueSetting


def _whole(least: int, most: int, more: str = "") -> Callable[[object], int]:
    def rule(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ConfigError(f"must be a whole number, got {shown(value)}")
        if value < least:
            raise ConfigError(f"must be at least {least}{more}, got {shown(value)}")
        if value > most:
            raise ConfigError(f"must be at most {most}, got {shown(value)}")
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
        raise ConfigError(f'must be seconds or a duration such as "30s" or "1h30m", got {shown(value)}')
    if not 0 <= value <= MOST_SECONDS:
        raise ConfigError(f"must be from 0 to {MOST_SECONDS:.0f} seconds, got {shown(value)}")
    return float(value)


def _is_finite(value: int | float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # an integer may be too large to become a float


def _list(value: object, of: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"must be a list of {of}, got {shown(value)}")
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


_MODULE = r"[\w-]+(\.[\w-]+)*"


def _tasks(value: object) -> tuple[str, ...]:
    modules = tuple(_list(value, "module names"))
    for module in modules:
        if not isinstance(module, str) or not re.fullmatch(_MODULE, module) or module.endswith(".py"):
            raise ConfigError(f'must be a list of modules such as "app.tasks", got {shown(module)}')
    return modules


def _python(value: object) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ConfigError(f'must be the path of a Python, such as ".venv/bin/python", got {shown(value)}')
    return value


def _durability(value: object) -> str:
    if value not in ("full", "normal"):
        raise ConfigError(f'must be "full" or "normal", got {shown(value)}')
    return str(value)


def _autostart(value: object) -> str:
    if value not in ("tty", "never", "always"):
        raise ConfigError(f'must be "tty", "never" or "always", got {shown(value)}')
    return str(value)


def _db(value: object) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ConfigError(f"must be the path of a file, got {shown(value)}")
    if value == ":memory:" or value.startswith("file:"):
        raise ConfigError(f"must be the path of a file that several processes can open, got {shown(value)}")
    return value


def _job(value: object) -> JobOptions:
    if isinstance(value, JobOptions):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be a table of job options, got {shown(value)}")
    try:
        return JobOptions.parse_for_tasks({key: read_option(key, one) for key, one in value.items()})
    except ConfigError as error:
        raise ConfigError(f"holds what cannot be: {error}") from None


def _argv(value: object) -> tuple[str, ...]:
    words = tuple(_list(value, "words"))
    if any(not isinstance(word, str) or not word or "\0" in word for word in words):
        raise ConfigError(f'must be a command as a list of words, such as ["notify-send", "done"], got {shown(value)}')
    return words


def _url(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[!-~]+|", value):
        raise ConfigError(f"must be an http or https URL, got {shown(value)}")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, got {shown(value)}")
    return value


def _table(kind: type[Any], rules: dict[str, Callable[[object], Any]]) -> Callable[[object], Any]:
    """A rule for a table whose settings have rules of their own, read into *kind*."""

    def rule(value: object) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, dict):
            raise ConfigError(f"must be a table with {', '.join(rules)}, got {shown(value)}")
        read = {}
        for key, one in value.items():
            if key not in rules:
                close = difflib.get_close_matches(key, rules, n=1)
                hint = f'did you mean "{close[0]}"?' if close else f"it may have {', '.join(rules)}"
                raise ConfigError(f"has no setting {shown(key)}; {hint}")
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
        raise ConfigError(f"must be tables such as [queue.io], got {shown(value)}")
    return tuple(_queue_setting(name, table) for name, table in value.items())


def _queue_setting(name: str, table: object) -> QueueSetting:
    if not isinstance(table, dict):
        raise ConfigError(f"holds {name}, which must be a table with {', '.join(QUEUE_RULES)}, got {shown(table)}")
    if unknown := table.keys() - QUEUE_RULES.keys():
        raise ConfigError(
            f"holds {name}, which has no setting {shown(min(unknown))}; it may have {', '.join(QUEUE_RULES)}"
        )
    try:
        return QueueSetting(parse_queue(name), tuple((key, QUEUE_RULES[key](key, one)) for key, one in table.items()))
    except ConfigError as error:
        raise ConfigError(f"holds {name}, whose {error}") from None


def _listeners(value: object) -> tuple[ListenerSetting, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be tables such as [listener.app], got {shown(value)}")
    return tuple(_listener(name, table) for name, table in value.items())


def _listener(name: str, table: object) -> ListenerSetting:
    if not isinstance(table, dict) or not isinstance(table.get("address"), str):
        raise ConfigError(f'holds {name}, which must be a table with an address, such as "unix:///run/app.sock"')
    if unknown := set(table) - {"address", "task", "queue", "on"}:
        raise ConfigError(
            f"holds {name}, which has no setting {shown(unknown.pop())}; it may have address, task, queue, on"
        )
    ends = table.get("on", ["success", "failure", "cancelled"])
    if not isinstance(ends, list) or not ends or not set(map(str, ends)) <= {"success", "failure", "cancelled"}:
        raise ConfigError(f"holds {name}, whose on must be a list of success, failure, cancelled, got {shown(ends)}")
    task, queue = table.get("task", "*"), table.get("queue")
    if not isinstance(task, str) or not task:
        raise ConfigError(f"holds {name}, whose task must be a pattern such as resize*, got {shown(task)}")
    return ListenerSetting(name, table["address"], task, None if queue is None else parse_queue(queue), tuple(ends))


def _cron(value: object) -> tuple[CronSetting, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise ConfigError(f"must be tables such as [cron.nightly-backup], got {shown(value)}")
    for name, table in value.items():
        if not isinstance(table, dict):
            raise ConfigError(f"holds {name}, which must be a table such as [cron.nightly-backup], got {shown(table)}")
    return tuple(CronSetting(name, table) for name, table in value.items())


_SPANS = {"timeout", "kill_grace", "retry_delay", "retry_max_delay", "expires"}


def read_option(key: str, value: object) -> object:
    """An option of a job as a file has it: durations may be text there."""
    return parse_duration(value) if key in _SPANS and isinstance(value, str) else value


_SIZE = _whole(1, 128 * 1024 * 1024)  # half of what a row may take
RULES: dict[str, Callable[[object], Any]] = {
    "db": _db,
    "workers": _whole(0, 1000, " (0 is one for each core)"),
    "queues": _queues,
    "tasks": _tasks,
    "python": _python,
    "durability": _durability,
    "stop_timeout": _seconds,
    "kill_grace": _seconds,
    "max_payload": _SIZE,
    "max_result": _SIZE,
    "max_coroutines": _whole(1, 1_000_000),
    "max_log": _whole(4096, 2**40),
    "max_jobs_per_worker": _whole(0, 2**40, " (0 is never)"),
    "max_memory_per_worker": _whole(0, 2**50, " (0 is no limit)"),
    "autostart": _autostart,
    "idle_exit": _seconds,
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
assert set(RULES) | {"path"} == set(Config._fields)


def parse_setting(where: str, key: str, value: object) -> Any:
    if key not in RULES:
        close = difflib.get_close_matches(key, RULES, n=1)
        hint = f'did you mean "{close[0]}"?' if close else f"the settings are {', '.join(RULES)}"
        raise ConfigError(f"{where}there is no setting {shown(key)}; {hint}")
    try:
        return RULES[key](value)
    except ConfigError as error:
        raise ConfigError(f"{where}{key} {error}") from None
