"""`fwl` itself: what there is before the name of a command.

Runs in: the command line.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import parsing
from .session import Session


def app() -> Any:
    """The parser of the whole command line. The commands are in `commands`."""
    return parsing.group(without_command, "fwl")


def without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> int:
    """Run jobs from one SQLite file. Without a command: fwl status."""
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if version:
        from .versions import put_version

        raise typer.Exit(put_version(session))
    if context.invoked_subcommand is None:
        from .listing import put_default

        return put_default(session)
    return 0
