"""How the parser sees our commands: each with the options that all take, before the command's name or after it.

Runs in: the command line.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from . import filters
from .commands import COMMANDS, Entry, names_in
from .problems import usage
from .session import Session

#: The flags with which a command's exit code becomes the job's, and their parameters.
_PASS_THROUGH = {
    "submit": {"--wait": "wait", "--follow": "follow"},
    "wait": {"--exit-code": "exit_code_wanted"},
    "logs": {"--exit-code": "exit_code_wanted"},
    "cron run": {"--wait": "wait"},
}

#: What people type who come from other job runners.
_MEANT = {
    "add": "fwl submit",
    "enqueue": "fwl submit",
    "exec": "fwl run",
    "kill": "fwl cancel",
    "restart": "fwl retry",
    "rerun": "fwl retry",
    "monitor": "fwl top",
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
        if any(parameter.name == "ids" for parameter in self.params):
            self.params += filters.options({flag for parameter in self.params for flag in parameter.opts})
        self.params += _global_options()
        self.help = _keep_examples(self.help or "")

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Parse, and note what an error would have to look like."""
        session = context.find_object(Session)
        name = context.command_path.partition(" ")[2]
        flags = _PASS_THROUGH.get(name, {})
        own = list(_before_dashes(args))
        session.is_json = session.is_json or "--json" in own
        session.is_pass_through = name == "run" or not flags.keys().isdisjoint(own)
        rest = super().parse_args(context, _expand_args(args) if name == "submit" else args)
        session.is_pass_through = name == "run" or any(map(context.params.get, flags.values()))
        return rest

    def invoke(self, context: Any) -> Any:
        gc.enable()  # see `main`
        return super().invoke(context)


def _keep_examples(text: str) -> str:
    """Have the lines of examples stay lines: the parser would fill a paragraph, unless \\b says that it is not one."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"\b\n{one}" if one.lstrip().startswith(_EXAMPLES) else one for one in paragraphs)


class Group(TyperGroup):
    """The commands, each imported when it is called; one that does not exist is answered with the one that was meant."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.params += _global_options()
        self.help = _keep_examples(self.help or "")

    def list_commands(self, context: Any) -> list[str]:
        return names_in(self._path)

    def get_command(self, context: Any, name: str) -> Any:
        if name not in self.commands and name in names_in(self._path):
            self.commands[name] = load(f"{self._path} {name}".strip())
        return self.commands.get(name)

    @property
    def _path(self) -> str:
        return "" if self.name == "fwl" else self.name or ""

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        name = args[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            raise usage(f'no command "{name}".{self._suggestion(name)}')
        return super().resolve_command(context, args)

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        visible = [known for known in names_in(self._path) if not COMMANDS[f"{self._path} {known}".strip()].is_hidden]
        close = get_close_matches(name, visible, n=1)
        meant = f"fwl {close[0]}" if close else _MEANT.get(name)
        return f" Did you mean: {meant}?" if meant else f" Commands: {' '.join(visible)}"


def load(path: str) -> Any:
    """The command of this name as the parser knows it. Imports the module that it is in."""
    entry, name = COMMANDS[path], path.rpartition(" ")[2]
    module, _, function = entry.function.partition(":")
    callback = getattr(import_module(f".{module}", __package__), function)
    return group(callback, name) if names_in(path) else _command(callback, name, entry)


def group(callback: Callable[..., Any], name: str) -> Any:
    """The commands of this name; *callback* runs before each, and alone where none is named."""
    one = typer.Typer(
        cls=Group, name=name, add_completion=False, rich_markup_mode=None, context_settings=dict(_SETTINGS)
    )
    one.callback(invoke_without_command=True)(callback)
    return typer.main.get_command(one)


def _command(callback: Callable[..., Any], name: str, entry: Entry) -> Any:
    one = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = _SETTINGS | {"allow_interspersed_args": not entry.is_before_words}
    one.command(name, cls=Command, hidden=entry.is_hidden, context_settings=settings)(callback)
    return typer.main.get_command(one)


_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


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
