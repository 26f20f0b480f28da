"""`fwl top`: what the job runner does, on the whole screen, while it does it.

Runs in: the command line.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from .. import changing, queueing
from ..errors import FastWorkerError
from ..job import ACTIVE, State
from ..sockets import Waker
from ..store import queries
from ..store.connection import Connection
from . import render
from .problems import describe, usage
from .program import own_command
from .session import Session
from .values import parse_duration

if TYPE_CHECKING:
    from .top_figures import Figures, Observer
    from .top_screen import Screen
    from .top_view import Target

#: Seconds.
SHORTEST = 0.1


def top(
    context: typer.Context,
    interval: Annotated[str, typer.Option("--interval", metavar="DUR", help="How often to look.")] = "1s",
) -> int:
    """Show on the whole screen what runs, waits and fails; press ? for the keys.

    fwl top
    fwl top --interval 5s
    fwl top --json

    With --json it prints the same figures once, and ends.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    seconds = parse_duration("--interval", interval) or 0.0
    if seconds < SHORTEST:
        raise usage(f"--interval: {interval} is too short; the shortest is {SHORTEST:g}s")
    if not session.is_json:
        _check_terminal()
    from .top_figures import Observer, put_json

    with session.open() as connection:
        if session.is_json:
            put_json(Observer(connection).look())
            return 0
        from .top_screen import Screen

        with Screen() as screen:
            return _View(connection, screen).show(seconds)


def _check_terminal() -> None:
    if not (render.is_terminal(sys.stdin) and render.is_terminal(sys.stdout)):
        raise usage("fwl top needs a terminal; use: fwl status, or fwl top --json")
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        raise usage("fwl top needs a terminal whose cursor it can move, and TERM says it cannot; use: fwl status")


class _View:
    """What is on the screen, and what keys do to it."""

    def __init__(self, connection: Connection, screen: Screen) -> None:
        from .top_figures import Observer
        from .top_view import Look

        self._connection = connection
        self._screen = screen
        self._waker = Waker()
        self._observer: Observer = Observer(connection)
        self._seen: Figures = self._observer.look()
        self._look = Look()
        self._number = 0
        #: Of the selected line, for when what it showed is gone.
        self._is_over = False

    def show(self, seconds: float) -> int:
        """Show it until somebody has seen enough. Returns the exit code."""
        look_at = time.monotonic() + seconds
        try:
            while True:
                self._draw()
                for key in self._screen.wait(look_at - time.monotonic()):
                    self._press(key)
                if self._screen.ended_by is not None:
                    return 128 + self._screen.ended_by
                if self._is_over:
                    return 0
                if time.monotonic() >= look_at:
                    self._seen = self._observer.look()
                    look_at = time.monotonic() + seconds
        finally:
            self._waker.close()

    def _draw(self) -> None:
        from .top_view import lines

        self._look = replace(self._look, selected=self._selected())
        place, clock = self._connection.paths.database, time.strftime("%H:%M:%S")
        self._screen.draw(lines(self._seen, self._observer.history, self._look, place, self._screen.size, clock))

    def _selected(self) -> Target | None:
        """What was selected, where it still is; or what has come in its place."""
        from .top_view import targets

        everything = targets(self._seen)
        if not everything:
            return None
        if self._look.selected in everything:
            self._number = everything.index(self._look.selected)
        self._number = min(self._number, len(everything) - 1)
        return everything[self._number]

    # ---- keys

    def _press(self, key: str) -> None:
        if key == "ctrl-c":
            self._screen.ended_by = signal.SIGINT
        elif key == "ctrl-z":
            self._screen.suspend()
        elif self._look.is_help:
            self._look = replace(self._look, is_help=False)
        elif key == "q":
            self._is_over = True
        else:
            answer = self._answer(key)
            self._look = replace(self._look, answer=answer, is_help=key == "?")

    def _answer(self, key: str) -> str | None:
        """Do what this key is for. Returns what there is to say."""
        if key in _STEPS:
            self._step(_STEPS[key])
            return None
        act = {"l": self._show_log, "c": self._cancel, "r": self._retry, "p": self._pause}.get(key)
        if act is None:
            return None
        target = self._selected()
        if target is None or (target.job is None and key != "p"):
            return "select a job first: up and down, or k and j"
        try:
            return act(target)
        except FastWorkerError as error:
            return describe(error, is_pass_through=False).message
        finally:
            self._observer.forget()
            self._seen = self._observer.look()

    def _step(self, by: int) -> None:
        from .top_view import targets

        everything = targets(self._seen)
        if everything:
            self._selected()  # it may have moved
            self._number = (self._number + by) % len(everything)
            self._look = replace(self._look, selected=everything[self._number])

    def _show_log(self, target: Target) -> str | None:
        job = self._connection.read(queries.get, target.job or 0)
        if job is None or not job.attempt:
            return f"job {target.job} has not begun"
        words = ["logs", "--escape", "--db", self._connection.paths.database, str(job.id)]
        self._screen.page([*own_command(), *words])
        return None

    def _cancel(self, target: Target) -> str:
        found = changing.cancel(self._connection, self._waker, target.job or 0)
        if found == State.RUNNING:
            return f"job {target.job} is being ended"
        return f"job {target.job} cancelled" if found in ACTIVE else f"job {target.job} has ended already: {found}"

    def _retry(self, target: Target) -> str:
        found = changing.retry(self._connection, self._waker, target.job or 0)
        if found in changing.RETRIED:
            return f"job {target.job} queued again"
        return f"job {target.job} is {found}: there is nothing to run again"

    def _pause(self, target: Target) -> str:
        [is_paused] = [row.paused for row in self._seen.queues if row.name == target.queue] or [0]
        queueing.change_queue(self._connection, self._waker, target.queue, {"paused": int(not is_paused)})
        return f'queue "{target.queue}" {"resumed" if is_paused else "paused: what runs goes on, nothing begins"}'


_STEPS = {"up": -1, "k": -1, "down": 1, "j": 1}
