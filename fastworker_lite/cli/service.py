"""`fwl service`: a worker that the machine starts, with systemd or launchd; or a line for cron.

Runs in: the command line.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from . import render
from .problems import NOT_FOUND, UNAVAILABLE, CommandError, usage
from .session import Session

if TYPE_CHECKING:
    from .managers import Launchd, Systemd
    from .units import Service

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="What the service is called.")]
_DEFAULT_NAME = "fastworker"


def group(context: typer.Context) -> int:
    """A worker that the machine keeps running. Without a command: fwl service status.

    fwl service install
    fwl service status
    fwl service uninstall
    """
    return status(context) if context.invoked_subcommand is None else 0


def install(
    context: typer.Context,
    name: Name = _DEFAULT_NAME,
    is_printed: Annotated[bool, typer.Option("--print", help="Only print the file that would be written.")] = False,
    is_cron: Annotated[bool, typer.Option("--cron", help="Print a line for crontab -e instead.")] = False,
    is_launchd: Annotated[bool, typer.Option("--launchd", help="As on macOS.")] = False,
) -> int:
    """Start a worker for this database, now and whenever you log in, and say each step.

    fwl service install
    fwl service install --print
    fwl service install --cron
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    service = _service(session, name)
    if is_cron:
        from .units import crontab_line

        return _put_text(session, service, "cron", None, crontab_line(service) + "\n")
    manager = _manager(session, service, is_launchd=is_launchd)
    if is_printed:
        return _put_text(session, service, manager.kind, manager.file, manager.text)
    manager.install()
    return _put_state(session, service, manager) if session.is_json else 0


def uninstall(context: typer.Context, name: Name = _DEFAULT_NAME) -> int:
    """Stop that worker, and remove what install has written.

    fwl service uninstall
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    service = _service(session, name)
    manager = _manager(session, service)
    if os.path.lexists(manager.file):
        manager.uninstall()
    else:
        session.say(f"nothing to remove: there is no {render.clean(manager.file)}")
    return _put_state(session, service, manager) if session.is_json else 0


def status(context: typer.Context, name: Name = _DEFAULT_NAME) -> int:
    """Say whether that worker runs, and exit with 0 when it does, 69 when not, 3 when it is not installed.

    fwl service status
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    service = _service(session, name)
    manager = _manager(session, service)
    is_installed, state = os.path.lexists(manager.file), manager.state()
    if session.is_json:
        _put_state(session, service, manager)
    elif not is_installed:
        raise CommandError(f"service {name} is not installed", NOT_FOUND, "Install it: fwl service install")
    else:
        print(render.clean(f"{name} {'runs' if state.is_active else 'does not run'} ({manager.file})"))
        manager.note_linger(state)
    if not is_installed:
        return NOT_FOUND
    return 0 if state.is_active else UNAVAILABLE


def _service(session: Session, name: str) -> Service:
    from .units import Service

    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise usage(f'--name: "{name}" must begin with a letter or digit, and hold no more than those and . _ -')
    path = session.config.path
    return Service(
        name=name,
        database=session.database,
        config=None if path is None else os.path.abspath(path),
        stop_timeout=session.config.stop_timeout,
    )


def _manager(session: Session, service: Service, *, is_launchd: bool = False) -> Systemd | Launchd:
    from .managers import Launchd, Systemd

    return (Launchd if is_launchd or sys.platform == "darwin" else Systemd)(session, service)


def _put_text(session: Session, service: Service, kind: str, file: str | None, text: str) -> int:
    if session.is_json:
        session.put_json("fwl.service/1", name=service.name, manager=kind, file=file, text=text)
    else:
        sys.stdout.write(text)
    return 0


def _put_state(session: Session, service: Service, manager: Systemd | Launchd) -> int:
    state = manager.state()
    session.put_json(
        "fwl.service/1",
        name=service.name,
        manager=manager.kind,
        file=manager.file,
        installed=os.path.lexists(manager.file),
        active=state.is_active,
        enabled=state.is_enabled,
        linger=state.is_lingering,
        db=service.database,
    )
    return 0
