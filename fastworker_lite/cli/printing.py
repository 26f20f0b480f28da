"""What jobs printed, put on our stdout and stderr: as it is, or line by line.

Runs in: the command line.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..logs import STREAMS
from . import render
from .terminals import write_all

#: The longest line that is put together, in bytes; what is longer comes as several.
LONGEST = 1024 * 1024

#: Colours and the like: they steer nothing, and say nothing.
_COLOUR = re.compile("\x1b\\[[0-9;:]*m")


class Piece(NamedTuple):
    """Something that a job printed."""

    job: int
    attempt: int
    stream: str
    #: One of `logs.STREAMS`.
    data: bytes
    at: float | None = None
    #: When it was read, in Unix seconds, where that is also when it was written.


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """In which form a person or a program wants it."""

    is_json: bool = False
    is_raw: bool = False
    #: Bytes even for a terminal, which may obey them.
    is_escaped: bool = False
    #: Even into a pipe, nothing that a terminal would obey.
    has_prefix: bool = False
    #: Whether each line says whose it is,
    has_time: bool = False
    #: and when it came.
    last_lines: int | None = None
    #: How many lines of each stream there are to be of what has been printed until now; None for all.


class Printer:
    """Takes pieces as they come. Lines of more than a megabyte are broken, but where the bytes go out as they are."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._is_terminal = {
            stream: form.is_escaped or (not form.is_raw and render.is_terminal(own))
            for stream, own in zip(STREAMS, (sys.stdout, sys.stderr), strict=True)
        }
        self._rests: dict[tuple[int, str], Piece] = {}
        self._held: dict[tuple[int, str], deque[bytes]] | None = None if form.last_lines is None else {}

    def put(self, piece: Piece) -> None:
        """Print it, as far as it is whole lines where those are wanted."""
        if self._is_exact(piece.stream) and self._held is None:
            write_all(_descriptor(piece.stream), piece.data)
            return
        key = piece.job, piece.stream
        rest = self._rests.pop(key, None)
        if rest is not None and rest.attempt != piece.attempt:
            self._put_lines(rest, [rest.data])
        elif rest is not None:
            piece = piece._replace(data=rest.data + piece.data)
        *lines, last = piece.data.split(b"\n")
        if len(last) > LONGEST and not self._is_exact(piece.stream):
            end = _end_of_character(last)
            lines.append(last[:end])
            last = last[end:]
        if last:
            self._rests[key] = piece._replace(data=last)
        self._put_lines(piece, lines)

    def _is_exact(self, stream: str) -> bool:
        """Whether every byte goes out as it came."""
        form = self._form
        return not (form.is_json or form.has_prefix or form.has_time or self._is_terminal[stream])

    def settle(self) -> None:
        """What comes from now on is wanted whole: print the last lines of what has come so far."""
        if self._held is not None:
            held, self._held = self._held, None
            for (_, stream), lines in held.items():
                self._write(stream, lines)

    def finish(self) -> None:
        """Nothing more will come: print the lines that have no end."""
        for piece in self._rests.values():
            self._put_lines(piece, [piece.data], end=b"" if self._is_exact(piece.stream) else b"\n")
        self.settle()

    def _put_lines(self, piece: Piece, lines: Iterable[bytes], end: bytes = b"\n") -> None:
        formed = [self._formed(piece, line) + end for line in lines]
        if self._held is None:
            self._write(piece.stream, formed)
        else:
            held = self._held.setdefault((piece.job, piece.stream), deque(maxlen=self._form.last_lines))
            held.extend(formed)

    def _formed(self, piece: Piece, line: bytes) -> bytes:
        form = self._form
        if form.is_json:
            fields = {
                "job": piece.job,
                "attempt": piece.attempt,
                "stream": piece.stream,
                "ts": render.rfc3339(piece.at),
            }
            text = line.decode(errors="replace")
            return json.dumps({"schema": "fwl.logs/1", **fields, "line": text}, separators=(",", ":")).encode()
        prefix = f"{piece.job}| " if form.has_prefix else ""
        if form.has_time:
            prefix += f"{render.rfc3339(piece.at) or '-'} "
        return prefix.encode() + (_for_terminal(line) if self._is_terminal[piece.stream] else line)

    def _write(self, stream: str, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if data:
            write_all(1 if self._form.is_json else _descriptor(stream), data)


def _descriptor(stream: str) -> int:
    return STREAMS.index(stream) + 1


def _end_of_character(data: bytes) -> int:
    """Where *data* can be cut so that no character is, if it is UTF-8."""
    return next((end for end in range(LONGEST, LONGEST - 4, -1) if data[end] & 0xC0 != 0x80), LONGEST)


def _for_terminal(line: bytes) -> bytes:
    """A line with everything escaped that a terminal would obey; its colours are left out, its tabs filled in."""
    text = line.decode(errors="surrogateescape").removesuffix("\r")
    cells = (render.clean(cell) for cell in _COLOUR.sub("", text).split("\t"))
    return "\t".join(cells).expandtabs().encode(sys.stdout.encoding or "ascii", "backslashreplace")
