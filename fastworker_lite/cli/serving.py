"""`fwl worker` and `fwl drain`: run the queue, for good or until it is empty.

Runs in: the command line.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from .. import config as configuration
from ..errors import ConfigError
from ..settings import Config
from . import options, render
from .problems import CONFIG, USAGE, CommandError, usage
from .session import Session, check_queues
from .values import parse_duration

if TYPE_CHECKING:
    from queue import SimpleQueue

    from ..runner import Runner

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


def worker(
    context: typer.Context,
    workers: Workers = None,
    tasks: Modules = None,
    queues: Queues = None,
    new_queue: options.NewQueue = False,
    stop_timeout: Annotated[
        str | None, typer.Option("--stop-timeout", metavar="DUR", help="How long jobs may go on after a stop.")
    ] = None,
) -> int:
    """Run jobs until told to stop by TERM or Ctrl-C; told twice, running jobs are ended.

    fwl worker --workers 4 --tasks mytasks
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    config = prepare(session, workers, tasks, queues, new_queue, parse_duration("--stop-timeout", stop_timeout))
    from queue import SimpleQueue

    from ..runner import Runner

    happened: SimpleQueue[int] = SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: happened.put(number))
    runner = Runner(session.database, config)
    runner.start()
    _put_banner(session, config)
    _serve(session, runner, happened)
    if runner.error is not None:
        raise runner.error
    return 0


def _put_banner(session: Session, config: Config) -> None:
    count = config.worker_count
    served = f"{count} worker{'s' if count != 1 else ''}"
    line = f"fastworker_lite {__version__} · db {session.database} · {served} · pid {os.getpid()}"
    encoding = (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "")
    session.say(render.clean(line if encoding == "utf8" else line.replace("·", "-")))


def _serve(session: Session, runner: Runner, happened: SimpleQueue[int]) -> None:
    """Sleep until the runner has ended. Signals are passed on to it from here: a handler that runs in it could block it."""
    from threading import Thread

    def tell_the_end() -> None:
        runner.join()
        happened.put(0)

    Thread(target=tell_the_end, daemon=True).start()
    is_stopping = False
    while happened.get():
        session.say("stopping at once" if is_stopping else "stopping: running jobs may end (again to end them now)")
        is_stopping = True
        runner.stop()
    session.say("stopped")


# ---- what both need


def prepare(
    session: Session,
    workers: int | None,
    tasks: Sequence[str] | None,
    queues: Sequence[str] | None,
    makes_queues: bool = False,
    stop_timeout: float | None = None,
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
            )
            if value is not None
        },
    )
    with session.open() as connection:
        if queues and not makes_queues:
            check_queues(connection, set(queues))
    _import_tasks(config, is_from_file=not tasks)
    _check_schedules(config)
    return config


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
