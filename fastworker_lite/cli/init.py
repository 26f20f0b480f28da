"""`fwl init`: a file for the settings, to begin with.

Runs in: the command line.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from .. import config as configuration
from . import render
from .problems import REFUSED, CommandError, usage
from .session import Session

TEMPLATE = """\
# Settings of fastworker_lite for this folder and all below it. What is commented out is an example.
# Every setting and its value: fwl config show --sources      Is all of it right: fwl config check

# The database, from this file's folder on. Keep its folder out of version control.
db = ".fastworker/fwl.db"

# Worker processes; 0 is one for each core.
workers = 0

# Modules in this folder that declare tasks, for the workers to import.
tasks = []
# tasks = ["mytasks"]

# What jobs are given where neither they nor their tasks say anything.
[job]
# timeout = "1h"
# retries = 3
# retry_delay = "10s"

# How many jobs of a queue run at a time, and how many begin in a span.
[queue]
# io = { workers = 2, rate = "100/h" }

# What is run by the clock. See when: fwl cron next
[cron]
# nightly = { schedule = "30 2 * * *", command = ["/usr/local/bin/backup.sh"], timeout = "2h" }

# What is run when jobs end.
[hooks]
# on_failure = ["notify-send", "a job failed"]
"""

_NEXT = """\
submit a job: fwl submit -- echo hello
run jobs:     fwl worker"""


def init(
    context: typer.Context,
    folder: Annotated[str, typer.Option("--dir", metavar="DIR", help="Where, instead of here.")] = ".",
) -> int:
    """Make a fastworker.toml with comments, and nothing else. Jobs of this folder are then kept in a database of its own.

    fwl init
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if not os.path.isdir(folder):
        raise usage(f"--dir: there is no folder {folder}", f"Create it: mkdir -p {folder}")
    file = os.path.join(os.path.abspath(folder), configuration.FILE_NAME)
    _refuse_second(folder, file)
    try:
        with open(file, "x", encoding="utf-8") as new:
            new.write(TEMPLATE)
    except FileExistsError:
        raise CommandError(f"{file} exists, and stays as it is", REFUSED, "See what it says: fwl config show") from None
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", REFUSED, f"Is the folder yours? ls -ld {folder}") from error
    if session.is_json:
        session.put_json("fwl.init/1", path=file)
    else:
        render.put_path(file)
        session.chat(_NEXT)
    return 0


def _refuse_second(folder: str, file: str) -> None:
    """A pyproject.toml with settings would be read no longer."""
    other = os.path.join(os.path.abspath(folder), configuration.PYPROJECT)
    if not os.path.lexists(file) and os.path.isfile(other) and configuration.read_pyproject(other) is not None:
        raise CommandError(
            f"{other} has the settings of this folder, in [tool.fastworker]", REFUSED, "See them: fwl config show"
        )
