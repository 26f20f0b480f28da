"""What has a worker run without a person: the texts of a systemd unit, a launchd property list and a line of a crontab.

Runs in: the command line.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

from . import render
from .problems import usage
from .program import own_command

#: Seconds that the service manager waits for longer than the worker does.
_MARGIN = 10.0

_UNIT = """\
[Unit]
Description=Jobs of {database} (fastworker_lite)

[Service]
Type=notify
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
Restart=on-failure
RestartPreventExitStatus=2 65 78
TimeoutStopSec={patience}
WatchdogSec=60

[Install]
WantedBy=default.target
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A worker that is always there."""

    name: str
    database: str
    config: str | None
    stop_timeout: float

    def command(self, verb: str) -> list[str]:
        """`fwl worker` or `fwl drain`, with no need for a PATH or a current folder."""
        return [*own_command(), *self.words(verb)]

    def words(self, verb: str) -> list[str]:
        """What of it follows the program."""
        return [verb, "--db", self.database, *([] if self.config is None else ["--config", self.config])]

    @property
    def patience(self) -> int:
        """Seconds from being told to stop to being killed."""
        return math.ceil(self.stop_timeout + _MARGIN)


def systemd_unit(service: Service) -> str:
    """The text of its unit file."""
    database = render.clean(service.database).replace("%", "%%")
    return _UNIT.format(database=database, command=_systemd_command(service), patience=service.patience)


def is_unit_of(service: Service, text: str) -> bool:
    """Whether a unit file runs this service's database, with whichever program."""
    words = " ".join(map(_systemd_word, service.words("worker")[:3]))
    return any(line.startswith("ExecStart=") and f" {words} " in f"{line} " for line in text.splitlines())


def _systemd_command(service: Service) -> str:
    program, *words = service.command("worker")
    return " ".join([_systemd_quoted(program), *map(_systemd_word, words)])


def _systemd_word(word: str) -> str:
    return _systemd_quoted(word.replace("$", "$$"))


def _systemd_quoted(word: str) -> str:
    """A word of a command line, as systemd reads it. Variables are not expanded in the first one, so $ is not ours."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[\w./:=@+,$%-]+", word, re.ASCII):
        return word
    escaped = re.sub(r'([\\"])', r"\\\1", word)
    return '"' + re.sub("[\x00-\x1f\x7f\udc80-\udcff]", _as_byte, escaped) + '"'


def _as_byte(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]) & 0xFF:02x}"


def launchd_label(service: Service) -> str:
    """What launchd calls it."""
    return f"local.{service.name}"


def launchd_plist(service: Service, log: str) -> str:
    """The text of its property list; what it prints goes to *log*."""
    import plistlib

    return plistlib.dumps(
        {
            "Label": launchd_label(service),
            "ProgramArguments": service.command("worker"),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ExitTimeOut": service.patience,
            "StandardOutPath": log,
            "StandardErrorPath": log,
        },
        sort_keys=False,
    ).decode()


def is_plist_of(service: Service, text: str) -> bool:
    """Whether a property list runs this service's database, with whichever program."""
    import plistlib

    try:
        words = plistlib.loads(text.encode())["ProgramArguments"]
        begin = words.index("worker")
    except (ValueError, KeyError, TypeError, plistlib.InvalidFileException):
        return False
    return bool(words[begin : begin + 3] == service.words("worker")[:3])


def crontab_line(service: Service) -> str:
    """The line with which cron runs the queue. A % would end a line there."""
    line = shlex.join(service.command("drain"))
    if not line.isprintable():
        raise usage("a crontab cannot hold the path of this database or its configuration")
    return f"*/5 * * * * {line.replace('%', chr(92) + '%')}"
