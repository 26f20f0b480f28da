"""Cron expressions and zones: which texts there are, and the moments they stand for.

A fixed time follows cronie's rule: in an hour that the clocks skip it comes as soon as they have gone forward, in an hour
that they repeat it comes once. An expression whose minute or hour begins with * goes by what the clock shows, each time it
shows it. The only owner of cronsim.

Runs in: every process.
"""

from __future__ import annotations

import difflib
import os
import re
from copy import copy
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from .errors import ConfigError

if TYPE_CHECKING:
    from cronsim import CronSim

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    words: tuple[str, ...] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day-of-month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day-of-week", 0, 7, _DAYS),
)


def parse_cron(value: object) -> str:
    """A cron expression, checked: five fields with numbers, names, `*`, lists, ranges and steps, or `@daily` and the like.

    Sunday is 0 and 7. Where day-of-month and day-of-week are both restricted, either is enough, as in cron.
    Raises `ConfigError` naming the field that cannot be.
    """
    if not isinstance(value, str) or len(value) > 300 or not value.isascii() or not value.strip():
        raise ConfigError(f'must be a cron expression such as "30 2 * * *", got {value!r:.80}')
    text = " ".join(value.split())
    if text.startswith("@"):
        if text.lower() not in _ALIASES:
            raise ConfigError(f'"{text}" is not one of {" ".join(_ALIASES)}')
        return text.lower()
    parts = text.upper().split()
    if len(parts) != len(_FIELDS):
        names = " ".join(field.name for field in _FIELDS)
        raise ConfigError(f'"{text}" has {len(parts)} field{"s"[: len(parts) != 1]}, cron has 5: {names}')
    for field, part in zip(_FIELDS, parts, strict=True):
        for term in part.split(","):
            if fault := _fault(field, term):
                raise ConfigError(f'"{text}": {field.name} {fault}')
    _check_that_it_comes(text)
    return text


def _fault(field: _Field, term: str) -> str | None:
    """What is wrong with one term of a field, None for nothing."""
    base, slash, step = term.partition("/")
    if slash and not re.fullmatch(r"0*[1-9][0-9]{0,3}", step):
        return f'step "{step}" is not a number above 0'
    if base == "*" or (field.name == "day-of-month" and base in ("L", "LW") and not slash):
        return None
    if field.name == "day-of-week" and (special := re.fullmatch(r"([0-7])L|(\w+)#[1-5]", base)) and not slash:
        return _value_fault(field, special[1] or special[2])
    first, dash, last = base.partition("-")
    fault = _value_fault(field, first) or (_value_fault(field, last) if dash else None)
    if fault is None and dash and _number(field, last) < _number(field, first):
        return f"{base} runs backwards; write it as two ranges, such as {first}-{field.high},{field.low}-{last}"
    return fault


def _value_fault(field: _Field, text: str) -> str | None:
    if text in field.words:
        return None
    if not text.isdigit():
        words = f" or {field.words[0]}-{field.words[-1]}" if field.words else ""
        return f'"{text}" is not {field.low}-{field.high}{words}'
    if len(text) > 4 or not field.low <= int(text) <= field.high:
        return f"{text:.20} is not in {field.low}-{field.high}"
    return None


def _number(field: _Field, text: str) -> int:
    return field.words.index(text) + (field.name == "month") if text in field.words else int(text)


def _check_that_it_comes(text: str) -> None:
    from cronsim import CronSimError

    try:
        next(simulate(text, datetime(2000, 1, 1)))
    except (CronSimError, StopIteration):
        raise ConfigError(f'"{text}" never comes: its months have no such day') from None


def simulate(cron: str, start: datetime) -> CronSim:
    """The times that an expression names after *start*, one after the other, as a clock that nobody changes shows them."""
    times = copy(_parsed(cron))
    times.dt = start.replace(microsecond=0)
    return times


@lru_cache(maxsize=1024)
def _parsed(cron: str) -> CronSim:
    from cronsim import CronSim  # a process that only submits need not load it

    return CronSim(_ALIASES.get(cron, cron), datetime(2000, 1, 1))


def is_by_the_clock(cron: str) -> bool:
    """Whether an expression goes by what the clock shows, and so comes twice in an hour that is repeated."""
    minute, hour, *_ = _ALIASES.get(cron, cron).split()
    return minute.startswith("*") or hour.startswith("*")


@lru_cache(maxsize=4096)
def next_tick(cron: str, zone: tzinfo, after: float) -> float:
    """The first tick after a moment. Raises `StopIteration` when the calendar ends before one comes."""
    return _next_shown(cron, zone, after) if is_by_the_clock(cron) else _next_fixed(cron, zone, after)


def _next_fixed(cron: str, zone: tzinfo, after: float) -> float:
    for wall in simulate(cron, datetime.fromtimestamp(after, zone).replace(tzinfo=None)):
        shown = wall.replace(tzinfo=zone)  # the first of two such times
        while not exists(shown):
            shown += timedelta(minutes=1)
        if shown.timestamp() > after:  # else we are between the two
            return shown.timestamp()
    raise StopIteration


def exists(shown: datetime) -> bool:
    """Whether the clock of its zone ever shows this time."""
    return shown.astimezone(UTC).astimezone(shown.tzinfo).replace(tzinfo=None) == shown.replace(tzinfo=None)


def _next_shown(cron: str, zone: tzinfo, after: float) -> float:
    """Where the offset does not change, the wall clock is simple arithmetic: look from one change to the next."""
    while True:
        offset = _offset(zone, after)
        wall = datetime.fromtimestamp(after, UTC).replace(tzinfo=None) + timedelta(seconds=offset)
        found = next(simulate(cron, wall)).replace(tzinfo=UTC).timestamp() - offset
        change = _next_change(zone, after, found)
        if change is None:
            return found
        if _is_shown(cron, zone, change):
            return change
        after = change


def _is_shown(cron: str, zone: tzinfo, moment: float) -> bool:
    """Whether this very moment is a tick by the offset that holds from then on."""
    wall = datetime.fromtimestamp(moment, zone).replace(tzinfo=None)
    return next(simulate(cron, wall - timedelta(seconds=1))) == wall


def _offset(zone: tzinfo, moment: float) -> float:
    found = datetime.fromtimestamp(moment, zone).utcoffset()
    return found.total_seconds() if found is not None else 0.0


def _next_change(zone: tzinfo, after: float, until: float) -> float | None:
    """The first moment in (after, until] from which on the offset is another one than at *after*."""
    offset, low = _offset(zone, after), after
    while low < until:
        high = min(low + 86400.0, until)
        if _offset(zone, high) != offset:
            low_second, high_second = int(low), int(-(-high // 1))
            while high_second - low_second > 1:
                middle = (low_second + high_second) // 2
                low_second, high_second = (
                    (middle, high_second) if _offset(zone, middle) == offset else (low_second, middle)
                )
            return float(high_second)
        low = high
    return None


# ---- zones


def parse_zone(value: object) -> str:
    """The name of a zone of the IANA database. Raises `ConfigError`, with the name that may have been meant."""
    if not isinstance(value, str) or not value.isascii() or not 0 < len(value) <= 100:
        raise ConfigError(f'must be the name of a zone such as "Europe/Berlin", got {value!r:.80}')
    try:
        zone(value)
    except (ValueError, LookupError, OSError):
        from zoneinfo import available_timezones

        close = difflib.get_close_matches(value, available_timezones(), n=1)
        hint = f'; did you mean "{close[0]}"?' if close else '; zones are named as in "Europe/Berlin"'
        raise ConfigError(f'there is no zone "{value}"{hint}') from None
    return value


@lru_cache(maxsize=512)
def zone(name: str) -> tzinfo:
    """The zone of this name."""
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def local_zone() -> tzinfo:
    """The zone of this machine, as it is now: $TZ, else /etc/localtime."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if name:
        try:
            return zone(name)
        except (ValueError, LookupError, OSError):  # a rule such as CET-1CEST: what it gives now is all we know
            return datetime.now().astimezone().tzinfo or UTC
    try:
        status = os.stat("/etc/localtime")
    except OSError:
        return UTC
    return _zone_of_file("/etc/localtime", status.st_ino, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _zone_of_file(path: str, *_: int) -> tzinfo:
    from zoneinfo import ZoneInfo

    with open(path, "rb") as file:
        return ZoneInfo.from_file(file)
