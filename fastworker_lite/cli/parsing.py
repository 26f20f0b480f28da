"""How the parser sees our commands: each with the options that all take, before the command's name or after it.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from . import filters, render
from .commands import COMMANDS, Entry, names_in
from .session import Session

#: The flags with which a command's exit code becomes the job's, and their parameters.
_PASS_THROUGH = {
    "submit": {"--wait": "wait", "--follow": "follow"},
    "wait": {"--exit-code": "exit_code_wanted"},
    "logs": {"--exit-code": "exit_code_wanted"},
    "cron run": {"--wait": "wait"},
}
_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


# ---- options that every command takes


def new_session() -> Session:
    """What the environment says of this call."""
    render.choose_colour(os.environ.get("FWL_COLOR") or "auto", "FWL_COLOR")
    return Session(
        is_json=_is_set("FWL_JSON"),
        is_quiet=_is_set("FWL_QUIET"),
        is_verbose=_is_set("FWL_VERBOSE"),
        is_debugged=_is_set("FWL_DEBUG"),
        is_unattended=_is_set("FWL_NO_INPUT"),
    )


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _set(name: str) -> Callable[[typer.Context, Any, Any], None]:
    def store(context: typer.Context, _: Any, value: Any) -> None:
        if value:
            setattr(context.find_object(Session), name, value)

    return store


def _set_colour(_: typer.Context, __: Any, value: str | None) -> None:
    if value is not None:
        render.choose_colour(value, "--color")


def _global_options() -> list[Any]:
    return [
        _option("--db", metavar="FILE", callback=_set("database_flag"), help="The database.  [env: FWL_DB]"),
        _option(
            "--config", metavar="FILE", callback=_set("config_flag"),
            help="The settings, instead of the nearest fastworker.toml.  [env: FWL_CONFIG]",
        ),
        _flag("--json", "is_json", "JSON on stdout.  [env: FWL_JSON]"),
        _flag("--quiet", "is_quiet", "Only what was asked for; lists print ids.  [env: FWL_QUIET]", "-q"),
        _flag("--verbose", "is_verbose", "Say which database and settings are used.  [env: FWL_VERBOSE]", "-v"),
        _option(
            "--color", metavar="auto|always|never", callback=_set_colour,
            help="Whether states are in colour.  [env: FWL_COLOR, NO_COLOR, FORCE_COLOR]",
        ),
        _flag("--no-input", "is_unattended", "Ask nothing: fail instead.  [env: FWL_NO_INPUT]"),
        _flag("--debug", "is_debugged", "With an error, show where it arose.  [env: FWL_DEBUG]"),
    ]  # fmt: skip


def _option(name: str, **said: Any) -> Any:
    return TyperOption(param_decls=[name], expose_value=False, **said)


def _flag(name: str, attribute: str, text: str, *short: str) -> Any:
    return TyperOption(
        param_decls=[*short, name], is_flag=True, default=False, expose_value=False, callback=_set(attribute), help=text
    )


#: What `_global_options` makes, as help lists them below a command's own.
GLOBAL = ("--db", "--config", "--json", "--quiet", "--verbose", "--color", "--no-input", "--debug", "--help")


# ---- commands and groups


class Command(TyperCommand):
    """A command with the global options; the words after the first that is not an option are left as they are."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if any(parameter.name == "ids" for parameter in self.params):
            self.params += filters.options({flag for parameter in self.params for flag in parameter.opts})
        self.params += _global_options()

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        """Parse, and note what an error would have to look like."""
        session = context.find_object(Session)
        name = path_of(context)
        flags = _PASS_THROUGH.get(name, {})
        session.is_pass_through = name == "run" or not flags.keys().isdisjoint(before_dashes(args))
        with _noting_errors(context, args):
            rest = super().parse_args(context, _expand_args(args) if name == "submit" else args)
        session.is_pass_through = name == "run" or any(map(context.params.get, flags.values()))
        return rest

    def collect_usage_pieces(self, context: Any) -> list[str]:
        return [one.removeprefix("{").removesuffix("}") for one in super().collect_usage_pieces(context)]

    def invoke(self, context: Any) -> Any:
        gc.freeze()  # see `main`: what is there now is not looked at again
        gc.enable()
        return super().invoke(context)

    def format_help(self, context: Any, formatter: Any) -> None:
        from .helping import format_command

        format_command(self, context, formatter)


class Group(TyperGroup):
    """The commands, each imported when it is called; one that does not exist is answered with the one that was meant."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.params += _global_options()

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        with _noting_errors(context, args):
            return super().parse_args(context, args)

    def list_commands(self, context: Any) -> list[str]:
        return names_in(path_of(context))

    def get_command(self, context: Any, name: str) -> Any:
        if name not in self.commands and name in names_in(path_of(context)):
            self.commands[name] = load(f"{path_of(context)} {name}".strip())
        return self.commands.get(name)

    def resolve_command(self, context: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and self.get_command(context, args[0]) is None:
            from .meaning import no_such_command

            with _noting_errors(context, args):
                raise no_such_command(path_of(context), args)
        return super().resolve_command(context, args)

    def format_help(self, context: Any, formatter: Any) -> None:
        from .helping import format_group

        format_group(self, context, formatter)


@contextlib.contextmanager
def _noting_errors(context: Any, args: Sequence[str]) -> Iterator[None]:
    """Have an error know its command, which the parser forgets for some, and be told in JSON where --json is to come."""
    is_json = "--json" in before_dashes(args)
    try:
        yield
    except Exception as error:
        session = context.find_object(Session)
        session.is_json = session.is_json or is_json
        if getattr(error, "ctx", context) is None:
            error.ctx = context  # type: ignore[attr-defined]
        raise


def path_of(context: Any) -> str:
    """The words after `fwl` that name this command: `cron next`."""
    path: str = context.command_path
    return path.partition(" ")[2]


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


# ---- words


def before_dashes(args: Sequence[str]) -> Iterator[str]:
    """The words up to `--`: those after it are another program's."""
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
