"""`fwl worker` and `fwl drain`: run the queue, for good or until it is empty.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import config as configuration
from .. import interpreters
from ..errors import ConfigError
from ..settings import Config
from . import options
from .problems import CONFIG, USAGE, CommandError, usage
from .session import Session, check_queues
from .values import parse_duration

Workers = Annotated[
    int | None, typer.Option("--workers", metavar="N", min=1, max=512, help="Worker processes; one for each core.")
]
Modules = Annotated[
    list[str] | None,
    typer.Option(
        "--tasks", "--task-modules", metavar="MODULE", help="Import the tasks of this module; may be repeated."
    ),
]
Queues = Annotated[
    list[str] | None, typer.Option("--queue", "-Q", metavar="NAME", help="Serve only this queue; may be repeated.")
]

Python = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PATH",
        help="Run tasks in this Python, a program or a virtual environment; nothing needs to be installed there.",
    ),
]


def worker(
    context: typer.Context,
    workers: Workers = None,
    tasks: Modules = None,
    python: Python = None,
    queues: Queues = None,
    new_queue: options.NewQueue = False,
    stop_timeout: Annotated[
        str | None, typer.Option("--stop-timeout", metavar="DUR", help="How long jobs may go on after a stop.")
    ] = None,
    idle_exit: Annotated[
        str | None,
        typer.Option(
            "--idle-exit",
            metavar="DUR",
            envvar="FWL_IDLE_EXIT",
            show_envvar=False,
            help="Stop when there was nothing to do for so long.  [env: FWL_IDLE_EXIT]",
        ),
    ] = None,
    no_cron: Annotated[bool, typer.Option("--no-cron", help="Leave the schedules to others.")] = False,
    log_file: Annotated[
        str | None, typer.Option("--log-file", metavar="FILE", help="Write there what would be printed here.")
    ] = None,
    starting_lock: Annotated[int | None, typer.Option("--starting-lock", hidden=True)] = None,
) -> int:
    """Run jobs until told to stop by TERM or Ctrl-C; told twice, running jobs are ended.

    HUP has it read the configuration again: schedules, queues, listeners, hooks and what to keep.

    fwl worker --workers 4 --tasks mytasks
    fwl worker --idle-exit 10m
    fwl worker --python .venv/bin/python --tasks mytasks
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    patience, idle = parse_duration("--stop-timeout", stop_timeout), parse_duration("--idle-exit", idle_exit)

    def configured() -> Config:
        return prepare(session.renewed(), workers, tasks, queues, new_queue, patience, python)

    from .foreground import Foreground

    foreground = Foreground(session, configured, log_file)
    return foreground.serve(idle_exit=idle, has_cron=not no_cron, starting_lock=starting_lock)


# ---- what both need


def prepare(
    session: Session,
    workers: int | None,
    tasks: Sequence[str] | None,
    queues: Sequence[str] | None,
    makes_queues: bool = False,
    stop_timeout: float | None = None,
    python: str | None = None,
) -> Config:
    """The settings with the options laid over them, once the task modules are known to import."""
    config = configuration.with_overrides(
        session.config,
        **{
            name: value
            for name, value in (
                ("workers", workers),
                ("tasks", list(tasks) if tasks else None),
                ("queues", list(queues) if queues else None),
                ("stop_timeout", stop_timeout),
                ("python", python or interpreters.default(session.config)),
            )
            if value is not None
        },
    )
    with session.open() as connection:
        if queues and not makes_queues:
            check_queues(connection, set(queues) - session.declared_queues)
    if (program := interpreters.chosen(config)) is None:
        _import_tasks(config, is_from_file=not tasks)
    else:
        _import_tasks_there(config, program)
    _check_schedules(config)
    return config


def _import_tasks_there(config: Config, program: str) -> None:
    """As `_import_tasks`, in the other Python: a trouble is told once and at once."""
    from ..errors import ImportTrouble
    from ..foreign import Setup, survey

    try:
        survey(Setup(program, interpreters.module_folders(config), config.tasks))
    except ImportTrouble as error:
        where = f"cwd {os.getcwd()}\n  python {program}; the one that fwl runs in is --python {interpreters.BUILT_IN}"
        if error.sys_path:
            where += f"\n  sys.path {os.pathsep.join(error.sys_path)}"
        raise CommandError(str(error), USAGE, where) from error


def _check_schedules(config: Config) -> None:
    if not config.cron:
        return
    from ..declarations import from_config

    try:
        from_config(config)
    except ConfigError as error:
        raise CommandError(str(error), CONFIG, "All of them: fwl cron check") from error


def _import_tasks(config: Config, *, is_from_file: bool) -> None:
    """Import them here first: an error is told once and at once, not by each worker."""
    if not config.tasks:
        return
    folder = os.path.dirname(os.path.abspath(config.path)) if is_from_file and config.path else os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    from importlib import import_module

    for module in config.tasks:
        try:
            import_module(module)
        except Exception as error:
            where = f"cwd {os.getcwd()}\n  sys.path {os.pathsep.join(sys.path)}"
            message = f"cannot import {module}: {type(error).__name__}: {error}"
            raise CommandError(message, USAGE, where) from error
        except SystemExit as error:
            raise usage(f"cannot import {module}: it calls exit({error.code})") from error
