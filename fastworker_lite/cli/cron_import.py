"""`fwl cron import`: a crontab as tables for fastworker.toml.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from typing import Annotated

import typer

from ..cron import parse_cron, parse_zone
from ..errors import ConfigError
from . import render
from .problems import FAILED, usage
from .session import Session

_SETTING = re.compile(r"""\s*(["']?)([A-Za-z_][A-Za-z0-9_]*)\1\s*=\s*(.*?)\s*""")
_LINE = re.compile(r"\s*(@\w+|\S+(?:\s+\S+){4})\s+(\S.*)")


@dataclass
class _Reader:
    """What has been read so far."""

    tables: list[str] = field(default_factory=list)
    #: Each a table as text.
    faults: list[str] = field(default_factory=list)
    #: What has no counterpart: somebody must look.
    notes: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    #: Variables that hold for the lines to come.
    shell: str = "/bin/sh"
    zone: str | None = None
    names: set[str] = field(default_factory=set)
    comments: list[str] = field(default_factory=list)

    def read(self, number: int, line: str) -> None:
        """Take one line of the crontab."""
        if not line.strip():
            self.comments.clear()
        elif line.lstrip().startswith("#"):
            self.comments.append(line.strip())
        elif setting := _SETTING.fullmatch(line):
            self._set(number, setting[2], _unquoted(setting[3]))
        elif entry := _LINE.fullmatch(line):
            self._add(number, entry[1], entry[2])
        else:
            self.faults.append(f"line {number}: neither NAME=value nor five fields and a command: {line.strip()}")

    def _set(self, number: int, name: str, value: str) -> None:
        if name == "SHELL":
            self.shell = value
        elif name == "CRON_TZ":
            try:
                self.zone = parse_zone(value)
            except ConfigError as error:
                self.faults.append(f"line {number}: CRON_TZ {error}")
        elif name == "MAILTO":
            if value:
                self.notes.append(
                    f"line {number}: MAILTO={value}: no mail is sent; [hooks] on_failure may run a mailer"
                )
        elif name in ("RANDOM_DELAY", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "START_HOURS_RANGE"):
            self.faults.append(f"line {number}: {name} has no counterpart" + "; see jitter" * (name == "RANDOM_DELAY"))
        else:
            self.env[name] = value

    def _add(self, number: int, when: str, command: str) -> None:
        if when.lower() == "@reboot":
            self.faults.append(f"line {number}: @reboot has no counterpart; run fwl submit from a unit of your system")
            return
        try:
            expression = parse_cron(when)
        except ConfigError as error:
            self.faults.append(f"line {number}: {error}")
            return
        words, stdin = _split_percent(command)
        if stdin is not None:
            self.notes.append(f"line {number}: what stood after % is piped into the command")
            words = f"printf '%s\\n' {' '.join(map(shlex.quote, stdin))} | {{ {words}; }}"
        lines = [*self.comments, f"[cron.{self._name(command)}]", f"schedule = {_toml(expression)}"]
        self.comments.clear()
        if self.zone is not None:
            lines.append(f"timezone = {_toml(self.zone)}")
        if self.shell == "/bin/sh":
            lines.append(f"shell = {_toml(words)}")
        else:
            lines.append(f'command = [{_toml(self.shell)}, "-c", {_toml(words)}]')
        if self.env.get("HOME"):
            lines.append(f"cwd = {_toml(self.env['HOME'])}")
        if self.env:
            lines.append(f"env = {{ {', '.join(f'{name} = {_toml(value)}' for name, value in self.env.items())} }}")
        self.tables.append("\n".join(lines))

    def _name(self, command: str) -> str:
        """After the program: `backup` of `/usr/local/bin/backup.sh --all`."""
        words = [word for word in command.split() if "=" not in word.split("/")[0]]
        stem = os.path.basename(words[0] if words else command).partition(".")[0]
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "job"
        name, count = stem, 2
        while name in self.names:
            name, count = f"{stem}-{count}", count + 1
        self.names.add(name)
        return name


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


def _split_percent(command: str) -> tuple[str, list[str] | None]:
    """Cron ends the command at the first bare %, and gives it the rest as input, each further % a new line."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", command)]
    return parts[0].strip(), parts[1:] or None


def _toml(text: str) -> str:
    """A text as TOML's basic strings have it, which are JSON's but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def import_crontab(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="[-|FILE]", help="A crontab; - is stdin.")] = "-",
) -> int:
    """Print the lines of a crontab as tables for fastworker.toml, and on stderr what could not be taken over.

    crontab -l | fwl cron import >> fastworker.toml
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    reader = _Reader()
    for number, line in enumerate(_text(source).splitlines(), 1):
        reader.read(number, line)
    for note in reader.notes:
        session.say(f"note: {render.clean(note)}")
    for fault in reader.faults:
        render.say(f"not imported: {render.clean(fault)}")
    if session.is_json:
        session.put_json("fwl.import/1", toml="\n\n".join(reader.tables), problems=reader.faults, notes=reader.notes)
    elif reader.tables:
        print("\n\n".join(reader.tables))
    else:
        session.say("no lines to import")
    return FAILED if reader.faults else 0


def _text(source: str) -> str:
    if source == "-":
        if render.is_terminal(sys.stdin):
            raise usage("- reads a crontab from stdin, which is a terminal. Use: crontab -l | fwl cron import")
        data = sys.stdin.buffer.read()
    else:
        try:
            with open(source, "rb") as file:
                data = file.read()
        except OSError as error:
            raise usage(f"{source}: {error.strerror}") from None
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise usage(f"{source}: the crontab is not UTF-8, as a TOML file has to be") from None
