"""Spans of time as people write them.

Runs in: every process.
"""

from __future__ import annotations

import re

from .errors import ConfigError

#: The longest span that means anything, in seconds.
MOST_SECONDS = 1e10

_UNITS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = r"\s*".join(rf"(?:([0-9]+(?:\.[0-9]+)?){unit})?" for unit in _UNITS)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"


def parse_duration(text: str) -> float:
    """The seconds that "30s", "5m", "1h30m" or "2d" stand for; the units are w, d, h, m, s and ms, largest first.

    Raises `ConfigError`, for a number without a unit too: nobody can tell what 30 was meant to be.
    """
    found = re.fullmatch(_DURATION, text.strip())
    if re.fullmatch(_NUMBER, text.strip()):
        raise ConfigError(f"{shown(text)} needs a unit, as in 30s, 5m, 1h30m or 2d")
    if found is None or not any(found.groups()):
        raise ConfigError(f"{shown(text)} is not a duration; write it as 30s, 5m, 1h30m or 2d")
    seconds = sum(float(number or 0) * unit for number, unit in zip(found.groups(), _UNITS.values(), strict=True))
    if seconds > MOST_SECONDS:
        raise ConfigError(f"{shown(text)} is longer than {MOST_SECONDS:.0f} seconds")
    return seconds


def shown(value: object) -> str:
    """A value as it may stand in a message, however large it is."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = f'"{value}"' if isinstance(value, str) and value.isprintable() and '"' not in value else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
