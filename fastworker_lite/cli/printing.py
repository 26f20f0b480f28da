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

#: Colours and the like: they steer nothing, and say nothing.
_COLOUR = re.compile("\x1b\\[[0-9;:]*m")


class Piece(NamedTuple):
    """Something that a job printed."""

    job: int
    attempt: int
    stream: str
    #: One of `logs.STREAMS`.
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """In which form a person or a program wants it."""

    is_json: bool = False
    is_raw: bool = False
    #: Bytes even for a terminal, which may obey them.
    is_escaped: bool = False
    #: Even into a pipe, nothing that a terminal would obey.
    has_prefix: bool = False
    #: Whether each line says whose it is.
    last_lines: int | None = None
    #: How many lines of each stream there are to be of what has been printed until now; None for all.


class Printer:
    """Takes pieces as they come."""

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
        form = self._form
        if not (form.is_json or form.has_prefix or self._held is not None or self._is_terminal[piece.stream]):
            write_all(_descriptor(piece.stream), piece.data)
            return
        key = piece.job, piece.stream
        rest = self._rests.pop(key, None)
        if rest is not None and rest.attempt != piece.attempt:
            self._put_lines(rest, [rest.data])
        elif rest is not None:
            piece = piece._replace(data=rest.data + piece.data)
        *lines, last = piece.data.split(b"\n")
        if last:
            self._rests[key] = piece._replace(data=last)
        self._put_lines(piece, lines)

    def settle(self) -> None:
        """What comes from now on is wanted whole: print the last lines of what has come so far."""
        if self._held is not None:
            held, self._held = self._held, None
            for (_, stream), lines in held.items():
                self._write(stream, lines)

    def finish(self) -> None:
        """Nothing more will come: print the lines that have no end."""
        form = self._form
        for piece in self._rests.values():
            is_exact = not (form.is_json or form.has_prefix or self._is_terminal[piece.stream])
            self._put_lines(piece, [piece.data], end=b"" if is_exact else b"\n")
        self.settle()

    def _put_lines(self, piece: Piece, lines: Iterable[bytes], end: bytes = b"\n") -> None:
        formed = [self._formed(piece, line) + end for line in lines]
        if self._held is None:
            self._write(piece.stream, formed)
        else:
            held = self._held.setdefault((piece.job, piece.stream), deque(maxlen=self._form.last_lines))
            held.extend(formed)

    def _formed(self, piece: Piece, line: bytes) -> bytes:
        if self._form.is_json:
            fields = {"job": piece.job, "attempt": piece.attempt, "stream": piece.stream}
            text = line.decode(errors="replace")
            return json.dumps({"schema": "fwl.logs/1", **fields, "line": text}, separators=(",", ":")).encode()
        prefix = f"{piece.job}| ".encode() if self._form.has_prefix else b""
        return prefix + (_for_terminal(line) if self._is_terminal[piece.stream] else line)

    def _write(self, stream: str, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if data:
            write_all(1 if self._form.is_json else _descriptor(stream), data)


def _descriptor(stream: str) -> int:
    return STREAMS.index(stream) + 1


def _for_terminal(line: bytes) -> bytes:
    """A line with everything escaped that a terminal would obey; its colours are left out, its tabs filled in."""
    text = line.decode(errors="surrogateescape").removesuffix("\r")
    cells = (render.clean(cell) for cell in _COLOUR.sub("", text).split("\t"))
    return "\t".join(cells).expandtabs().encode(sys.stdout.encoding or "ascii", "backslashreplace")
