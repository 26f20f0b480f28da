"""When a schedule's ticks are: by the wall clock of a zone (cron), or by elapsed time (every).

An interval counts elapsed seconds: its ticks are the whole multiples of it since 1970-01-01T00:00Z, so that "15m" is at
:00, :15, :30 and :45 whatever restarts, and whoever asks. For cron expressions see cron.py. Ticks are Unix seconds.

Runs in: every process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Any

from .cron import exists, is_by_the_clock, local_zone, next_tick, parse_cron, parse_zone, simulate, zone
from .durations import parse_duration
from .errors import ConfigError
from .options import parse_seconds

OVERLAPS = ("skip", "queue_one", "queue_all", "replace", "allow")
CATCH_UPS = ("none", "latest", "all")
#: Seconds after its time within which a tick's job must be made, or it is missed.
ON_TIME = 1.0
#: The shortest interval, in seconds.
LEAST_EVERY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When jobs are made, and what becomes of ticks that come too early or too late."""

    cron: str | None = None
    every: float | None = None
    #: Seconds. One of the two is given.
    timezone: str | None = None
    #: None: the machine's, at the time of each tick.
    jitter: float = 0.0
    #: Seconds, below which lies the delay of all its ticks; see `delay`.
    overlap: str = "skip"
    #: What becomes of a tick while the job of an earlier one has not ended.
    catch_up: str = "latest"
    #: Which of the ticks that nobody was there for are made up for.
    catch_up_window: float = 86400.0
    #: Seconds; older ones are not.
    enabled: bool = True
    repeat_count: int | None = None
    #: Jobs that are made in all.
    repeat_until: float | None = None
    #: The last moment at which there may be a tick. Unix time.

    @classmethod
    def parse(cls, given: Mapping[str, object]) -> Schedule:
        """A schedule from what a person wrote. Raises `ConfigError` naming the field and what is wrong with it."""
        found, faults = read(given)
        for field, fault in faults.items():
            raise ConfigError(f"{field}: {fault}")
        assert found is not None
        return found

    @classmethod
    @lru_cache(maxsize=4096)
    def from_json(cls, text: str) -> Schedule:
        """What `to_json` wrote."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """As text, for the file."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps({name: value for name, value in given.items() if value is not None}, sort_keys=True)

    @property
    def text(self) -> str:
        """As a person would say it: `30 2 * * *`, `every 15m`."""
        return self.cron if self.cron is not None else f"every {short_duration(self.every or 0.0)}"

    def has_ticks_of(self, other: Schedule) -> bool:
        """Whether both have the same ticks at the same times."""
        policies = {name: getattr(self, name) for name in ("overlap", "catch_up", "catch_up_window")}
        return replace(other, **policies) == self

    def tzinfo(self) -> tzinfo:
        """The zone whose clock counts."""
        return zone(self.timezone) if self.timezone is not None else local_zone()

    def delay(self, database_id: str, name: str) -> float:
        """Seconds after each tick at which its job is made: from 0 to below `jitter`, the same each time."""
        if not self.jitter:
            return 0.0
        from hashlib import blake2b

        digest = blake2b(f"{database_id}\0{name}".encode(), digest_size=8).digest()
        chosen = int.from_bytes(digest) / 2**64 * self.jitter
        return float(int(chosen)) if self.jitter >= 1 else chosen

    def next(self, after: float) -> float | None:
        """The first tick after this moment; None when there is none."""
        if self.every is not None:
            number = int(after // self.every) + 1
            tick = round(number * self.every, 6)
            tick = tick if tick > after else round((number + 1) * self.every, 6)
        else:
            assert self.cron is not None
            try:
                tick = next_tick(self.cron, self.tzinfo(), after)
            except (StopIteration, OverflowError, ValueError, RuntimeError):
                return None
        return None if self.repeat_until is not None and tick > self.repeat_until else tick

    def ticks(self, after: float, until: float) -> Iterator[float]:
        """The ticks in (after, until], in order."""
        tick = self.next(after)
        while tick is not None and tick <= until:
            yield tick
            tick = self.next(tick)

    def newest(self, after: float, until: float, most: int) -> list[float]:
        """The last *most* of the ticks in (after, until], in order. Takes time for so many, however long that is."""
        if self.every is not None:
            return list(self.ticks(max(after, until - (most + 1) * self.every), until))[-most:]
        span = 3600.0
        while True:
            start = max(after, until - span)
            found = list(self.ticks(start, until))
            if len(found) >= most or start == after:
                return found[-most:]
            span *= 2

    def skipped_time(self, tick: float) -> datetime | None:
        """The time on the clock for which this tick stands, where that time does not exist; None where it does."""
        if self.cron is None or is_by_the_clock(self.cron):
            return None
        shown = datetime.fromtimestamp(tick, self.tzinfo())
        for wall in simulate(self.cron, shown.replace(tzinfo=None) - timedelta(hours=4)):
            if wall >= shown.replace(tzinfo=None):
                return None
            if not exists(wall.replace(tzinfo=self.tzinfo())):
                return wall
        return None


def short_duration(seconds: float) -> str:
    """A span as it is written in the settings: `90s`, `15m`, `1h30m`."""
    parts, left = [], round(seconds * 1000)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    return "".join(parts) or "0s"


# ---- what a person writes


def read(given: Mapping[str, object]) -> tuple[Schedule | None, dict[str, str]]:
    """A schedule, or for each field that is wrong what is. `schedule` is another name of `cron`, `repeat_interval` of `every`."""
    found: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for field, value in given.items():
        name = _OTHER_NAMES.get(field, field)
        if value is None:
            continue
        if name not in _PARSERS:
            faults[field] = f"there is no such field; the fields are {', '.join(_PARSERS)}"
            continue
        try:
            found[name] = _PARSERS[name](value)
        except ConfigError as error:
            faults[field] = str(error)
    if isinstance(found.get("repeat_until"), datetime):
        _place_until(found, faults)
    has_when = [
        field for field in given if _OTHER_NAMES.get(field, field) in ("cron", "every") and given[field] is not None
    ]
    if len(has_when) != 1:
        faults.setdefault(
            has_when[0] if has_when else "schedule",
            'give either a cron expression, such as "30 2 * * *", or every, such as "15m"'
            + (", not both" if has_when else ""),
        )
    return (None, faults) if faults else (Schedule(**found), {})


def _place_until(found: dict[str, Any], faults: dict[str, str]) -> None:
    until: datetime = found.pop("repeat_until")
    if until.tzinfo is None:
        own = zone(found["timezone"]) if "timezone" in found else local_zone()
        until = until.replace(tzinfo=own)
        if not exists(until):
            faults["repeat_until"] = f"{until:%Y-%m-%d %H:%M} does not exist in {own}: the clocks go forward then"
            return
    try:
        found["repeat_until"] = until.timestamp()
    except (OverflowError, ValueError, OSError):
        faults["repeat_until"] = f"{until} is out of range"


def _seconds(value: object) -> float:
    return parse_duration(value) if isinstance(value, str) else parse_seconds("it", value)


def _interval(value: object) -> float:
    seconds = _seconds(value)
    if seconds < LEAST_EVERY:
        raise ConfigError(f"must be at least {LEAST_EVERY} s, got {seconds:g} s")
    return seconds


def _one_of(words: tuple[str, ...]) -> Any:
    def parse(value: object) -> str:
        if value not in words:
            raise ConfigError(f"must be one of {', '.join(words)}, got {value!r:.80}")
        return str(value)

    return parse


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, got {value!r:.80}")
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 10**9:
        raise ConfigError(f"must be a whole number from 1 to 1000000000, got {value!r:.80}")
    return value


def _moment(value: object) -> datetime:
    """A day alone is meant to its end."""
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
        except ValueError:
            pass
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time.max)
    if not isinstance(value, datetime):
        raise ConfigError(f"must be a day or a moment such as 2026-12-31 18:00, got {value!r:.80}")
    return value


_PARSERS: dict[str, Any] = {
    "cron": parse_cron,
    "every": _interval,
    "timezone": parse_zone,
    "jitter": _seconds,
    "overlap": _one_of(OVERLAPS),
    "catch_up": _one_of(CATCH_UPS),
    "catch_up_window": _seconds,
    "enabled": _flag,
    "repeat_count": _count,
    "repeat_until": _moment,
}
_OTHER_NAMES = {"schedule": "cron", "repeat_interval": "every"}
#: What may be said of when, and how, a schedule makes jobs.
FIELDS = frozenset({*_PARSERS, *_OTHER_NAMES})
