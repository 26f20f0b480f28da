"""A worker as a service: what is written for systemd, launchd and cron, and what they are told."""

from __future__ import annotations

import json
import os
import plistlib
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite.cli.readiness import ServiceManager
from fastworker_lite.cli.units import Service, systemd_unit

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30
Result = subprocess.CompletedProcess[str]
Fwl = Callable[..., Result]

#: Paths that mean something else to whoever reads them without quotes.
HOSTILE = ["plain.db", "with space.db", "50%h.db", 'a"b.db', "a'b.db", "$HOME.db", "back\\slash.db", "é;|&.db"]

#: Notes how it was called; as `systemctl show-environment`, fails with the text in the file `refuses`, if there is one.
FAKE = """#!/bin/sh
echo "${{0##*/}} $*" >> {calls}
case "$*" in
  *show-environment|version) [ ! -e {refuses} ] || {{ cat {refuses} >&2; exit 1; }} ;;
  *is-active*) [ -e {active} ] ;;
  *restart*|bootstrap*) : > {active} ;;
  *disable*|bootout*) rm -f {active} ;;
  show-user*) echo Linger=no ;;
esac
"""


#: Tasks with which a worker hangs once there is a file `hang`.
HANGS = """
import asyncio, gc, os, threading, time

def hang():
    while not os.path.exists("hang"):
        time.sleep(0.01)
    for one in gc.get_objects():
        if isinstance(one, asyncio.AbstractEventLoop):
            one.call_soon_threadsafe(time.sleep, 60)

threading.Thread(target=hang, daemon=True).start()
"""


class Home:
    """A home folder, and service managers on PATH that only note what they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unit = folder / ".config" / "systemd" / "user" / "fastworker.service"
        self.agent = folder / "Library" / "LaunchAgents" / "local.fastworker.plist"
        self._calls, self.refuses = folder / "calls", folder / "refuses"
        (folder / "bin").mkdir()
        for name in ("systemctl", "loginctl", "launchctl"):
            fake = folder / "bin" / name
            fake.write_text(FAKE.format(calls=self._calls, refuses=self.refuses, active=folder / "active"))
            fake.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "XDG_CONFIG"))}
        self.variables = kept | {
            "HOME": str(folder), "FWL_DB": str(folder / "fwl.db"), "PYTHONPATH": str(ROOT),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def service(self, *words: str, **changed: str) -> Result:
        return subprocess.run(
            [sys.executable, "-m", "fastworker_lite", "service", *words], capture_output=True, text=True,
            cwd=self.folder, env=self.variables | changed, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """What the service managers were told since the last time, without the questions."""
        found = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        questions = ("show-environment", "is-active", "is-enabled", "show-user", "version", "print")
        return [call for call in found if not any(word in call for word in questions)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


# ---- systemd


@linux_only
def test_install_writes_a_unit_has_it_run_and_says_each_step(home: Home) -> None:
    result = home.service("install")
    assert (result.returncode, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [
        f"wrote {home.unit}",
        "running systemctl --user daemon-reload",
        "running systemctl --user enable fastworker.service",
        "running systemctl --user restart fastworker.service",
        "note: it stops when you log out. To have it go on: loginctl enable-linger",
    ]
    assert home.calls() == [line.removeprefix("running ") for line in result.stderr.splitlines()[1:4]]
    lines = home.unit.read_text().splitlines()
    assert f"ExecStart={sys.executable} -m fastworker_lite worker --db {home.folder}/fwl.db" in lines
    assert {"Type=notify", "KillMode=mixed", "Restart=on-failure", "TimeoutStopSec=40", "WatchdogSec=60"} <= set(lines)


@linux_only
def test_uninstall_leaves_nothing(home: Home) -> None:
    before = sorted(home.folder.rglob("*.service"))
    home.service("install")
    wants = home.unit.parent / "default.target.wants" / home.unit.name
    wants.parent.mkdir()
    wants.symlink_to(home.unit)  # as systemctl enable does
    home.calls()
    result = home.service("uninstall")
    assert result.returncode == 0
    assert home.calls() == [
        "systemctl --user disable --now fastworker.service",
        "systemctl --user daemon-reload",
        "systemctl --user reset-failed fastworker.service",
    ]
    assert f"removed {home.unit}\n" in result.stderr
    assert not os.path.lexists(wants)
    assert sorted(home.folder.rglob("*.service")) == before
    again = home.service("uninstall")
    assert (again.returncode, again.stderr) == (0, f"nothing to remove: there is no {home.unit}\n")


@linux_only
def test_status_says_whether_it_runs(home: Home) -> None:
    absent = home.service("status")
    assert (absent.returncode, absent.stderr) == (
        3,
        "error: service fastworker is not installed\n  Install it: fwl service install\n",
    )
    home.service("install")
    running = home.service()
    assert (running.returncode, running.stdout) == (0, f"fastworker runs ({home.unit})\n")
    document = json.loads(home.service("status", "--json").stdout)
    assert document.items() >= {
        "schema": "fwl.service/1", "installed": True, "active": True, "enabled": True, "linger": False,
        "file": str(home.unit), "manager": "systemd",
    }.items()  # fmt: skip
    (home.folder / "active").unlink()
    assert home.service("status").returncode == 69


@linux_only
def test_without_systemd_nothing_is_written_and_cron_is_the_way_out(home: Home) -> None:
    home.refuses.write_text("Failed to connect to bus: No medium found\n")
    result = home.service("install")
    assert result.returncode == 69
    assert result.stderr.startswith(
        "error: no systemd of yours can be reached (Failed to connect to bus: No medium found); nothing was installed\n"
    )
    assert result.stderr.endswith(f"  {home.service('install', '--cron').stdout}")
    assert not home.unit.exists()
    assert home.calls() == []


@linux_only
def test_a_unit_for_another_database_is_left_alone(home: Home) -> None:
    home.service("install")
    before = home.unit.read_text()
    refused = home.service("install", FWL_DB=str(home.folder / "fwl.db2"))
    assert refused.returncode == 4
    assert "is for another database" in refused.stderr and "--name NAME" in refused.stderr
    assert home.unit.read_text() == before
    assert home.service("install", "--name", "second", FWL_DB=str(home.folder / "fwl.db2")).returncode == 0
    (home.folder / "fastworker.toml").write_text('stop_timeout = "1m"\n')
    assert home.service("install").returncode == 0  # ours may change
    assert f"--config {home.folder}/fastworker.toml\n" in home.unit.read_text()
    assert "TimeoutStopSec=70\n" in home.unit.read_text()


@linux_only
@pytest.mark.parametrize("words", [[], ["--launchd"]])
@pytest.mark.parametrize("database", HOSTILE)
def test_another_program_may_take_over_the_service_of_its_database(home: Home, words: list[str], database: str) -> None:
    path = str(home.folder / database)
    text = home.service("install", *words, "--print", FWL_DB=path).stdout
    before = home.agent if words else home.unit
    before.parent.mkdir(parents=True)
    before.write_text(text.replace(sys.executable, "/opt/fwl").replace(" -m fastworker_lite", ""))

    assert home.service("install", *words, FWL_DB=f"{path}2").returncode == 4
    assert home.service("install", *words, FWL_DB=path).returncode == 0
    assert before.read_text() == text


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x", "a b", "x\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(home: Home, name: str) -> None:
    assert home.service("install", "--name", name).returncode == 2


@linux_only
def test_print_writes_nothing_and_asks_nobody(home: Home) -> None:
    result = home.service("install", "--print")
    assert result.stdout.startswith("[Unit]\n")
    assert not home.unit.exists()
    assert not (home.folder / "calls").exists()


@linux_only
@pytest.mark.parametrize("database", HOSTILE)
def test_systemd_finds_the_words_that_were_meant(database: str) -> None:
    unit = systemd_unit(
        Service(name="x", database=f"/srv/{database}", config=f"/etc/{database}.toml", stop_timeout=30.0)
    )
    [command] = [line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = [
        word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command)
    ]  # it quotes as a shell, but \\
    assert words[-4:] == ["--db", f"/srv/{database}", "--config", f"/etc/{database}.toml"]
    assert "%" not in command.replace("%%", "")


@linux_only
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit_even_of_a_python_at_an_odd_place(tmp_path: Path) -> None:
    folder = tmp_path / "50% $odd place"  # quotes and backslashes systemd allows in no program's path
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    unit = tmp_path / "fastworker.service"
    service = Service(name="x", database=f"{folder}/$x.db", config=None, stop_timeout=30.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", f"{folder}/python")
        unit.write_text(systemd_unit(service))
    result = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    ours = [line for line in result.stderr.splitlines() if "fastworker" in line]
    assert (result.returncode, ours) == (0, [])
    unit.write_text(unit.read_text().replace("pla", "nosuch"))  # it would have noticed
    assert subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, check=False).returncode != 0


# ---- launchd and cron


@pytest.mark.parametrize("database", HOSTILE)
def test_launchd_and_cron_find_the_words_that_were_meant(home: Home, database: str) -> None:
    words = [sys.executable, "-m", "fastworker_lite", "worker", "--db", str(home.folder / database)]
    plist = home.service("install", "--launchd", "--print", FWL_DB=str(home.folder / database))
    document = plistlib.loads(plist.stdout.encode())
    assert document["ProgramArguments"] == words
    assert (document["Label"], document["ExitTimeOut"]) == ("local.fastworker", 40)
    line = home.service("install", "--cron", FWL_DB=str(home.folder / database)).stdout.rstrip("\n")
    assert line.startswith("*/5 * * * * ")
    command = line.removeprefix("*/5 * * * * ").replace("\\%", "%")  # what cron makes of it
    assert shlex.split(command) == [*words[:3], "drain", *words[4:]]


def test_the_line_for_cron_works_as_it_is(home: Home) -> None:
    subprocess.run(
        [sys.executable, "-m", "fastworker_lite", "submit", "--", "touch", "ran"], cwd=home.folder,
        env=home.variables, check=True, capture_output=True,
    )  # fmt: skip
    line = home.service("install", "--cron").stdout.removeprefix("*/5 * * * * ").replace("\\%", "%")
    bare = {"HOME": str(home.folder), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["/bin/sh", "-c", line], cwd="/", env=bare, check=False).returncode == 0
    assert (home.folder / "ran").exists()


def test_an_agent_is_installed_and_removed(home: Home) -> None:
    result = home.service("install", "--launchd")
    assert result.returncode == 0 and home.agent.exists()
    domain = f"gui/{os.getuid()}"
    assert home.calls() == [
        f"launchctl bootout {domain}/local.fastworker",
        f"launchctl bootstrap {domain} {home.agent}",
    ]
    refused = home.service("install", "--launchd", FWL_DB=str(home.folder / "other.db"))
    assert refused.returncode == 4


# ---- what the worker tells the service manager


def test_the_manager_is_told_when_the_worker_is_ready_and_when_it_stops(home: Home) -> None:
    address = str(home.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE)
        with subprocess.Popen(
            [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "1"], cwd=home.folder,
            env=home.variables | {"NOTIFY_SOCKET": address}, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert manager.recv(4096).decode() == f"READY=1\nMAINPID={process.pid}"
            document = submit(home)
            assert document["worker_alive"] is True
            process.send_signal(signal.SIGTERM)
            assert manager.recv(4096) == b"STOPPING=1"
            assert process.wait(PATIENCE) == 0
        assert select.select([manager], [], [], 0)[0] == []


def test_the_manager_is_told_that_a_worker_lives_until_it_hangs(home: Home) -> None:
    address = str(home.folder / "notify")
    (home.folder / "hangs.py").write_text(HANGS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE)
        with subprocess.Popen(
            [sys.executable, "-m", "fastworker_lite", "worker", "--tasks", "hangs"], cwd=home.folder,
            env=home.variables | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert [manager.recv(4096).partition(b"\n")[0] for _ in range(3)] == [b"READY=1", *[b"WATCHDOG=1"] * 2]
            (home.folder / "hang").touch()
            is_silent = any(not select.select([manager], [], [], 0.6)[0] or not manager.recv(99) for _ in range(4))
            process.kill()
        assert is_silent


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000"}, 30),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 30),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "60000000"}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
    ],
)
def test_only_who_is_watched_says_that_it_lives(
    variables: dict[str, str], interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert ServiceManager().interval == interval
    assert not variables.keys() & os.environ.keys()


def submit(home: Home) -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "fastworker_lite", "submit", "--json", "--", "true"], cwd=home.folder,
        env=home.variables, capture_output=True, check=True,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(result.stdout)
    return document
