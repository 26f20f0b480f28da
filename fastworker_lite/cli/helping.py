"""`fwl help`, and how the help of a command is laid out: what it does, examples, options under headings.

Runs in: the command line.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from . import render
from .commands import COMMANDS, HEADINGS, entries_in
from .parsing import GLOBAL, path_of
from .problems import usage
from .session import Session
from .topics import TOPICS, find

#: The options of commands that have many, by what they are about. What stands nowhere comes first.
_ABOUT = {
    "What to run": "--shell --task --import --from --format --script --stdin --cwd --no-check --no-pty",
    "When": "--in --at --tz --past-ok --hold --now --expires --after --after-any --after-fail --priority",
    "Limits": "--timeout --grace --lock --skip-if-running --concurrency --rate --key --unique --on-conflict"
    " --idempotency-key --debounce",
    "When it fails": "--retries --retry-delay --retry-backoff --retry-max-delay --retry-on-timeout --on-lost",
    "Environment": "--env --env-file --clean-env",
}
_HEADING_OF = {option: heading for heading, options in _ABOUT.items() for option in options.split()}
EVERYWHERE = "Options that all commands have"
#: A command with fewer options than this has them in one list.
_MANY = 16


def help_(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND|TOPIC]", help="What to explain.")] = None,
) -> Any:
    """Explain a command or a topic.

    fwl help submit
    fwl help cron next
    fwl help hooks
    """
    name = " ".join(words or [])
    if name == "topics":
        print(_topics())
        return 0
    if name not in COMMANDS and (topic := find(name)) is not None:
        print(TOPICS[topic].strip())
        return 0
    if name and name not in COMMANDS:
        close = get_close_matches(name, [*entries_in(""), *COMMANDS, *TOPICS], n=1)
        meant = f" Did you mean: fwl help {close[0]}?" if close else ""
        raise usage(f'no help on "{render.clean(name)}".{meant}', f"Topics: {' '.join(TOPICS)}")
    from .app import app

    session: Session = context.find_object(Session)  # type: ignore[assignment]
    return app().main([*(words or []), "--help"], prog_name="fwl", standalone_mode=False, obj=session)


# ---- layout


def format_command(command: Any, context: Any, formatter: Any) -> None:
    """The help of one command."""
    command.format_usage(context, formatter)
    _write_text(formatter, command.help or "")
    if rows := [row for row in _rows(command, context, "argument") if row is not None]:
        with formatter.section("Arguments"):
            formatter.write_dl(rows)
    for heading, rows in options_of(command, context).items():
        with formatter.section(heading):
            formatter.write_dl(rows, col_max=24)


def format_group(group: Any, context: Any, formatter: Any) -> None:
    """The help of `fwl` itself, or of a command that has others below it."""
    path = path_of(context)
    group.format_usage(context, formatter)
    _write_text(formatter, group.help or "")
    entries = entries_in(path)
    width = max(len(name) for name in entries)
    for heading in HEADINGS if not path else ("",):
        with formatter.section(heading or "Commands"):
            formatter.write_dl(
                [(name.ljust(width), entry.summary) for name, entry in entries.items() if entry.heading == heading]
            )
    for heading, rows in options_of(group, context).items():
        with formatter.section(heading):
            formatter.write_dl(rows, col_max=24)
    if not path:
        formatter.write_paragraph()
        formatter.write_text(f"\b\n{_topics()}")


def _topics() -> str:
    return textwrap.fill(
        f"Topics: fwl help {' | '.join(TOPICS)}", 78, subsequent_indent=" " * 17, break_on_hyphens=False
    )


def options_of(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """The options of a command by heading, as two columns; those that all commands have come last."""
    rows = [
        (one, one.get_help_record(context)) for one in command.get_params(context) if one.param_type_name == "option"
    ]
    shown = [(_long_name(one), row) for one, row in rows if row is not None]
    is_long = len(shown) >= _MANY + len(GLOBAL)
    found: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Options", *_ABOUT, EVERYWHERE)}
    for name, row in shown:
        heading = _HEADING_OF.get(name, "Options") if is_long else "Options"
        found[EVERYWHERE if name in GLOBAL else heading].append(row)
    return {heading: rows for heading, rows in found.items() if rows}


def _rows(command: Any, context: Any, kind: str) -> Iterator[Any]:
    return (one.get_help_record(context) for one in command.get_params(context) if one.param_type_name == kind)


def _long_name(option: Any) -> str:
    return max(option.opts, key=len)  # type: ignore[no-any-return]


#: How a line of examples begins.
_EXAMPLES = ("fwl ", "*/5 ", "printf ", "crontab ")


def paragraphs(text: str) -> Iterator[tuple[str, bool]]:
    """The paragraphs of a help text, each with whether it is of examples, whose lines stay lines."""
    for one in inspect.cleandoc(text).split("\n\n"):
        yield one, one.startswith(_EXAMPLES)


def _write_text(formatter: Any, text: str) -> None:
    for one, is_examples in paragraphs(text):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"\b\n{one}" if is_examples else one)
