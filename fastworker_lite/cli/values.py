"""Values as people type them on a command line.

Runs in: the command line.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from .. import durations
from ..errors import ConfigError
from . import render
from .problems import CommandError, usage

_CLOCK = r"(\d{1,2}):(\d{2})(?::(\d{2}))?"


def check_address(option: str, text: str) -> None:
    """Refuse what is meant as another way of being told: as the name of a socket, it would be one that nobody listens at."""
    if "/" not in text or text.startswith(("http://", "https://", "mailto:")):
        raise usage(
            f'{option}: "{text}" is not the address of a socket, such as unix:///run/app.sock or ./app.sock',
            "Commands, pings and notices on the desktop: fwl help hooks",
        )


def parse_duration(option: str, text: str | None) -> float | None:
    """Seconds of `90s`, `5m`, `1h30m` or `2d`. A bare number is refused: nobody remembers its unit."""
    if text is None:
        return None
    try:
        return durations.parse_duration(text)
    except ConfigError:
        raise usage(f'{option}: cannot read "{text}". Use 90s, 5m, 1h30m or 2d.') from None


#: What options are called whose name is another one than the value's.
_TYPED = {"kill_grace": "grace", "callback": "notify", "eta": "at", "delay": "in", "after_failure": "after-fail", "tags": "tag"}  # fmt: skip


def typed_wrongly(error: ConfigError) -> CommandError:
    """The error in the words of the command line: what `retry_backoff must be`, --retry-backoff must be."""
    name, _, rest = str(error).partition(" ")
    return usage(f"--{_TYPED.get(name, name).replace('_', '-')} {rest}")


def parse_time(option: str, text: str | None, *, zone: str | None, is_past_ok: bool) -> datetime | None:
    """The moment of `2026-11-24 03:00`, `2026-11-24T03:00Z` or `03:00` (the next one); in *zone*, or local, unless it says."""
    if text is None:
        if zone is not None:
            raise usage(f"--tz says in which zone {option} is meant; give both")
        return None
    own = None if zone is None else _zone(zone)
    moment = _next_clock(text, own) or _read_iso(option, text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=own)
    shown = datetime.fromtimestamp(_timestamp(option, text, moment), moment.tzinfo)
    if shown.replace(tzinfo=None) != moment.replace(tzinfo=None):
        where = "here" if zone is None else f"in {zone}"
        raise usage(f"{option}: {text} does not exist {where}: the clocks go forward then.")
    ago = time.time() - _timestamp(option, text, moment)
    if ago > 0 and not is_past_ok:
        raise usage(f"{option}: {text} was {render.duration(ago)} ago. Add --past-ok to run it now.")
    return moment


def _read_iso(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise usage(f'{option}: cannot read "{text}". Use 2026-11-24 03:00, 2026-11-24T03:00Z or 03:00.') from None


def _timestamp(option: str, text: str, moment: datetime) -> float:
    try:
        return moment.timestamp()
    except (OverflowError, ValueError, OSError):
        raise usage(f'{option}: "{text}" is out of range.') from None


def _zone(name: str) -> tzinfo:
    from .. import cron
    from ..errors import ConfigError

    try:
        return cron.zone(cron.parse_zone(name))
    except ConfigError as error:
        raise usage(f"--tz: {error}") from None


def _next_clock(text: str, zone: tzinfo | None) -> datetime | None:
    found = re.fullmatch(_CLOCK, text)
    if found is None:
        return None
    hour, minute, second = (int(part or 0) for part in found.groups())
    if hour > 23 or minute > 59 or second > 59:
        return None
    now = datetime.now(zone)
    moment = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    return moment if moment > now else moment + timedelta(days=1)


def parse_signal(option: str, text: str | None) -> int | None:
    """The number of `TERM`, `SIGTERM` or `15`."""
    if text is None:
        return None
    known = {one.name.removeprefix("SIG"): int(one) for one in signal.Signals}
    number = known.get(text.upper().removeprefix("SIG"), int(text) if re.fullmatch("[0-9]{1,3}", text) else 0)
    if number not in signal.valid_signals():
        raise usage(f'{option}: "{text}" is not a signal. Use TERM, INT, HUP, USR1, KILL or a number.')
    return number


def parse_priority(text: str | None) -> int | str | None:
    """An integer, or a name as it is."""
    if text is not None and re.fullmatch(r"[+-]?[0-9]{1,12}", text):
        return int(text)
    return text


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, str]:
    """`K=V` words as a dictionary."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise usage(f'{option}: cannot read "{pair}". Use NAME=VALUE.')
        found[name] = value
    return found


def read_value(text: str) -> Any:
    """A task's argument: what it is in JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_arguments(words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """`ARG…` and `KEY=VALUE…` of a task."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key.isidentifier():
            kwargs[key] = read_value(value)
        elif kwargs:
            raise usage(f'"{word}" comes after KEY=VALUE; positional arguments come first')
        else:
            args.append(read_value(word))
    return args, kwargs


def read_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object given as an option's value."""
    value = read_value(text)
    if not isinstance(value, dict):
        raise usage(f'{option}: cannot read "{text}". Use a JSON object: {{"x": 1}}')
    return value
