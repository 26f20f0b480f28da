"""The commands of schedules: their words, their folder, and an environment that does not depend on who started the runner.

Runs in: every process that runs or changes schedules.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import building, payloads
from .config import home_folder
from .job import Command, NewJob
from .options import JobOptions

#: Where their programs are looked for, unless their `env` says otherwise.
PATH = "/usr/local/bin:/usr/bin:/bin"


def read_command(table: Mapping[str, Any], folder: str, options: JobOptions, faults: dict[str, str]) -> NewJob | None:
    """The job of a table with `command` or `shell`; None, and for each setting that is wrong what is, in *faults*."""
    argv, shell = table.get("command"), table.get("shell")
    if shell is not None and not _is_text(shell):
        faults["shell"] = f"must be a line for the shell, got {shell!r:.80}"
    if shell is None and (
        not isinstance(argv, list) or not argv or not all(map(_is_text, argv[:1])) or not _are_words(argv)
    ):
        faults["command"] = (
            f'must be a list of words such as ["backup.sh", "--all"]; a line is shell = "…"; got {argv!r:.80}'
        )
    for key in ("args", "kwargs"):
        if key in table:
            faults[key] = "is for python"
    environment = _read_environment(table, folder, faults)
    cwd = table.get("cwd", "~")
    if not _is_text(cwd):
        faults["cwd"] = f"must be a folder, got {cwd!r:.80}"
    if faults:
        return None
    command = Command(argv=argv if shell is None else None, shell=shell, cwd=_absolute(cwd, folder))
    return building.build_command(command, payloads.encode_environment(environment), options)


def _read_environment(table: Mapping[str, Any], folder: str, faults: dict[str, str]) -> dict[str, str]:
    """What a login would set, then the file's variables, then the table's own: nothing of whoever started the runner."""
    environment = login_environment()
    if (path := table.get("env_file")) is not None:
        try:
            environment |= read_env_file(_absolute(path, folder))
        except (OSError, TypeError, ValueError) as error:
            faults["env_file"] = f"{path}: {getattr(error, 'strerror', None) or error}"
    own = table.get("env", {})
    if not isinstance(own, dict) or not _are_words(list(own.values())) or not all(map(_is_name, own)):
        faults["env"] = f'must be a table of texts such as {{ LANG = "C" }}, got {own!r:.80}'
        return environment
    return environment | own


def login_environment() -> dict[str, str]:
    """The variables that a scheduled command finds in any case."""
    try:
        user = pwd.getpwuid(os.getuid())
        name, home, shell = user.pw_name, user.pw_dir, user.pw_shell
    except KeyError:  # as in containers
        name, home, shell = str(os.getuid()), home_folder(), ""
    return {
        "HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell or "/bin/sh",
        "LANG": os.environ.get("LANG") or "C.UTF-8", "PATH": PATH,
    }  # fmt: skip


def read_env_file(path: str) -> dict[str, str]:
    """`NAME=value` lines; a value may be quoted. Blank lines and those that begin with # say nothing."""
    found = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.strip().removeprefix("export ").strip()
            if not text or text.startswith("#"):
                continue
            name, equals, value = text.partition("=")
            if not equals or not _is_name(name.strip()) or "\0" in value:
                raise ValueError(f"line {number} is not NAME=value")
            value = value.strip()
            is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name.strip()] = value[1:-1] if is_quoted else value
    return found


def _is_name(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _are_words(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) and "\0" not in value for value in values)


def _absolute(path: str, folder: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))
