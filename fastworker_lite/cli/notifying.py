"""`fwl notify test`: whether a listener, or the hooks of the configuration, would be told.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .problems import FAILED, CommandError
from .session import Session
from .values import check_address

if TYPE_CHECKING:
    from ..store.outbox import Message

#: Seconds that a listener has to answer.
PATIENCE = 5.0


def group(context: typer.Context) -> int:
    """Try whether the ends of jobs are told.

    fwl notify test

    Who is told, and how: fwl help hooks
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
    return 0


def test(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(metavar="[ADDRESS]", help="A listener's socket; the hooks of the configuration without."),
    ] = None,
) -> int:
    """Tell a listener, or the configured hooks, of a job that never was, and say what came of it.

    fwl notify test unix:///run/app.sock
    fwl notify test
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if target is not None:
        check_address("ADDRESS", target)
    problems = _tell_listener(target) if target is not None else _run_hooks(session)
    for problem in problems:
        render.say(f"error: {render.clean(problem)}")
    if not problems:
        session.chat("told, and answered" if target is not None else "the hooks ran")
    return FAILED if problems else 0


def _tell_listener(address: str) -> list[str]:
    """Send one event as a runner would, and wait for its acknowledgement. Returns what went wrong."""
    from .. import streams
    from ..callbacks import compose

    path = streams.callback_path(address)
    event_id = f"test-{time.time_ns()}"
    try:
        with contextlib.closing(streams.connect(path)) as connection:
            connection.setblocking(True)
            connection.settimeout(PATIENCE)
            connection.sendall(compose(event_id, _sample()))
            answer = connection.makefile("rb").readline().decode(errors="replace").strip()
    except TimeoutError:
        return [f"{path}: it was told, and has not answered within {PATIENCE:g} s"]
    except OSError as error:
        return [f"nobody listens at {path}: {error.strerror or error}"]
    return [] if answer == f"ok {event_id}" else [f"{path}: it answered {answer!r}, where ok {event_id} was due"]


def _run_hooks(session: Session) -> list[str]:
    """Run each hook once. Returns what went wrong."""
    import asyncio

    from ..hooks import try_hooks

    if not session.config.hooks.is_wanted:
        raise CommandError("there are no hooks in the configuration", FAILED, "How they are made: fwl help hooks")
    return asyncio.run(try_hooks(session.config.hooks, session.database, _sample()))


def _sample() -> Message:
    from ..store.outbox import Message

    now = time.time()
    return Message(0, 0, "fwl notify test", 1, "succeeded", None, None, now - 1.0, now, None, '{"result":"a test"}')
