"""Schedules for somebody else's clock."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from .test_cli_endings import Site

SCHEDULES = r"""
[cron.nightly]
schedule = "30 2 * * 1-5"
timezone = "Europe/Berlin"
command = ["/usr/bin/printf", "%s|", "100%", "a b", "$HOME", "back\\slash", "quo'te\""]
cwd = "/tmp"
timeout = "2h"
env = { WORD = "x y" }
jitter = "10m"

[cron.feed]
every = "15m"
shell = "printf '%s' \"$PWD\""
cwd = "/tmp"
overlap = "allow"

[cron.both]
schedule = "5 */6 13 */2 FRI"
command = ["/bin/true"]
"""
ODD = '[cron.odd]\nevery = "35m"\ncommand = ["/bin/true"]\n'


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "fastworker.toml").write_text(SCHEDULES)
    return Site(tmp_path)


def lines_of(site: Site) -> dict[str, str]:
    """The lines of the crontab by name; the zone counts as part of its line."""
    done = site.fwl("cron", "export", "--crontab")
    assert done.returncode == 0, done.stderr
    return {
        name: line for name, line in re.findall(r"^# (\S+)\n((?:CRON_TZ=.*\n)?.*)$", done.stdout.decode(), re.MULTILINE)
    }


def run_line(site: Site, line: str) -> bytes:
    """What cron would run of a line: what follows the five fields, with its percent signs."""
    command = line.splitlines()[-1].split(" ", 5)[5].replace("\\%", "%")
    done = subprocess.run(["sh", "-c", command], env=site.variables, capture_output=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_crontab_has_each_schedule_at_its_time_and_those_with_a_zone_last(site: Site) -> None:
    lines = lines_of(site)
    assert list(lines) == ["both", "feed", "nightly"]
    assert lines["nightly"].startswith("CRON_TZ=Europe/Berlin\n30 2 * * 1-5 ")
    assert lines["feed"].startswith("*/15 * * * * ")
    assert lines["both"].startswith("5 */6 13 */2 FRI ")


def test_a_line_of_the_crontab_runs_the_same_command_under_the_same_limits(site: Site) -> None:
    lines = lines_of(site)
    quiet = " --quiet-unless-failed"
    assert quiet in lines["nightly"]
    assert run_line(site, lines["nightly"].replace(quiet, "")) == b"100%|a b|$HOME|back\\slash|quo'te\"|"
    assert run_line(site, lines["feed"].replace(quiet, "")) == b"/tmp"
    jobs = site.sql("SELECT name, timeout, limits FROM job ORDER BY id")
    assert jobs == [("nightly", 7200.0, '[["lock nightly", 1, null]]'), ("feed", None, None)]


def test_what_a_crontab_cannot_say_is_a_comment_and_exit_1(site: Site) -> None:
    (site.folder / "fastworker.toml").write_text(ODD)
    done = site.fwl("cron", "export", "--crontab")
    assert (done.returncode, done.stdout.decode()) == (
        1, "# odd: every 2100 s does not divide an hour or a day, as a crontab would need\n",
    )  # fmt: skip


def test_one_of_the_two_clocks_is_named(site: Site) -> None:
    assert site.fwl("cron", "export").returncode == 2
    assert site.fwl("cron", "export", "--crontab", "--systemd").returncode == 2


def test_units_of_systemd_name_the_same_times(site: Site) -> None:
    text = site.fwl("cron", "export", "--systemd").stdout.decode()
    assert re.findall(r"^On\w+=.*", text, re.MULTILINE) == [
        "OnCalendar=*-1/2-13 0/6:5:00",
        "OnCalendar=Fri *-1/2-* 0/6:5:00",
        "OnBootSec=900s",
        "OnUnitActiveSec=900s",
        "OnCalendar=Mon..Fri *-*-* 2:30:00 Europe/Berlin",
    ]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(site: Site) -> None:
    text = site.fwl("cron", "export", "--systemd").stdout.decode()
    folder = site.folder / "units"
    folder.mkdir()
    for name, unit in re.findall(r"^# (\S+\.(?:service|timer))\n(.*?)(?=^# |\Z)", text, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(unit)
    units = sorted(map(str, folder.iterdir()))
    assert len(units) == 6
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    assert not [line for line in done.stderr.splitlines() if str(folder) in line], done.stderr


def test_a_task_in_python_is_made_by_its_schedule(site: Site) -> None:
    (site.folder / "mine.py").write_text("def add():\n    return 3\n")
    (site.folder / "fastworker.toml").write_text(
        'tasks = ["mine"]\n[cron.sum]\nschedule = "@daily"\npython = "mine:add"\n'
    )
    words = shlex.split(lines_of(site)["sum"])
    assert words[-4:] == ["cron", "run", "--wait", "sum"]
