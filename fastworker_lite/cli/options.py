"""Options that every command takes, before the command's name or after it.

Runs in: the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from .problems import usage
from .session import Session

#: The flag with which a command's exit code becomes the job's, and its parameter.
_PASS_THROUGH = {
    "submit": ("--wait", "wait"),
    "wait": ("--exit-code", "exit_code_wanted"),
    "logs": ("--exit-code", "exit_code_wanted"),
    "cron run": ("--wait", "wait"),
}

#: What people type who come from other job runners.
_MEANT = {
    "add": "fwl submit",
    "enqueue": "fwl submit",
    "exec": "fwl run",
    "kill": "fwl cancel",
    "restart": "fwl retry",
    "rerun": "fwl retry",
    "tail": "fwl logs -f",
    "follow": "fwl logs -f",
    "output": "fwl logs",
    "explain": "fwl why",
    "list": "fwl status",
    "ps": "fwl status",
    "jobs": "fwl status",
    "info": "fwl show",
    "start": "fwl worker",
    "serve": "fwl worker",
    "schedule": "fwl cron",
    "schedules": "fwl cron list",
    "crontab": "fwl cron list",
}


#: How a paragraph of examples begins.
_EXAMPLES = ("fwl ", "*/5 ", "printf ", "crontab ")


def _set(name: str) -> Callable[[typer.Context, Any, Any], None]:
    def store(context: typer.Context, _: Any, value: Any) -> None:
        if value:
            setattr(context.find_object(Session), name, value)

    return store


def _global_options() -> list[Any]:
    return [
        TyperOption(
            param_decls=["--db"], metavar="FILE", expose_value=False, callback=_set("database_flag"),
            help="The database.  [env: FWL_DB]",
        ),
        TyperOption(
            param_decls=["--config"], metavar="FILE", expose_value=False, callback=_set("config_flag"), envvar="FWL_CONFIG",
            help="The configuration, instead of the nearest fastworker.toml.  [env: FWL_CONFIG]",
        ),
        TyperOption(
            param_decls=["--json"], is_flag=True, default=False, expose_value=False, callback=_set("is_json"),
            help="JSON on stdout.",
        ),
        TyperOption(
            param_decls=["-q", "--quiet"], is_flag=True, default=False, expose_value=False, callback=_set("is_quiet"),
            help="Only what was asked for; lists print ids.",
        ),
    ]  # fmt: skip


class Command(TyperCommand):
    """A command with the global options; the words after the first that is not an option are left as they are."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.params += _global_options()
        self.help = _keep_examples(self.help or "")

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Parse, and note what an error would have to look like."""
        session = context.find_object(Session)
        name = context.command_path.partition(" ")[2]
        flag, parameter = _PASS_THROUGH.get(name, ("", ""))
        own = list(_before_dashes(args))
        session.is_json = session.is_json or "--json" in own
        session.is_pass_through = name == "run" or flag in own
        rest = super().parse_args(context, _expand_args(args) if name == "submit" else args)
        session.is_pass_through = name == "run" or bool(context.params.get(parameter))
        return rest


def _keep_examples(text: str) -> str:
    """Have the lines of examples stay lines: the parser would fill a paragraph, unless \\b says that it is not one."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"\b\n{one}" if one.lstrip().startswith(_EXAMPLES) else one for one in paragraphs)


class Group(TyperGroup):
    """The commands; one that does not exist is answered with the one that was meant."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.params += _global_options()

        self.help = _keep_examples(self.help or "")

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            raise usage(f'no command "{name}".{self._suggestion(name)}')
        return super().resolve_command(context, args)

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        visible = [known for known, command in self.commands.items() if not command.hidden]
        close = get_close_matches(name, visible, n=1)
        meant = f"fwl {close[0]}" if close else _MEANT.get(name)
        return f" Did you mean: {meant}?" if meant else f" Commands: {' '.join(visible)}"


def _before_dashes(args: list[str]) -> Iterator[str]:
    for word in args:
        if word == "--":
            return
        yield word


def _expand_args(args: list[str]) -> list[str]:
    """FastWorker's `--args 5 3 --non-blocking` as `--args=5 --args=3 --non-blocking`."""
    if "--task-name" not in args and not any(word.startswith("--task-name=") for word in args):
        return args
    expanded, is_inside = [], False
    for word in args:
        if word.startswith("--"):
            is_inside = word == "--args"
            if not is_inside:
                expanded.append(word)
        else:
            expanded.append(f"--args={word}" if is_inside else word)
    return expanded


# ---- options that several commands share

Queue = Annotated[str | None, typer.Option("--queue", "-Q", metavar="NAME", help="The queue.")]
Priority = Annotated[
    str | None, typer.Option("--priority", metavar="P", help="low, normal, high, critical or an integer; higher first.")
]
Name = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="What to call the job.")]
Timeout = Annotated[str | None, typer.Option("--timeout", metavar="DUR", help="How long one attempt may take.")]
Retries = Annotated[int | None, typer.Option("--retries", metavar="N", help="How often a failed job is tried again.")]
RetryDelay = Annotated[str | None, typer.Option("--retry-delay", metavar="DUR", help="How long to wait before that.")]
RetryBackoff = Annotated[
    float | None, typer.Option("--retry-backoff", metavar="F", help="By what that grows each time; it is random then.")
]
RetryMaxDelay = Annotated[
    str | None, typer.Option("--retry-max-delay", metavar="DUR", help="The most it grows to.  [default: 1h]")
]
RetryOnTimeout = Annotated[bool, typer.Option("--retry-on-timeout", help="Try again also what took too long.")]
Grace = Annotated[
    str | None, typer.Option("--grace", metavar="DUR", help="From being told to end (TERM) to being ended (KILL).")
]
Notify = Annotated[
    str | None,
    typer.Option("--notify", metavar="ADDRESS", help="Tell whoever listens at this socket how it ended."),
]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="DUR", help="Do not start it after this time: it ends as expired.")
]
OnLost = Annotated[
    str | None, typer.Option("--on-lost", metavar="retry|fail", help="What becomes of the job when its worker dies.")
]
After = Annotated[
    list[str] | None, typer.Option("--after", metavar="IDS", help="Begin when these jobs have succeeded: 46 or 46,47.")
]
AfterAny = Annotated[
    list[str] | None, typer.Option("--after-any", metavar="IDS", help="Begin when these have ended, however they did.")
]
AfterFailure = Annotated[
    list[str] | None, typer.Option("--after-fail", metavar="IDS", help="Begin when one of these has failed.")
]
Unique = Annotated[
    str | None, typer.Option("--unique", metavar="KEY", help="Add nothing while a job with this key waits or runs.")
]
OnConflict = Annotated[
    str | None, typer.Option("--on-conflict", metavar="keep|fail|replace", help="What to do then.  [default: keep]")
]
IdempotencyKey = Annotated[
    str | None, typer.Option("--idempotency-key", metavar="KEY", help="Add one job in 24 hours, also if it has ended.")
]
Debounce = Annotated[
    str | None, typer.Option("--debounce", metavar="DUR", help="With --unique: begin after so long without another.")
]
Lock = Annotated[
    str | None, typer.Option("--lock", metavar="NAME", help="Of the jobs with this lock, run one at a time.")
]
SkipIfRunning = Annotated[
    bool, typer.Option("--skip-if-running", help="With --lock: add nothing while another job has or awaits it.")
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", help="Run so many of this program's jobs at a time.")
]
Rate = Annotated[str | None, typer.Option("--rate", metavar="N/s|m|h|d", help="Begin so many of them in a span.")]
Key = Annotated[str | None, typer.Option("--key", metavar="TEXT", help="Count only those with this key for that.")]
Folder = Annotated[str | None, typer.Option("--cwd", "-C", metavar="DIR", help="Where to run it, instead of here.")]
CleanEnvironment = Annotated[bool, typer.Option("--clean-env", help="Keep only PATH, HOME, USER, LANG and the like.")]
Environment = Annotated[list[str] | None, typer.Option("--env", metavar="K=V", help="Set a variable; may be repeated.")]
Shell = Annotated[
    str | None, typer.Option("-c", "--shell", metavar="STRING", help="A line for /bin/sh instead of a command.")
]
NewQueue = Annotated[bool, typer.Option("--new-queue", help="Make the queue if there is none of that name.")]
Words = Annotated[list[str] | None, typer.Argument(metavar="-- CMD [ARG...]", help="The command and its arguments.")]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="45, 40-45, @last, @failed, @active, or - for ids on stdin.")
]
TaskId = Annotated[str | None, typer.Option("--task-id", hidden=True)]
ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]
