"""The commands of `fwl`.

Runs in: the command line.
"""

from __future__ import annotations

from typing import Annotated

import typer

from . import (
    cancelling,
    cron,
    cron_acting,
    cron_check,
    cron_history,
    cron_import,
    cron_next,
    details,
    draining,
    explaining,
    listing,
    notifying,
    pruning,
    queueing,
    reading,
    retrying,
    running,
    serving,
    submitting,
    telling,
    waiting,
)
from .options import Command, Group
from .session import Session

app = typer.Typer(
    cls=Group,
    name="fwl",
    help="Run jobs from one SQLite file. Without a command: fwl status.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: For commands that are followed by another program's words, and those options are not ours.
_FOREIGN_WORDS = {"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]}
_SETTINGS = {"help_option_names": ["-h", "--help"]}


@app.callback()
def without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False,
) -> int:
    """Run jobs from one SQLite file. Without a command: fwl status."""
    if version:
        raise typer.Exit(details.put_version(context.find_object(Session)))  # type: ignore[arg-type]
    return 0 if context.invoked_subcommand else listing.put_default(context.find_object(Session))  # type: ignore[arg-type]


app.command("submit", cls=Command, context_settings=_FOREIGN_WORDS)(submitting.submit)
app.command("run", cls=Command, context_settings=_FOREIGN_WORDS)(running.run)
app.command("status", cls=Command, context_settings=_SETTINGS)(listing.status)
app.command("ls", cls=Command, context_settings=_SETTINGS, hidden=True)(listing.status)
app.command("show", cls=Command, context_settings=_SETTINGS)(details.show)
app.command("logs", cls=Command, context_settings=_SETTINGS)(reading.logs)
app.command("why", cls=Command, context_settings=_SETTINGS)(explaining.why)
app.command("wait", cls=Command, context_settings=_SETTINGS)(waiting.wait)
app.command("cancel", cls=Command, context_settings=_SETTINGS)(cancelling.cancel)
app.command("retry", cls=Command, context_settings=_SETTINGS)(retrying.retry)
app.command("worker", cls=Command, context_settings=_SETTINGS)(serving.worker)
app.command("drain", cls=Command, context_settings=_SETTINGS)(draining.drain)
app.command("listen", cls=Command, context_settings=_SETTINGS)(telling.listen)
app.command("events", cls=Command, context_settings=_SETTINGS)(telling.events)
app.command("prune", cls=Command, context_settings=_SETTINGS)(pruning.prune)
app.command("version", cls=Command, context_settings=_SETTINGS)(details.version)

listeners = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=_SETTINGS)
listeners.callback(invoke_without_command=True)(telling.list_listeners)
for name in ("add", "remove", "pause", "resume", "redeliver"):
    listeners.command(name, cls=Command, context_settings=_SETTINGS)(getattr(telling, name))
app.add_typer(listeners, name="listeners")

queue = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=_SETTINGS)
queue.callback(invoke_without_command=True)(queueing.list_queues)
queue.command("list", cls=Command, context_settings=_SETTINGS)(queueing.list_)
queue.command("set", cls=Command, context_settings=_SETTINGS)(queueing.set_)
queue.command("add", cls=Command, context_settings=_SETTINGS, hidden=True)(queueing.set_)
for name in ("pause", "resume", "remove"):
    queue.command(name, cls=Command, context_settings=_SETTINGS)(getattr(queueing, name))
app.add_typer(queue, name="queue")

notify = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=_SETTINGS, help="Try how ends are told.")
notify.callback()(notifying.group)
notify.command("test", cls=Command, context_settings=_SETTINGS)(notifying.test)
app.add_typer(notify, name="notify")

schedules = typer.Typer(cls=Group, rich_markup_mode=None, context_settings=_SETTINGS)
schedules.callback(invoke_without_command=True)(cron.without_command)
schedules.command("list", cls=Command, context_settings=_SETTINGS)(cron.list_schedules)
schedules.command("next", cls=Command, context_settings=_SETTINGS)(cron_next.next_ticks)
schedules.command("check", cls=Command, context_settings=_SETTINGS)(cron_check.check)
schedules.command("import", cls=Command, context_settings=_SETTINGS)(cron_import.import_crontab)
schedules.command("history", cls=Command, context_settings=_SETTINGS)(cron_history.history)
for name in ("run", "pause", "resume"):
    schedules.command(name, cls=Command, context_settings=_SETTINGS)(getattr(cron_acting, name))
app.add_typer(schedules, name="cron")
