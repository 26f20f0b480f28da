"""What `fwl doctor` finds out about this machine and the settings.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from shlex import join, quote

from .. import __version__, interpreters
from ..errors import ConfigError, FastWorkerError
from ..settings import Config
from .configuring import find_faults, short_text
from .findings import Finding, ok, problem, warning
from .problems import CommandError
from .program import python_command
from .session import Session

#: Seconds that a task module has to be imported.
IMPORT_PATIENCE = 20.0
#: What the child exits with once the module is imported: one that exits by itself does so with another code.
_IMPORTED = 85
#: Where this package is, which is not where that Python looks if we are a .pyz.
_OWN_FOLDER = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_IMPORT = f"""
import importlib, os, sys
sys.path.insert(0, sys.argv[1])
sys.path.append(sys.argv[3])
importlib.import_module(sys.argv[2])
os._exit({_IMPORTED})
"""
_SERVICE_PATIENCE = 5.0
_2024 = 1_704_067_200


def versions() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield ok("versions", f"fastworker_lite {__version__}, Python {python} ({sys.executable})")


# ---- SQLite


def sqlite() -> Iterator[Finding]:
    version = sqlite3.sqlite_version_info
    if version < (3, 37, 0):
        hint = (
            f"Use a Python with a newer one: {quote(sys.executable)} -c 'import sqlite3; print(sqlite3.sqlite_version)'"
        )
        yield problem("sqlite", f"SQLite {sqlite3.sqlite_version} lacks STRICT tables, which came with 3.37", hint)
    elif has_reset_bug(version):
        yield ok(
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug; the write gate keeps it from the file as long as no "
            "other program writes to it",
        )
    else:
        yield ok("sqlite", f"SQLite {sqlite3.sqlite_version}, without the WAL-reset bug")


def has_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether a checkpoint outside the write gate could damage the file: 3.7.0 to 3.51.2, but for later repairs."""
    repaired = {(3, 44): (3, 44, 6), (3, 50): (3, 50, 7)}.get((version[0], version[1]), (3, 51, 3))
    return (3, 7, 0) <= version < repaired


# ---- the clock


def clock() -> Iterator[Finding]:
    if time.time() < _2024:
        yield problem(
            "clock", f"the clock says {time.strftime('%F')}, which is past", "Set it: sudo timedatectl set-ntp true"
        )
    else:
        yield ok("clock", time.strftime("%F %T %z"))


# ---- the settings


def settings(session: Session) -> Iterator[Finding]:
    try:
        file, faults = find_faults(session)
    except CommandError as error:
        yield problem("settings", error.message, "fwl config check")
        return
    if faults:
        count = f"{len(faults)} problem{'' if len(faults) == 1 else 's'}"
        yield problem(
            "settings", f"{count} in {file}: {short_text(str(file), faults[0])}", "See them all: fwl config check"
        )
    else:
        yield ok("settings", "no fastworker.toml, so the defaults" if file is None else str(file))


# ---- hooks


def hooks(session: Session) -> Iterator[Finding]:
    """Whether what is to be run when jobs end is there."""
    from shutil import which

    try:
        wanted = session.config.hooks
    except CommandError:
        return
    named = {name: getattr(wanted, name) for name in ("on_success", "on_failure", "on_recovered")}
    named["desktop"] = ("osascript" if sys.platform == "darwin" else "notify-send",) if wanted.desktop else ()
    lost = [f'{name} wants "{argv[0]}"' for name, argv in named.items() if argv and which(argv[0]) is None]
    if lost:
        yield problem(
            "hooks", f"{', '.join(lost)}: not on PATH={os.environ.get('PATH', '')}", "Try them: fwl notify test"
        )
    elif wanted.is_wanted:
        yield ok("hooks", "what is to be run when jobs end is there")


# ---- tasks


def tasks(session: Session) -> Iterator[Finding]:
    """Whether the workers could import what the settings name. In a process of its own: a module may do anything."""
    try:
        config = session.config
    except CommandError:
        return
    folder = os.path.dirname(os.path.abspath(config.path)) if config.path else os.getcwd()
    config = config._replace(python=config.python or interpreters.default(config))
    try:
        python = interpreters.chosen(config)
    except ConfigError as error:
        yield problem("tasks", str(error), "fwl config show")
        return
    if python is not None:
        yield from _tasks_there(config, python)
        return
    for module in config.tasks:
        fault = import_fault(module, folder)
        if fault is None:
            yield ok("tasks", f"{module} can be imported, with {folder} first on sys.path")
        else:
            hint = f"cd {quote(folder)} && {join(python_command())} -c 'import {module}'"
            yield problem("tasks", f"{module} cannot be imported, with {folder} first on sys.path: {fault}", hint)


def _tasks_there(config: Config, python: str) -> Iterator[Finding]:
    from ..foreign import Setup, survey

    folders = interpreters.module_folders(config)
    for module in config.tasks:
        try:
            survey(Setup(python, folders, (module,)), IMPORT_PATIENCE)
            yield ok("tasks", f"{module} can be imported in {python}, with {folders[0]} first on sys.path")
        except FastWorkerError as error:
            hint = f"fwl drain --python {quote(python)} --tasks {module}"
            yield problem("tasks", f"{module} cannot be used in {python}: {error}", hint)


def import_fault(module: str, folder: str, seconds: float = IMPORT_PATIENCE) -> str | None:
    """Why a module cannot be imported, None when it can."""
    import subprocess
    from tempfile import TemporaryFile

    from ..leases import kill_group

    with TemporaryFile() as said:
        child = subprocess.Popen(
            [*python_command(), "-B", "-P", "-c", _IMPORT, folder, module, _OWN_FOLDER],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            kill_group(child.pid)  # and what it has started
            child.wait()
            return f"it takes longer than {seconds:g} s"
        said.seek(max(0, said.seek(0, os.SEEK_END) - 4096))
        lines = said.read().decode(errors="replace").split("\n")
    if code == _IMPORTED:
        return None
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    how = f"killed by signal {-code}" if code < 0 else f"it calls exit({code})"
    return last[:300] if code == 1 and last else how


# ---- the service


def service() -> Iterator[Finding]:
    """Whether a service of ours goes on when its user logs out."""
    from shutil import which

    units = _own_units()
    if not units or which("loginctl") is None:
        return
    if is_lingering(_ask_loginctl()) is False:
        yield warning("service", f"{units[0]} ends when you log out", "loginctl enable-linger")
    else:
        yield ok("service", f"{units[0]} is installed, and goes on when you log out")


def _own_units() -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    folder = os.path.join(home if os.path.isabs(home) else os.path.expanduser("~/.config"), "systemd", "user")
    return [path for path in _files(folder) if path.endswith(".service") and "fastworker_lite" in _text(path)]


def _files(folder: str) -> list[str]:
    try:
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    except OSError:
        return []


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def _ask_loginctl() -> str:
    import subprocess

    try:
        return subprocess.run(
            ["loginctl", "show-user", str(os.getuid()), "--property=Linger"],
            capture_output=True, text=True, timeout=_SERVICE_PATIENCE, check=False,
        ).stdout  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""


def is_lingering(text: str) -> bool | None:
    """What loginctl says; None when it does not know."""
    return {"Linger=yes": True, "Linger=no": False}.get(text.strip())
