"""`fwl stop`: tell the `fwl worker` of this file to end.

Runs in: the command line.
"""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from .. import leases
from ..store.connection import Connection
from ..store.runners import RunnerRow
from .problems import FAILED, NOT_FOUND, UNAVAILABLE, CommandError
from .session import Session, live_runners

_NO_RUNNER = "no fwl worker serves this file"


def stop(
    context: typer.Context,
    now: Annotated[bool, typer.Option("--now", help="End running jobs, too, instead of waiting for them.")] = False,
    pid: Annotated[int | None, typer.Option("--pid", metavar="N", help="Only this one; see fwl workers.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is gone.")] = False,
) -> int:
    """Tell fwl worker to stop: it begins no more jobs, lets those that run end, and exits. Told twice, it ends them.

    A runner in another program, and fwl drain, are left alone.

    fwl stop
    fwl stop --now
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open_existing() as connection:
        told = {row: _tell(row, lease, is_twice=now) for row, lease in _find(connection, pid)}
    stopping = {descriptor: row for row, descriptor in told.items() if descriptor is not None}
    left = [row for row, descriptor in told.items() if descriptor is None]
    stopped = [row.pid for row in stopping.values()]
    _report_left(session, left, is_alone=not stopping)
    if not no_wait:
        _wait(session, stopping, is_now=now)
    if session.is_json:
        session.put_json(
            "fwl.stop/1",
            stopped=stopped,
            is_gone=not no_wait,
            left=[{"pid": row.pid, "role": row.role} for row in left],
        )
    return 0


def _find(connection: Connection | None, pid: int | None) -> list[tuple[RunnerRow, str]]:
    """The live runners that are meant, with their leases."""
    rows = live_runners(connection) if connection is not None else []
    if connection is None or not rows:
        raise CommandError(_NO_RUNNER, UNAVAILABLE, "Start one: fwl worker")
    if pid is not None and pid not in {row.pid for row in rows}:
        raise CommandError(f"no runner of this file is process {pid}", NOT_FOUND, "See them: fwl workers")
    return [(row, connection.paths.lease(row.lease)) for row in rows if pid in (None, row.pid)]


def _tell(row: RunnerRow, lease: str, *, is_twice: bool) -> int | None:
    """A descriptor that becomes readable when the process is gone; None for one that is not ours to stop."""
    from ..watches import watch_process

    # Held before the look at the lease: whoever has the number then is whoever gets the signal.
    descriptor = watch_process(row.pid) if row.role == "worker" else None
    if descriptor is None:
        return None
    if not leases.is_held_by(lease, row.pid):
        os.close(descriptor)
        return None
    try:
        # Two of a kind may arrive as one.
        for number in (signal.SIGTERM, signal.SIGINT) if is_twice else (signal.SIGTERM,):
            _send(row.pid, descriptor, number)
    except ProcessLookupError:
        pass  # it has ended meanwhile, and the descriptor says so
    except PermissionError:
        raise CommandError(f"process {row.pid} belongs to another user", FAILED, f"sudo kill {row.pid}") from None
    return descriptor


def _send(pid: int, descriptor: int, number: int) -> None:
    if hasattr(signal, "pidfd_send_signal"):
        signal.pidfd_send_signal(descriptor, number)
    else:
        os.kill(pid, number)


_WHY_LEFT = {
    "worker": "process {} could not be told: it runs in another container, or has just ended",
    "drain": "process {} is fwl drain, which ends by itself when the queue is empty",
    "embedded": "process {} is a program that runs jobs itself; end that program (see: ps -p {})",
}


def _report_left(session: Session, rows: list[RunnerRow], *, is_alone: bool) -> None:
    lines = [_WHY_LEFT.get(row.role, _WHY_LEFT["embedded"]).format(row.pid, row.pid) for row in rows]
    if is_alone:
        raise CommandError(_NO_RUNNER, UNAVAILABLE, "\n".join(lines))
    for line in lines:
        session.say(f"left alone: {line}")


def _wait(session: Session, running: dict[int, RunnerRow], *, is_now: bool) -> None:
    from ..sockets import wait_readable

    for row in running.values():
        session.chat(f"stopping {row.pid}" + ("" if is_now else "; running jobs may end (fwl stop --now ends them)"))
    while running:
        for descriptor in wait_readable(running, None):
            os.close(descriptor)
            session.chat(f"{running.pop(descriptor).pid} has stopped")
