"""`fwl man`: the manual, made of what help says.

Runs in: the command line.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import typer

from .. import __version__
from . import render
from .commands import HEADINGS, entries_in, names_in
from .helping import EVERYWHERE, options_of, paragraphs
from .topics import TOPICS


def man() -> int:
    """Show the manual. Into a pipe or a file it is printed as man pages are written.

    fwl man
    fwl man > fwl.1
    """
    page = text()
    if render.is_terminal(sys.stdout) and shutil.which("man") is not None:
        return subprocess.run(["man", "-l", "-"], input=page.encode(), check=False).returncode
    print(page, end="")
    return 0


def text() -> str:
    """The whole manual in roff."""
    return "\n".join(line for line in _lines() if line) + "\n"


def _lines() -> Iterator[str]:
    from .app import app

    root = app()
    yield f'.TH FWL 1 "{time.strftime("%Y-%m-%d")}" "fastworker_lite {__version__}" "User Commands"'
    yield from (".SH NAME", "fwl \\- run jobs from one SQLite file")
    yield from (".SH SYNOPSIS", ".B fwl", "[\\fIoptions\\fR] \\fIcommand\\fR [\\fIarguments\\fR]")
    yield from (".SH DESCRIPTION", *_paragraphs(root.help))
    context = typer.Context(root, info_name="fwl", **root.context_settings)
    everywhere = options_of(root, context)
    yield ".SH OPTIONS"
    for rows in everywhere.values():
        yield from _options(rows)
    for heading in HEADINGS:
        yield f".SH {_escaped(heading.upper())}"
        for name, entry in entries_in("").items():
            if entry.heading == heading:
                yield from _command(root, context, name)
    for topic in TOPICS.values():
        title, _, rest = topic.strip().partition("\n")
        yield from (f".SH {_escaped(title.upper())}", ".nf", *_verbatim(rest.strip("\n")), ".fi")
    yield from (".SH FILES", *_files())


def _command(group: Any, above: Any, name: str) -> Iterator[str]:
    command = group.get_command(above, name)
    context = typer.Context(command, parent=above, info_name=name, **command.context_settings)
    path = context.command_path
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f".SS {_escaped(f'{path} {usage}')}", *_paragraphs(command.help or ""))
    for one in command.get_params(context):
        if one.param_type_name == "argument" and (row := one.get_help_record(context)):
            yield from _options([row])
    for heading, rows in options_of(command, context).items():
        if heading != EVERYWHERE:
            yield from _options(rows)
    below = path.partition(" ")[2]
    for inner in entries_in(below) if names_in(below) else ():
        yield from _command(command, context, inner)


def _options(rows: list[tuple[str, str]]) -> Iterator[str]:
    for name, explained in rows:
        yield from (".TP", f".B {_escaped(name)}", *_filled(explained))


def _paragraphs(text: str) -> Iterator[str]:
    for number, (one, is_examples) in enumerate(paragraphs(text)):
        yield ".PP" if number else ""
        if is_examples:
            yield from (".RS 4", ".nf", *_verbatim(one), ".fi", ".RE")
        else:
            yield from _filled(one)


def _files() -> Iterator[str]:
    yield from _options(
        [
            ("fastworker.toml", "The settings: the nearest one, from the current folder upwards."),
            ("pyproject.toml", "The same, in its table [tool.fastworker]."),
            ("~/.local/state/fastworker/fwl.db", "The database, where nobody named one and there are no settings."),
            (".fastworker/fwl.db", "The database beside settings that name none."),
            ("DATABASE.d/", "What belongs to a database: locks, sockets, and the logs of its jobs."),
            ("~/.local/state/fastworker/crash-*.txt", "What is known of faults in fwl."),
        ]
    )


def _filled(text: str) -> Iterator[str]:
    yield from map(_escaped, textwrap.wrap(text, 72, break_on_hyphens=False))


def _verbatim(text: str) -> Iterator[str]:
    yield from (_escaped(line) or "\\&" for line in text.splitlines())


def _escaped(text: str) -> str:
    """*text* so that roff prints it as it is: a minus stays one, and no line is taken for a request."""
    line = (
        text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    )
    return f"\\&{line}" if line.startswith((".", "'")) else line
