"""Text for terminals and JSON for programs.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from .problems import usage

#: What could steer a terminal or reorder a line: C0, DEL, C1, line separators, bidirectional controls, lone surrogates.
_UNSAFE = "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def clean(text: object) -> str:
    """*text* on one line, with everything escaped that a terminal would obey."""
    line = str(text)
    if line.isprintable():  # nothing unsafe is
        return line
    return re.sub(_UNSAFE, lambda found: _SHORT.get(found[0]) or _escaped(ord(found[0])), line)


def _escaped(number: int) -> str:
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is not UTF-8, as Python carries it
        number -= 0xDC00
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def prepare_streams() -> None:
    """No character may end a command: what the terminal's encoding lacks is escaped."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(AttributeError, ValueError):
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def choose_colour(choice: str, origin: str) -> None:
    """What --color or its variable says: `auto`, `always` or `never`. Raises `CommandError`."""
    global _choice
    if choice not in ("auto", "always", "never"):
        raise usage(f'{origin}: "{clean(choice)}" is none of auto, always and never')
    _choice = choice


_choice = "auto"


def is_coloured(stream: TextIO | None) -> bool:
    """Whether this stream gets colours: as was chosen, else as the environment has it, else when it is a terminal."""
    if _choice != "auto":
        return _choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("FWL_NO_COLOR"):
        return False
    if any(os.environ.get(name, "") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "bold": 1, "dim": 2}


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """*text* in this colour, where the stream (stdout unless another is named) gets colours."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if is_coloured(stream or sys.stdout) else text


def say(text: str, end: str = "\n") -> None:
    """A line for a person, on stderr."""
    if sys.stderr is not None:
        print(text, file=sys.stderr, flush=True, end=end)


def chat(text: str) -> None:
    """A line for a person who is looking; not for logs and mails."""
    if is_terminal(sys.stderr):
        say(text)


def flush() -> None:
    """Have what was printed seen before anything else is done."""
    if sys.stdout is not None:
        sys.stdout.flush()


def put_json(document: dict[str, Any]) -> None:
    """One JSON document on a line of stdout. ASCII only: safe on every terminal and in every encoding."""
    print(json.dumps(document, separators=(",", ":")), flush=True)


def put_path(path: str) -> None:
    """A path on a line of stdout: as it is for programs, and for a terminal without what would steer it."""
    print(clean(path) if is_terminal(sys.stdout) else path)


# ---- lists


def put_columns(header: Sequence[str], rows: Sequence[Sequence[str]], *, is_cut: bool = True) -> None:
    """A list in columns. Only the last is ever cut, and only on a terminal. States have colours where there are any."""
    state = header.index("STATE") if "STATE" in header else None
    for line in columns(header, rows, terminal_width() if is_cut else None, painted=state):
        print(line)


#: By how the word for a state begins.
_COLOUR_OF = {
    "running": "blue",
    "succeeded": "green",
    "failed": "red",
    "retry": "yellow",
    "blocked": "yellow",
    "paused": "yellow",
}


def _painted(cell: str) -> str:
    colour = next((colour for word, colour in _COLOUR_OF.items() if cell.startswith(word)), None)
    return cell if colour is None else paint(cell, colour)


def columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, painted: int | None = None
) -> list[str]:
    """The lines of a list in columns, the last of which is cut so that each line fits into *width*.

    *painted* is the number of the column that gets colours.
    """
    table = [header, *[[clean(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in table) for column in range(len(header) - 1)]
    lines = []
    for row in table:
        cells = [cell.ljust(size + 2) for cell, size in zip(row, widths, strict=False)]
        last = _cut(row[-1], width and width - sum(map(len, cells)))
        if painted is not None and painted < len(cells):
            cells[painted] = _painted(cells[painted])
        lines.append("".join(cells) + last)
    return lines


def is_unicode(stream: TextIO | None) -> bool:
    """Whether more than ASCII can be printed there."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def dot(stream: TextIO | None) -> str:
    """What stands between two things on a line."""
    return "·" if is_unicode(stream) else "-"


def _cut(text: str, room: int | None) -> str:
    if room is None or len(text) <= room:
        return text
    dots = _dots(sys.stdout)
    if len(text) <= 8 + len(dots):  # the least that is left of any
        return text
    return text[: max(room - len(dots), 8)] + dots


def fit(text: str, columns: int, stream: TextIO) -> str:
    """*text* cut to so many columns of a terminal, in which some characters take two and some none."""
    from unicodedata import combining, east_asian_width

    widths = [0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text]
    if sum(widths) <= columns:
        return text
    dots = _dots(stream)
    room, end = columns - len(dots), 0
    while end < len(widths) and widths[end] <= room:
        room -= widths[end]
        end += 1
    return text[:end] + dots if columns > len(dots) else text[:end]


def _dots(stream: TextIO | None) -> str:
    return "…" if is_unicode(stream) else "..."


def terminal_width(stream: TextIO | None = None) -> int | None:
    """The columns there are on *stream*, stdout by default; None without limit: into a pipe or a file."""
    stream = stream or sys.stdout
    if not is_terminal(stream):
        return None
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except OSError:
        return None


def put_tsv(rows: Sequence[Sequence[object]]) -> None:
    """One record a line; tabs and newlines within a field are escaped."""
    for row in rows:
        print("\t".join("" if cell is None else clean(cell) for cell in row))


# ---- time


def duration(seconds: float | None) -> str:
    """A span of time in its two largest units: `0.4s`, `1m58s`, `2h0m`, `3d4h`."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.1f}s" if seconds < 10 else f"{seconds:.0f}s"
    whole = round(seconds)
    for size, unit, small_size, small_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // small_size}{small_unit}"
    return f"{whole}s"


def age(seconds: float) -> str:
    """How long ago, in one unit."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def rfc3339(moment: float | None) -> str | None:
    """A moment for programs: UTC, with milliseconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(moment: float | None) -> str:
    """A moment for a person: local, with its offset."""
    if moment is None:
        return "-"
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count} B" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"
