"""`fwl status --watch`: the list as it changes, on the whole screen, or as one document of JSON after another.

Runs in: the command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..store.connection import Connection
from . import columns, footer, listing, render
from .problems import usage
from .records import Record
from .session import Session

if TYPE_CHECKING:
    from rich.text import Text

    from .listing import Wish
    from .top_screen import Screen

#: Seconds between two looks.
INTERVAL = 1.0


def watch(session: Session, connection: Connection, wish: Wish, *, is_until_done: bool) -> list[Record]:
    """Show the list until a person has seen enough, or until all of it has ended. Returns the last one."""
    if session.is_json:
        return _put_changes(session, connection, wish, is_until_done=is_until_done)
    if not (render.is_terminal(sys.stdin) and render.is_terminal(sys.stdout)):
        raise usage("--watch needs a terminal; use --json, or fwl wait")
    from .top_screen import Screen

    records: list[Record] = []
    with Screen() as screen:
        while screen.ended_by is None:
            records = listing.read(connection, wish)
            screen.draw(_lines(connection, wish, records, screen))
            if (is_until_done and _have_ended(records)) or "q" in _keys(screen):
                break
    if screen.ended_by is not None:
        raise KeyboardInterrupt
    return records


def _keys(screen: Screen) -> list[str]:
    keys = screen.wait(INTERVAL)
    if "ctrl-c" in keys:
        raise KeyboardInterrupt
    if "ctrl-z" in keys:
        screen.suspend()
    return keys


def _lines(connection: Connection, wish: Wish, records: Sequence[Record], screen: Screen) -> list[Text]:
    from rich.text import Text

    width, height = screen.size
    header, rows = columns.table(records, wish.fields or columns.FIELDS, time.time())
    lines = render.columns(header, rows, width) if rows else ["no jobs match"]
    room = max(height - 1, 1)
    if len(lines) > room:
        lines = [
            *lines[: room - 1],
            f"{len(lines) - room + 1} more; a higher window shows them, or -n and filters fewer",
        ]
    lines += [""] * (room - len(lines)) + [footer.line(connection)]
    return [
        Text(line[:width], no_wrap=True, end="\n" if number < height - 1 else "") for number, line in enumerate(lines)
    ]


def _have_ended(records: Sequence[Record]) -> bool:
    return all(record.job.has_ended for record in records)


def _put_changes(session: Session, connection: Connection, wish: Wish, *, is_until_done: bool) -> list[Record]:
    """A document whenever something has changed."""
    for records in _changes(connection, wish):
        listing.put_json(session, records, wish)
        if is_until_done and _have_ended(records):
            break
    return records


def _changes(connection: Connection, wish: Wish) -> Iterator[list[Record]]:
    seen = None
    while True:
        records = listing.read(connection, wish, is_complete=True)
        if records != seen:
            seen = records
            yield records
        time.sleep(INTERVAL)
