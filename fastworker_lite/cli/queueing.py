"""`fwl queue`: the queues, their limits, and holding them up.

Runs in: the command line.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from .. import queueing
from ..options import parse_queue
from ..sockets import Waker
from ..store import queues
from ..store.connection import Connection
from ..store.queues import Queue
from . import render
from .problems import NOT_FOUND, REFUSED, CommandError, usage
from .session import Session, check_queues

Name = Annotated[str, typer.Argument(metavar="NAME", help="The queue.")]


def list_queues(context: typer.Context) -> int:
    """The queues, their limits, and how many jobs they hold.

    fwl queue set io --workers 2 --rate 100/h
    fwl queue pause io
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if context.invoked_subcommand is not None:
        return 0
    return _put_queues(session)


def list_(context: typer.Context) -> int:
    """The queues, their limits, and how many jobs they hold."""
    return _put_queues(context.find_object(Session))  # type: ignore[arg-type]


def _put_queues(session: Session) -> int:
    with session.open() as connection:
        rows = connection.read(queues.everybody)
    if session.is_json:
        session.put_json("fwl.queues/1", queues=[row._asdict() for row in rows])
    elif session.is_quiet:
        for row in rows:
            print(render.clean(row.name))
    elif rows:
        header = ("QUEUE", "STATE", "QUEUED", "RUNNING", "SCHEDULED", "BLOCKED", "WORKERS", "MAX LENGTH", "RATE")
        render.put_columns(header, [_shown(row) for row in rows])
    else:
        session.chat("no queues yet: the first job makes one")
    return 0


def _shown(row: Queue) -> list[str]:
    limits = (row.workers, row.max_length, row.rate)
    counts = (row.queued, row.running, row.scheduled, row.blocked)
    state = "paused" if row.paused else "open"
    return [render.clean(row.name), state, *map(str, counts), *("-" if one is None else str(one) for one in limits)]


Workers = Annotated[
    str | None,
    typer.Option("--workers", metavar="N", help="Run so many of its jobs at a time: N, 50% of the cores, unlimited."),
]
MaxLength = Annotated[
    str | None, typer.Option("--max-length", metavar="N", help="Refuse more than so many queued, or unlimited.")
]
Rate = Annotated[str | None, typer.Option("--rate", metavar="N/s|m|h|d", help="Begin so many in a span, or unlimited.")]


def set_(
    context: typer.Context, name: Name, workers: Workers = None, max_length: MaxLength = None, rate: Rate = None
) -> int:
    """Set the limits of a queue; makes the queue if there is none of this name.

    fwl queue set gpu --workers 1
    fwl queue set mail --rate 100/h --max-length 10000
    fwl queue set gpu --workers unlimited
    """
    settings = _settings(workers, max_length, rate)
    if not settings:
        raise usage("which limit? Give --workers, --max-length or --rate")
    return _set(context.find_object(Session), name, settings)  # type: ignore[arg-type]


def add(
    context: typer.Context, name: Name, workers: Workers = None, max_length: MaxLength = None, rate: Rate = None
) -> int:
    """Make a queue, with limits or without.

    fwl queue add gpu
    """
    return _set(context.find_object(Session), name, _settings(workers, max_length, rate))  # type: ignore[arg-type]


def _settings(workers: str | None, max_length: str | None, rate: str | None) -> dict[str, int | str | None]:
    typed = {
        "workers": _number("--workers", _share(workers), "N, 50% or unlimited"),
        "max_length": _number("--max-length", max_length, "N or unlimited"),
        "rate": rate,
    }
    given = {key: None if value == "unlimited" else value for key, value in typed.items() if value is not None}
    return queueing.queue_settings(given)


def _set(session: Session, name: str, settings: Mapping[str, int | str | None]) -> int:
    with session.open() as connection:
        before = {row.name: row for row in connection.read(queues.everybody)}.get(name)
        _change(connection, name, settings)
    changes = [f"{key} {_text(before and getattr(before, key))} -> {_text(value)}" for key, value in settings.items()]
    if changes:
        session.chat(f"{render.clean(name)}: {', '.join(changes).replace('max_length', 'max length')} (lasting)")
    else:
        session.chat(f"{render.clean(name)} {'is there' if before is None else 'was there already'}")
    return 0


def _text(value: object) -> str:
    return "unlimited" if value is None else str(value)


def _share(text: str | None) -> str | None:
    """Half of the cores for 50%, at least one."""
    if text is None or not text.endswith("%") or not text[:-1].isascii() or not text[:-1].isdigit():
        return text
    return str(max(1, (os.cpu_count() or 1) * int(text[:-1][:4]) // 100))


def _number(flag: str, text: str | None, forms: str) -> int | str | None:
    if text is None or text == "unlimited":
        return text
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:10]) <= 1_000_000:
        raise usage(f'{flag}: cannot read "{text}". Use {forms}; N is from 1 to 1000000')
    return int(text)


def pause(context: typer.Context, name: Name) -> int:
    """Begin no more jobs of this queue; what runs goes on. Stays so until fwl queue resume."""
    return _set_paused(context, name, 1)


def resume(context: typer.Context, name: Name) -> int:
    """Begin jobs of this queue again."""
    return _set_paused(context, name, 0)


def _set_paused(context: typer.Context, name: str, paused: int) -> int:
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        check_queues(connection, {name}, is_made=True)
        _change(connection, name, {"paused": paused})
    session.chat(f"queue {render.clean(name)} {'paused; what runs goes on' if paused else 'goes on'}")
    return 0


def remove(context: typer.Context, name: Name) -> int:
    """Forget a queue and its limits. It must not hold jobs that have not ended."""
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        live = connection.write(queues.remove, name)
        if live is None:
            check_queues(connection, {name}, is_made=True)
            raise CommandError(f'no queue "{name}"', NOT_FOUND)
    if live:
        raise CommandError(
            f'queue "{name}" holds {live} jobs that have not ended', REFUSED, f"See them: fwl status --queue {name}"
        )
    session.chat(f"{render.clean(name)} removed")
    return 0


def _change(connection: Connection, name: str, settings: Mapping[str, int | str | None]) -> None:
    waker = Waker()
    try:
        queueing.change_queue(connection, waker, parse_queue(name), settings)
    finally:
        waker.close()
