"""The options of a job: what there is, what each may be, and what the finer ones mean.

Runs in: every process.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from .errors import ConfigError

PRIORITIES: dict[str, int] = {"low": -10, "normal": 0, "high": 10, "critical": 20}

#: The largest priority either way; SQLite's integers end at 64 bits, a person's need of them well before.
MAX_PRIORITY = 1_000_000_000


def parse_priority(value: object) -> int:
    """The number of a priority: an integer as it is, a name by `PRIORITIES`. Raises `ConfigError` otherwise."""
    if isinstance(value, str) and str(value) in PRIORITIES:  # also a TaskPriority, which is equal but has another hash
        return PRIORITIES[str(value)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_PRIORITY:
        return value
    raise ConfigError(
        f"priority must be low, normal, high, critical or an integer up to ±{MAX_PRIORITY}, got {value!r}"
    )


def parse_priority_name(value: object) -> int:
    """As `parse_priority`, names only: what FastWorker's calls accept."""
    if isinstance(value, str) and str(value) in PRIORITIES:
        return parse_priority(value)
    raise ConfigError(f"priority must be low, normal, high or critical, got {value!r}")


def parse_seconds(name: str, value: object) -> float:
    """A duration given in seconds or as a `timedelta`. Raises `ConfigError` for anything else, and below zero."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be seconds (a number, 0 or more) or a timedelta, got {value!r}")
    if value > 1e10:
        raise ConfigError(f"{name} must be under 10000000000 seconds, got {value!r}")
    return float(value)


def parse_moment(name: str, value: object) -> float:
    """A `datetime` as Unix seconds; a naive one is local time. Raises `ConfigError` for a time that no clock shows."""
    if not isinstance(value, datetime):
        raise ConfigError(f"{name} must be a datetime (a naive one is local time), got {value!r}")
    try:
        moment = value.timestamp()
        shown = datetime.fromtimestamp(moment, value.tzinfo)
    except (OverflowError, ValueError, OSError) as error:
        raise ConfigError(f"{name} is out of range: {value!r}") from error
    if abs(shown.replace(tzinfo=None) - value.replace(tzinfo=None)) > timedelta(seconds=1):
        raise ConfigError(f"{name} {value:%Y-%m-%d %H:%M} does not exist {_in(value)}: the clocks go forward then")
    return moment


def _in(value: datetime) -> str:
    return "here" if value.tzinfo is None else f"in {value.tzinfo}"


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 1_000_000:
        raise ConfigError(f"{name} must be a whole number from 0 to 1000000, got {value!r}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > 200:
        raise ConfigError(f"{name} must be a text of 1 to 200 characters, got {value!r:.80}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} must be valid Unicode, got {value!r:.80}") from None
    return value


def parse_queue(value: object) -> str:
    """A queue's name: 1 to 200 characters, no NUL."""
    return _text("queue", value)


def _on_lost(name: str, value: object) -> str:
    if value not in ("retry", "fail"):
        raise ConfigError(f'{name} must be "retry" or "fail", got {value!r}')
    return str(value)


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, got {value!r}")
    return value


def _factor(name: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise ConfigError(f"{name} must be a number from 1 to 1000, got {value!r}")
    return float(value)


def _exceptions(name: str, value: object) -> tuple[str, ...]:
    """Exception types as dotted names: those of classes are `module.Class`, of built-in ones `Class`."""
    values = value if isinstance(value, (list, tuple)) else [value]
    names = []
    for one in values:
        if isinstance(one, type) and issubclass(one, BaseException):
            names.append(exception_name(one))
        elif isinstance(one, str) and all(part.isidentifier() for part in one.split(".")):
            names.append(one.removeprefix("builtins."))
        else:
            raise ConfigError(
                f'{name} must be exception classes or their dotted names, such as "requests.Timeout", got {one!r:.80}'
            )
    return tuple(names)


def exception_name(kind: type[BaseException]) -> str:
    """`module.Class`, and `Class` alone for a built-in one."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _moment_or_seconds(name: str, value: object) -> float | timedelta:
    """A `datetime` as Unix seconds; seconds from now as a `timedelta`."""
    if isinstance(value, datetime):
        return parse_moment(name, value)
    return timedelta(seconds=parse_seconds(name, value))


def _address(name: str, value: object) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{name} must be the address of a listener, such as unix:///run/app.sock, got {value!r:.80}")
    return os.fspath(value)


#: Bytes of JSON that may be sent along with a callback.
MAX_CALLBACK_DATA = 65_536


def _json_text(name: str, value: object) -> str:
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name} must be JSON (dict, list, text, numbers), got {value!r:.80}: {error}") from None
    if len(text) > MAX_CALLBACK_DATA:
        raise ConfigError(
            f"{name} takes {len(text)} bytes, more than {MAX_CALLBACK_DATA}; send a key to the data instead"
        )
    return text


def _tags(name: str, value: object) -> str:
    """A dictionary of texts, as JSON."""
    if not isinstance(value, dict) or len(value) > 100:
        raise ConfigError(f'{name} must be a dictionary of up to 100 texts, such as {{"team": "a"}}, got {value!r:.80}')
    return json.dumps({_text(name, key): _text(name, own) for key, own in value.items()})


def parse_count(name: str, value: object) -> int:
    """A whole number of 1 or more. Raises `ConfigError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise ConfigError(f"{name} must be a whole number from 1 to 1000000, got {value!r:.80}")
    return value


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RATE = r"([1-9][0-9]{0,8})/(s|m|h|d)"


def parse_rate(name: str, value: object) -> str:
    """A rate such as "10/s" or "100/h". Raises `ConfigError` for anything else."""
    if not isinstance(value, str) or not re.fullmatch(_RATE, value):
        raise ConfigError(
            f'{name} must be a number and a unit s, m, h or d, such as "10/s" or "100/h", got {value!r:.80}'
        )
    return value


def rate_of(text: str) -> tuple[int, float]:
    """How many, within how many seconds: "100/h" is (100, 3600.0)."""
    number, unit = text.split("/")
    return int(number), _UNITS[unit]


#: The limits that a queue may have, and what each may be.
QUEUE_RULES: dict[str, Callable[[str, object], Any]] = {
    "workers": parse_count,
    "max_length": parse_count,
    "rate": parse_rate,
}


def _key(name: str, value: object) -> str | Callable[..., object]:
    return value if callable(value) else _text(name, value)


def _on_conflict(name: str, value: object) -> str:
    if value not in ("keep", "fail", "replace"):
        raise ConfigError(f'{name} must be "keep", "fail" or "replace", got {value!r:.80}')
    return str(value)


def _parents(name: str, value: object) -> tuple[int, ...]:
    """Ids of jobs, from handles, numbers or their text; one or many."""
    given = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    ids = []
    for one in given:
        number = getattr(one, "number", one)
        text = str(number) if isinstance(number, int) and not isinstance(number, bool) else number
        if not isinstance(text, str) or not text.isascii() or not text.isdigit() or not 0 < int(text[:20]) < 2**63:
            raise ConfigError(f"{name} must be ids of jobs, or their handles, got {one!r:.80}")
        ids.append(int(text))
    return tuple(dict.fromkeys(ids))


_PARSERS: dict[str, Any] = {
    "queue": lambda _, value: parse_queue(value),
    "priority": lambda _, value: parse_priority(value),
    "timeout": parse_seconds,
    "kill_grace": parse_seconds,
    "retries": _whole,
    "retry_delay": parse_seconds,
    "retry_backoff": _factor,
    "retry_max_delay": parse_seconds,
    "retry_on": _exceptions,
    "give_up_on": _exceptions,
    "retry_on_timeout": _yes_or_no,
    "on_lost": _on_lost,
    "expires": _moment_or_seconds,
    "callback": _address,
    "callback_data": _json_text,
    "concurrency": parse_count,
    "rate": parse_rate,
    "key": _key,
    "lock": _text,
    "unique": _text,
    "on_conflict": _on_conflict,
    "idempotency_key": _text,
    "debounce": parse_seconds,
    "after": _parents,
    "after_any": _parents,
    "after_failure": _parents,
    "delay": parse_seconds,
    "eta": parse_moment,
    "name": _text,
    "tags": _tags,
    "hold": _yes_or_no,
}

#: What only one job can have, not a task.
OF_ONE_JOB = {
    "delay", "eta", "name", "hold", "unique", "idempotency_key", "debounce", "after", "after_any", "after_failure",
}  # fmt: skip


class JobOptions(NamedTuple):
    """How a job is run; None leaves it to the task's options, then to the configuration's, then to the default."""

    queue: str | None = None
    priority: int | None = None
    #: Higher is started first. 0 by default.
    timeout: float | None = None
    #: Seconds one attempt may take; the runner ends it then.
    kill_grace: float | None = None
    #: Seconds between asking an attempt to end and killing it.
    retries: int | None = None
    #: How often a failed job is tried again. 0 by default.
    retry_delay: float | None = None
    #: Seconds before it is tried again. 0 by default, 1 where there is a backoff.
    retry_backoff: float | None = None
    #: By what the delay grows with each failure. The delay is then a random part of that, so that many do not come at once.
    retry_max_delay: float | None = None
    #: The most a growing delay grows to, an hour by default.
    retry_on: tuple[str, ...] | None = None
    #: The exceptions, by dotted name, after which it is tried again; all by default. A subclass counts.
    give_up_on: tuple[str, ...] | None = None
    #: Those after which it is not. Goes before `retry_on`.
    retry_on_timeout: bool | None = None
    #: Whether an attempt that took too long is tried again. Not by default.
    on_lost: str | None = None
    #: "retry" (the default) or "fail": what becomes of a job whose worker died. "fail" starts it at most once, ever.
    expires: float | timedelta | None = None
    #: The Unix time, or the span from now, by which the job must have started; else it ends as expired.
    callback: str | None = None
    #: The listener that is told how the job ended: `unix:///path.sock`, or another address of a Unix socket.
    callback_data: str | None = None
    #: JSON that is sent along.
    concurrency: int | None = None
    #: How many jobs of this task, or of one `key` of it, run at a time.
    rate: str | None = None
    #: How many of them are begun in a span: "10/s", "100/h". So many may begin at once, after a span without any.
    key: str | Callable[..., object] | None = None
    #: What `concurrency` and `rate` count by: a text with the call's arguments in braces, "{host}", or a function of them.
    lock: str | None = None
    #: The name of a lock: of the jobs that hold it, of whatever task, one runs at a time.
    unique: str | None = None
    #: Of all jobs with this key, one at a time is waiting or running; `on_conflict` says what becomes of another.
    on_conflict: str | None = None
    #: "keep" (the default: the one that is there is returned), "fail" (`JobExists`) or "replace" (it is cancelled first).
    idempotency_key: str | None = None
    #: Submitted again with this key within 24 hours, the first job is returned, also when it has ended.
    debounce: float | None = None
    #: Seconds without another call of the same `unique` key before the job begins, as the last call said.
    after: tuple[int, ...] | None = None
    #: The jobs that must have succeeded before this one begins; it is cancelled when one of them does not.
    after_any: tuple[int, ...] | None = None
    #: The jobs that must have ended, however they did.
    after_failure: tuple[int, ...] | None = None
    #: Jobs of which one must have ended otherwise than by success; it is cancelled when all have succeeded.
    delay: float | None = None
    #: Seconds from now before the job may start.
    eta: float | None = None
    #: Unix time before which the job may not start.
    name: str | None = None
    #: What a person calls the job.
    tags: str | None = None
    #: Texts by which a person finds it again, a JSON object; given as a dictionary.
    hold: bool | None = None
    #: Whether it waits until somebody releases it.

    @classmethod
    def parse(cls, given: dict[str, Any]) -> JobOptions:
        """The options in *given*, checked. Raises `ConfigError` naming the one that is unknown or has a wrong value."""
        if given.get("delay") is not None and given.get("eta") is not None:
            raise ConfigError("give either delay (seconds from now) or eta (a moment), not both")
        options = cls(**_parse(given, set(_PARSERS)))
        if options.unique is None and (options.debounce is not None or options.on_conflict is not None):
            raise ConfigError("debounce and on_conflict need a unique key, which says of what there is to be one job")
        if options.debounce is not None and (options.delay is not None or options.eta is not None):
            raise ConfigError("debounce says when the job begins: give no delay and no eta with it")
        return options

    @classmethod
    def parse_for_tasks(cls, given: dict[str, Any]) -> JobOptions:
        """As `parse`, for the options that a task or the configuration can give to all its jobs."""
        return cls(**_parse(given, set(_PARSERS) - OF_ONE_JOB)) if given else NO_OPTIONS

    def over(self, other: JobOptions) -> JobOptions:
        """These options, with the other ones where these say nothing."""
        if other is NO_OPTIONS:
            return self
        missing = {name: getattr(other, name) for name in _PARSERS if getattr(self, name) is None}
        return self._replace(**missing)

    def due_at(self, now: float) -> float | None:
        """The Unix time before which the job may not start, or None for at once."""
        if self.delay or self.debounce:
            return now + (self.delay or self.debounce or 0.0)
        return self.eta if self.eta is not None and self.eta > now else None

    def expires_at(self, now: float) -> float | None:
        """The Unix time by which the job must have started, or None."""
        return now + self.expires.total_seconds() if isinstance(self.expires, timedelta) else self.expires

    def policy(self) -> str | None:
        """What `Policy` reads, None when these options say nothing of it."""
        said = {name: value for name in _POLICY if (value := getattr(self, name)) is not None}
        return json.dumps(said) if said else None


NO_OPTIONS = JobOptions()


def _parse(given: dict[str, Any], known: set[str]) -> dict[str, Any]:
    parsed = {}
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean "{close[0]}"?' if close else f"; the options are {', '.join(sorted(known))}"
            raise ConfigError(f'there is no option "{key}"{hint}')
        if value is not None:
            parsed[key] = _PARSERS[key](key, value)
    return parsed


class Policy(NamedTuple):
    """The finer points of how a job ends."""

    kill_grace: float | None = None
    retry_backoff: float | None = None
    retry_max_delay: float = 3600.0
    retry_on: tuple[str, ...] | None = None
    give_up_on: tuple[str, ...] = ()
    retry_on_timeout: bool = False

    @classmethod
    @lru_cache(maxsize=256)
    def read(cls, text: str | None) -> Policy:
        return cls() if text is None else cls(**json.loads(text))

    def is_worth_retrying(self, error: BaseException) -> bool:
        """Whether this exception is one after which the job is tried again, if it may be."""
        return self.is_worth_it_after(
            {exception_name(one) for one in type(error).__mro__ if issubclass(one, BaseException)}
        )

    def is_worth_it_after(self, names: set[str]) -> bool:
        """As `is_worth_retrying`, for an exception whose class and their bases have these names."""
        if names.intersection(self.give_up_on):
            return False
        return self.retry_on is None or bool(names.intersection(self.retry_on))


_POLICY = Policy._fields


def retry_pause(failures: int, retry_delay: float | None, policy: Policy, chance: float) -> float:
    """Seconds before a job that failed for the time number *failures* is tried again.

    Without a backoff that is `retry_delay`. With one it is *chance* (a random number from 0 to 1) times
    `retry_delay * retry_backoff ** (failures - 1)`, at most `retry_max_delay`: exponential backoff with full jitter, as in
    "Exponential Backoff And Jitter" of the AWS Architecture Blog.
    """
    if policy.retry_backoff is None:
        return retry_delay or 0.0
    first = 1.0 if retry_delay is None else retry_delay
    grown = first * policy.retry_backoff ** min(failures - 1, 100)
    return chance * min(policy.retry_max_delay, grown)
