"""`fwl db`: where the database is, whether it is whole, and a copy of it.

Runs in: the command line.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..errors import StorageError
from ..store import checking
from ..store.connection import Connection
from ..store.create import SCHEMA_VERSION
from . import render
from .problems import DATA, NOT_FOUND, REFUSED, CommandError, usage
from .session import Session


def group(context: typer.Context) -> int:
    """Where the database is, whether it is whole, and a copy of it. Without a command: fwl db path.

    fwl db check
    fwl db backup jobs-$(date +%F).db
    """
    return path(context) if context.invoked_subcommand is None else 0


def path(context: typer.Context) -> int:
    """Print the path of the database that commands here speak to, whether it exists or not.

    fwl db path
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    database = session.find_database()
    if session.is_json:
        session.put_json("fwl.db_path/1", path=database, exists=os.path.exists(database))
    else:
        render.put_path(database)
    return 0


def check(context: typer.Context) -> int:
    """Read the whole database, and say what is wrong with it. Exit 0 when nothing is, 65 when it is damaged.

    fwl db check
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open_existing() as connection:
        file = _existing(session, connection)
        found = file.read(checking.faults)
    if session.is_json:
        session.put_json("fwl.db_check/1", path=file.paths.database, problems=found)
    elif found:
        for line in found:
            print(render.clean(line))
        session.say("Keep a copy of it as it is, and go back to a backup (see: fwl db backup -h)")
    elif not session.is_quiet:
        print(f"no problems in {render.clean(file.paths.database)}")
    return DATA if found else 0


def backup(
    context: typer.Context,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The copy; there must be no file of this name.")],
) -> int:
    """Copy the database into a new file, as it is at one moment; workers go on meanwhile.

    The copy is a database like this one: fwl --db FILE status. The output of jobs is in files beside the database, and
    stays there. To go back to it, stop what works on the database (fwl stop), and put the copy in its place, without the
    files DATABASE-wal and DATABASE-shm.

    fwl db backup jobs-$(date +%F).db
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open_existing() as connection:
        file = _existing(session, connection)
        size = _back_up(file, target)
    if session.is_json:
        session.put_json("fwl.backup/1", path=os.path.abspath(target), bytes=size)
    else:
        session.chat(f"{render.size(size)} in {render.clean(target)}")
    return 0


def _back_up(connection: Connection, target: str) -> int:
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise usage(f"there is no folder {folder}", f"Create it: mkdir -p {folder}")
    try:
        return connection.read(checking.back_up, target)
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise CommandError(f"{target} exists; a backup replaces nothing", REFUSED, "Name a new file") from error
        raise


def migrate(context: typer.Context) -> int:
    """Bring the database to the schema of this version. There is only one so far.

    fwl db migrate
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open_existing() as connection:
        _existing(session, connection)
    if session.is_json:
        session.put_json("fwl.migrate/1", schema_version=SCHEMA_VERSION, changed=False)
    else:
        print(f"schema {SCHEMA_VERSION}, nothing to do")
    return 0


def _existing(session: Session, connection: Connection | None) -> Connection:
    if connection is None:
        hint = "The first job makes it: fwl submit -- echo hello"
        raise CommandError(f"there is no database at {session.find_database()}", NOT_FOUND, hint)
    return connection
