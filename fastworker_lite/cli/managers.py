"""The service managers, which keep a worker running: systemd, and launchd on macOS. Each step is said.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass

from ..config import home_folder
from ..paths import SidePaths
from . import render
from .problems import FAILED, REFUSED, UNAVAILABLE, CommandError
from .session import Session
from .units import Service, crontab_line, is_plist_of, is_unit_of, launchd_label, launchd_plist, systemd_unit


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the manager says of a service; None where it says nothing."""

    is_active: bool
    is_enabled: bool | None = None
    is_lingering: bool | None = None
    #: Whether it goes on when its user has logged out.


class Systemd:
    """A unit of the user's own systemd."""

    kind = "systemd"

    def __init__(self, session: Session, service: Service) -> None:
        """Changes nothing yet."""
        self._session = session
        self._service = service
        self._unit = f"{service.name}.service"
        home = os.environ.get("XDG_CONFIG_HOME", "")
        settings = home if os.path.isabs(home) else os.path.join(home_folder(), ".config")
        self._folder = os.path.join(settings, "systemd", "user")
        self.file = os.path.join(self._folder, self._unit)
        self.text = systemd_unit(service)

    def install(self) -> None:
        """Write the unit and have it run. Raises `CommandError` before anything is written where there is no systemd."""
        result = _ask("systemctl", "--user", "show-environment")
        if result.returncode:
            raise CommandError(
                f"no systemd of yours can be reached ({_last_line(result)}); nothing was installed",
                UNAVAILABLE,
                f"Have cron run the queue instead: type crontab -e, and add this line\n{crontab_line(self._service)}",
            )
        _write(self._session, self.file, self.text, is_of_same_database=is_unit_of(self._service, _read(self.file)))
        _tell(self._session, "systemctl", "--user", "daemon-reload")
        _tell(self._session, "systemctl", "--user", "enable", self._unit)
        _tell(self._session, "systemctl", "--user", "restart", self._unit)
        self.note_linger(self.state())

    def uninstall(self) -> None:
        """Stop it, and remove the unit and the link that has it start."""
        is_reachable = _ask("systemctl", "--user", "show-environment").returncode == 0
        if is_reachable:
            _tell(self._session, "systemctl", "--user", "disable", "--now", self._unit)
        _remove(self._session, os.path.join(self._folder, "default.target.wants", self._unit))
        _remove(self._session, self.file)
        if is_reachable:
            _tell(self._session, "systemctl", "--user", "daemon-reload")
            _ask("systemctl", "--user", "reset-failed", self._unit)

    def state(self) -> State:
        """Ask how it is."""
        lingers = _ask("loginctl", "show-user", str(os.getuid()), "--property=Linger").stdout.strip()
        return State(
            is_active=_ask("systemctl", "--user", "is-active", self._unit).returncode == 0,
            is_enabled=_ask("systemctl", "--user", "is-enabled", self._unit).returncode == 0,
            is_lingering={"Linger=yes": True, "Linger=no": False}.get(lingers),
        )

    def note_linger(self, state: State) -> None:
        """Say when it ends with the user's last session, and what helps."""
        if state.is_lingering is False:
            self._session.say("note: it stops when you log out. To have it go on: loginctl enable-linger")


class Launchd:
    """An agent of the user's launchd."""

    kind = "launchd"

    def __init__(self, session: Session, service: Service) -> None:
        """Changes nothing yet."""
        self._session = session
        self._service = service
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{launchd_label(service)}"
        agents = os.path.join(home_folder(), "Library", "LaunchAgents")
        self.file = os.path.join(agents, f"{launchd_label(service)}.plist")
        self.text = launchd_plist(service, SidePaths.of(service.database).worker_log)

    def install(self) -> None:
        """Write the property list and have it run. Raises `CommandError` before that where there is no launchd."""
        result = _ask("launchctl", "version")
        if result.returncode:
            raise CommandError(
                f"launchd cannot be reached ({_last_line(result)}); nothing was installed",
                UNAVAILABLE,
                "See what would be written: fwl service install --launchd --print",
            )
        _write(self._session, self.file, self.text, is_of_same_database=is_plist_of(self._service, _read(self.file)))
        with self._session.open():  # it writes its log beside the database
            pass
        _ask("launchctl", "bootout", self._target)  # one that runs already is begun anew
        _tell(self._session, "launchctl", "bootstrap", self._domain, self.file)

    def uninstall(self) -> None:
        """Stop it, and remove the property list."""
        self._session.say(f"running launchctl bootout {self._target}")
        _ask("launchctl", "bootout", self._target)
        _remove(self._session, self.file)

    def state(self) -> State:
        """Ask how it is."""
        return State(is_active=_ask("launchctl", "print", self._target).returncode == 0)

    def note_linger(self, state: State) -> None:
        """An agent always ends with its user's session."""


# ---- steps


def _read(path: str) -> str:
    """What is written there now, nothing where there is no file."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(session: Session, path: str, text: str, *, is_of_same_database: bool) -> None:
    if os.path.lexists(path) and not is_of_same_database:
        raise CommandError(
            f"{path} is for another database; it stays as it is", REFUSED, "Give this one a name: --name NAME"
        )
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}", FAILED) from error
    session.say(f"wrote {render.clean(path)}")


def _remove(session: Session, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        session.say(f"removed {render.clean(path)}")


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the manager. One that is not there is as one that fails."""
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        return subprocess.CompletedProcess(words, 127, "", f"{words[0]}: {error.strerror}")


def _tell(session: Session, *words: str) -> None:
    """As `_ask`, for a step that must succeed."""
    session.say(f"running {' '.join(words)}")
    result = _ask(*words)
    if result.returncode:
        raise CommandError(f"{' '.join(words)}: {_last_line(result)}", FAILED)


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    return (result.stderr.strip().splitlines() or [f"exit {result.returncode}"])[-1]
