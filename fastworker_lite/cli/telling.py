"""`fwl listen`, `fwl listeners` and `fwl events`: being told of what happens to jobs.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from .. import leases, registration
from ..paths import SidePaths
from ..store import events as event_store
from ..store import listeners, outbox
from ..store.connection import Connection
from . import options, render
from .problems import NOT_FOUND, CommandError, usage
from .session import Session, live_runners
from .values import check_address

On = Annotated[
    list[str] | None,
    typer.Option("--on", metavar="END", help="Of success, failure, cancelled; all by default. May be repeated."),
]
Glob = Annotated[str, typer.Option("--task", metavar="GLOB", help="Only of tasks with such a name.")]


# ---- fwl listen


def listen(
    context: typer.Context,
    task: Glob = "*",
    on: On = None,
    queue: options.Queue = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Stay registered when this ends, and miss nothing.")
    ] = None,
) -> int:
    """Print how jobs end, one JSON object a line, until stopped.

    fwl listen --task 'resize*' --on failure
    fwl listen --name audit >> ended.ndjson
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from ..listener import SyncCallbackListener

    with session.open() as connection:
        address = _address(connection.paths, name)
        wanted = registration.new_listener(address, task, queue, _ends(on), name)
        with _registered(connection, wanted), SyncCallbackListener(address) as listener:
            stays = "" if name is None else f", and {render.clean(name)} stays registered"
            session.chat(f"listening; Ctrl-C ends it{stays}")
            if not live_runners(connection):
                session.chat("no worker is running: nothing is told before there is one. Start one: fwl worker")
            for event in listener:
                render.put_json(dict(event))
    return 0


def _ends(on: list[str] | None) -> list[str]:
    """Also of `failure,cancelled`."""
    ends = [end for text in on or listeners.ENDS for end in text.split(",")]
    for end in ends:
        if end not in listeners.ENDS:
            raise usage(f'--on: "{end}" is none of {", ".join(listeners.ENDS)}')
    return ends


def _address(paths: SidePaths, name: str | None) -> str:
    from ..sockets import socket_directory

    stem = f"listen-{os.getpid()}-{secrets.token_hex(4)}"
    if name is not None:  # the same one each time, and none that its spelling could lead out of the folder
        from hashlib import blake2b

        stem = "listen-" + blake2b(name.encode(), digest_size=8).hexdigest()
    return os.path.join(socket_directory(paths), f"{stem}.sock")


@contextlib.contextmanager
def _registered(connection: Connection, listener: registration.NewListener) -> Iterator[None]:
    """For as long as this lasts, or for good where it has a name of its own."""
    if listener.name != listener.address:
        registration.register_listener(connection, listener)
        yield
        return
    from ..exchange import close_lease, open_lease

    lease = open_lease(connection, leases.new_name("listener"))
    registration.register_listener(connection, listener._replace(lease=lease.name))
    try:
        yield
    finally:
        connection.write(listeners.unregister, listener.name)
        close_lease(connection, lease)


# ---- fwl listeners


def list_listeners(
    context: typer.Context,
    dead: Annotated[
        bool, typer.Option("--dead", help="What was given up, because it was too old, too much, or refused.")
    ] = False,
) -> int:
    """Who is told of ended jobs, and how much waits for them.

    fwl listeners
    fwl listeners --dead
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if context.invoked_subcommand is not None:
        return 0
    with session.open() as connection:
        return _put_dead(session, connection) if dead else _put_listeners(session, connection)


def _put_listeners(session: Session, connection: Connection) -> int:
    backlogs = {one.address: one for one in connection.read(outbox.backlogs)}
    rows = [_described(one, backlogs.pop(one.address, None)) for one in connection.read(listeners.everybody)]
    rows += [_described_callback(one) for one in backlogs.values()]
    if session.is_json:
        session.put_json("fwl.listeners/1", listeners=rows)
    elif rows:
        header = ("NAME", "TASK", "ON", "WAITING", "DEAD", "STATE", "ADDRESS")
        keys = ("name", "task", "on", "waiting", "dead", "state", "address")
        render.put_columns(header, [[_shown(row[key]) for key in keys] for row in rows])
    else:
        session.say(
            "no listeners. Register one: fwl listeners add NAME unix:///path.sock   Or: fwl listen   Or: fwl help hooks"
        )
    return 0


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else "-" if value is None else str(value)


def _described(one: listeners.Listener, backlog: outbox.Backlog | None) -> dict[str, Any]:
    state = "paused" if one.paused else "while it runs" if one.lease else "registered"
    return {
        "name": one.name,
        "address": one.address,
        "task": one.task,
        "queue": one.queue,
        "on": one.ends.split(),
        "state": state,
        "waiting": backlog.waiting if backlog else 0,
        "dead": backlog.dead if backlog else 0,
        "oldest_at": render.rfc3339(backlog.oldest) if backlog else None,
    }


def _described_callback(backlog: outbox.Backlog) -> dict[str, Any]:
    return {
        "name": None,
        "address": backlog.address,
        "task": None,
        "queue": None,
        "on": None,
        "state": "callback",
        "waiting": backlog.waiting,
        "dead": backlog.dead,
        "oldest_at": render.rfc3339(backlog.oldest),
    }


def _put_dead(session: Session, connection: Connection) -> int:
    letters = connection.read(outbox.dead_letters, 1000)
    if session.is_json:
        rows = [
            {"id": number, "address": address, "job": job, "ended_at": render.rfc3339(at), "reason": reason}
            for number, address, job, at, reason in letters
        ]
        session.put_json("fwl.listeners/1", dead=rows)
    elif letters:
        now = time.time()
        render.put_columns(
            ("JOB", "AGE", "WHY", "ADDRESS"),
            [[str(job), render.age(now - at), reason, address] for _, address, job, at, reason in letters],
        )
        session.chat("try them again: fwl listeners redeliver NAME")
    else:
        session.say("nothing was given up")
    return 0


Name = Annotated[str, typer.Argument(metavar="NAME", help="As fwl listeners shows it; an address for a callback.")]


def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Where it listens: unix:///path.sock.")],
    task: Glob = "*",
    on: On = None,
    queue: options.Queue = None,
) -> int:
    """Have whoever listens at a socket told of ended jobs, until it is removed.

    fwl listeners add app unix:///run/app.sock --task 'resize*'
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    check_address("ADDRESS", address)
    listener = registration.new_listener(address, task, queue, _ends(on), name)
    with session.open() as connection:
        registration.register_listener(connection, listener)
    session.chat(f"{render.clean(name)} is told of ended jobs from now on")
    return 0


def remove(context: typer.Context, name: Name) -> int:
    """Forget a listener, and what waits for it.

    fwl listeners remove app
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        _require(connection.write(listeners.unregister, name), connection, name)
    session.chat(f"{render.clean(name)} removed")
    return 0


def pause(context: typer.Context, name: Name) -> int:
    """Have what a listener would be told wait.

    fwl listeners pause app
    """
    return _set_paused(context, name, True)


def resume(context: typer.Context, name: Name) -> int:
    """Tell a paused listener what has waited, and go on.

    fwl listeners resume app
    """
    return _set_paused(context, name, False)


def _set_paused(context: typer.Context, name: str, is_paused: bool) -> int:
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        _require(connection.write(listeners.set_paused, name, is_paused), connection, name)
        if not is_paused:
            registration.tell_soon(connection)
    session.chat(f"{render.clean(name)} {'paused' if is_paused else 'resumed'}")
    return 0


def redeliver(context: typer.Context, name: Name) -> int:
    """Try again what was given up.

    fwl listeners redeliver app
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        known = {one.name: one.address for one in connection.read(listeners.everybody)}
        count = connection.write(outbox.redeliver, known.get(name, name))
        _require(bool(count) or name in known, connection, name)
        registration.tell_soon(connection)
    session.chat(f"{count} to be told again")
    return 0


def _require(is_there: bool, connection: Connection, name: str) -> None:
    if not is_there:
        known = ", ".join(one.name for one in connection.read(listeners.everybody)) or "none"
        raise CommandError(f'no listener "{name}". Listeners: {known}', NOT_FOUND)


# ---- fwl events


def events(
    context: typer.Context,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="OFFSET", min=0, help="Begin after this one; 0 is the oldest there is."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Have events kept for this name while it is away.")
    ] = None,
    forget: Annotated[str | None, typer.Option("--forget", metavar="NAME", help="Keep none for this name.")] = None,
) -> int:
    """Print every change of every job, one JSON object a line. They are kept while somebody follows.

    Without that, the last 1,000 are put together from the newest jobs, at offset 0.

    fwl events
    fwl events -f
    fwl events --name audit --since 1042
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if forget is not None and (name is not None or is_followed or since is not None):
        raise usage("--forget goes alone")
    with session.open() as connection:
        if forget is not None:
            if not connection.write(event_store.unfollow, forget):
                raise CommandError(f'nobody follows as "{forget}"', NOT_FOUND)
            return 0
        from ..events import follow_events

        first = since if since is not None or is_followed else 0
        is_empty = True
        if is_followed:
            session.chat("what happens from now on; Ctrl-C ends it")
        for event in follow_events(connection, since=first, name=name, is_followed=is_followed):
            if event is not None:
                is_empty = False
                render.put_json(event)
        if is_empty and first == 0:
            session.say("nothing has happened yet. Try: fwl submit -- echo hello   To see it happen: fwl events -f")
    return 0
