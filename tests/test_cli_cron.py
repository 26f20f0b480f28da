"""`fwl cron` and the schedules of fastworker.toml, as real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fastworker_lite.config import load
from fastworker_lite.declarations import read_config
from fastworker_lite.store import queries, ticks
from fastworker_lite.store.connection import Connection
from tests.test_crash import until

ROOT = Path(__file__).resolve().parent.parent

SETTINGS = """\
[cron.nightly-backup]
schedule = "30 2 * * *"
timezone = "Europe/Berlin"
command = ["true"]
jitter = "10m"

[cron.fetch-feed]
every = "15m"
command = ["sh", "-c", "echo $FWL_SCHEDULED_FOR; env; pwd"]
cwd = "{folder}"
env = {{ OWN = "1" }}
env_file = "own.env"

[cron.weekly-report]
schedule = "0 9 * * MON"
timezone = "Europe/Berlin"
shell = "exit 6"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fastworker.toml").write_text(SETTINGS.format(folder=tmp_path))
    (tmp_path / "own.env").write_text("# secrets\n\nexport TOKEN='a b'\nPLAIN=x=y\n")
    return tmp_path


def environment(**more):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    return clean | {"PYTHONPATH": str(ROOT)} | more


def fwl(folder, *words, code=0, text=None, **more):
    done = subprocess.run(
        [sys.executable, "-m", "fastworker_lite", *words],
        capture_output=True, text=True, timeout=40, cwd=folder, env=environment(**more), input=text,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def listed(folder):
    document = json.loads(fwl(folder, "cron", "list", "--json").stdout)
    assert document["schema"] == "fwl.schedules/1"
    return {one["name"]: one for one in document["schedules"]}


def opened(folder):
    return Connection(str(folder / ".fastworker" / "fwl.db"))


def make_due(folder, name, ago=0.0):
    """Have a schedule of every 15 minutes be where it was so many seconds ago, as if nobody had been there since."""
    fwl(folder, "drain")  # registers it
    connection = opened(folder)
    tick = (time.time() - ago) // 900 * 900
    connection.write(
        lambda sql: sql.execute("UPDATE schedule SET tick = ?, next_at = ? WHERE name = ?", (tick, tick, name))
    )
    connection.close()


# ---- list


def test_the_list_shows_what_is_declared_before_any_runner_has_seen_it(folder):
    lines = fwl(folder, "cron", "list").stdout.splitlines()

    assert lines[0].split() == ["NAME", "SCHEDULE", "ZONE", "NEXT", "IN", "LAST", "RESULT", "OVERLAP"]
    rows = {line.split()[0]: line for line in lines[1:]}
    assert re.search(
        r"30 2 \* \* \*  +Europe/Berlin  +\w{3} \d\d \w{3} 02:3\d \+\d +\w+ +- +never +skip", rows["nightly-backup"]
    )
    assert "every 15m" in rows["fetch-feed"] and len(rows) == 3
    assert fwl(folder, "cron", "-q", "list").stdout.split() == ["fetch-feed", "nightly-backup", "weekly-report"]


def test_the_list_as_json_has_these_keys(folder):
    nightly, feed = listed(folder)["nightly-backup"], listed(folder)["fetch-feed"]

    assert {"name", "schedule", "every_s", "timezone", "enabled", "next_at", "last_fired_at", "last_job", "last_state",
            "consecutive_failures", "missed", "overlap", "catch_up", "jitter_s"} <= nightly.keys()  # fmt: skip
    assert (nightly["schedule"], nightly["every_s"], nightly["timezone"]) == ("30 2 * * *", None, "Europe/Berlin")
    assert (feed["schedule"], feed["every_s"], feed["jitter_s"]) == (None, 900.0, 0)
    assert 0 <= nightly["jitter_s"] < 600 and nightly["next_at"].endswith("Z")


def test_failures_are_counted_since_the_last_success(folder):
    for expected in (1, 2):
        fwl(folder, "cron", "run", "weekly-report")
        fwl(folder, "drain", code=1)
        assert listed(folder)["weekly-report"]["consecutive_failures"] == expected
    assert "failed(6)" in fwl(folder, "cron", "list").stdout


# ---- next


def test_next_says_which_times_do_not_exist(folder):
    jitter = int(listed(folder)["nightly-backup"]["jitter_s"])
    lines = fwl(folder, "cron", "next", "nightly-backup", "-n", "3", "--from", "2026-03-27").stdout.splitlines()

    late = [
        datetime.fromisoformat(f"2026-03-{day}") + timedelta(seconds=jitter)
        for day in ("27 02:30", "28 02:30", "29 03:00")
    ]
    assert lines == [
        f"{late[0]} +01:00",
        f"{late[1]} +01:00",
        f"{late[2]} +02:00   02:30 does not exist (clocks forward): 03:00 + jitter",
    ]


def test_next_explains_steps_that_do_not_divide_the_hour(folder):
    done = fwl(folder, "cron", "next", "*/35 * * * *", "-n", "4", "--from", "2026-11-24 02:20")

    assert done.stdout == "02:35  03:00  03:35  04:00\n"
    assert done.stderr == 'note: */35 restarts every hour (minutes 0 and 35). For every 35 minutes: every = "35m"\n'


def test_next_within_a_time_shows_all_schedules_in_order(folder):
    lines = fwl(folder, "cron", "next", "--within", "2h", TZ="UTC").stdout.splitlines()

    feed = [line for line in lines if line.endswith("fetch-feed")]
    assert len(feed) == 8 and lines == sorted(lines)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch"], 3, 'no schedule "nosuch" and not a cron expression (5 fields). Schedules: fetch-feed, '),
        (["30 25 * * *"], 2, "hour 25 is not in 0-23"),
        (["@dayly"], 2, "is not one of @hourly"),
        (["nightly-backup", "--from", "soon"], 2, '--from: cannot read "soon"'),
        (["@daily", "--timezone", "Mars"], 2, "there is no zone"),
    ],
)
def test_next_of_what_cannot_be_is_refused(folder, words, code, message):
    assert message in fwl(folder, "cron", "next", *words, code=code).stderr


# ---- check


def test_check_is_content_with_what_can_be_run(folder):
    assert fwl(folder, "cron", "check").stdout == "3 schedules, no problems\n"


def test_check_finds_everything_that_is_wrong_and_where(folder):
    (folder / "bin").mkdir()
    program = folder / "bin" / "fetch.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (folder / "fastworker.toml").write_text(
        """\
[cron.nightly-backup]
schedule = "30 25 * * *"
timezone = "Europe/Berln"
command = "backup.sh --all"
notify = ["desktop"]

[cron.fetch-feed]
every = "15m"
command = ["fetch.sh"]

[cron.fine]
schedule = "@daily"
shell = "true"

[cron.empty]
"""
    )
    path = f"{folder}/bin:{os.environ['PATH']}"
    done = fwl(folder, "cron", "check", code=78, PATH=path, HOME=str(folder))

    lines = done.stdout.splitlines()
    assert lines[0] == 'fastworker.toml:2: cron.nightly-backup.schedule: "30 25 * * *": hour 25 is not in 0-23'
    assert lines[1].startswith(
        'fastworker.toml:3: cron.nightly-backup.timezone: there is no zone "Europe/Berln"; did you'
    )
    assert lines[2].startswith("fastworker.toml:4: cron.nightly-backup.command: must be a list of words")
    assert lines[3].startswith("fastworker.toml:5: cron.nightly-backup.notify: there is no such setting")
    assert lines[4] == (
        'fastworker.toml:9: cron.fetch-feed: command "fetch.sh" not found on PATH=/usr/local/bin:/usr/bin:/bin '
        "(in your shell it is ~/bin/fetch.sh)"
    )
    assert [line.partition(": ")[0] for line in lines[5:-1]] == ["fastworker.toml:15"] * 2
    assert lines[-1] == "7 problems in 4 schedules"
    document = json.loads(fwl(folder, "cron", "check", "--json", code=78).stdout)
    assert {(one["line"], one["field"]) for one in document["problems"]} >= {(2, "schedule"), (9, "command")}


def test_check_warns_of_a_day_of_the_month_or_of_the_week(folder):
    (folder / "fastworker.toml").write_text('[cron.friday]\nschedule = "0 12 13 * FRI"\nshell = "true"\n')
    done = fwl(folder, "cron", "check")

    assert (
        "comes on day 13 of the month OR on weekday FRI" in done.stderr and done.stdout == "1 schedule, no problems\n"
    )


@pytest.mark.parametrize("words", [("worker",), ("drain",)])
def test_a_runner_refuses_a_configuration_with_a_wrong_schedule(folder, words):
    (folder / "fastworker.toml").write_text('[cron.a]\nschedule = "* * * * * *"\nshell = "true"\n')

    message = fwl(folder, *words, code=78).stderr

    assert message.startswith('error: fastworker.toml:2: cron.a.schedule: "* * * * * *" has 6 fields')
    assert fwl(folder, "submit", "--", "true").stdout == "1\n"  # who only submits need not care


# ---- drain and worker


def test_drain_runs_what_is_due_with_an_environment_of_its_own(folder):
    make_due(folder, "fetch-feed")
    fwl(folder, "drain", EXTRA="1")

    lines = fwl(folder, "logs", "1").stdout.splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:(00|15|30|45):00Z", lines[0]) and lines[-1] == str(folder)
    assert (variables["OWN"], variables["TOKEN"], variables["PLAIN"]) == ("1", "a b", "x=y")
    assert variables["PATH"] == "/usr/local/bin:/usr/bin:/bin" and "EXTRA" not in variables
    assert {"HOME", "USER", "LOGNAME", "SHELL", "LANG"} <= variables.keys()


def test_drain_makes_up_for_what_nobody_was_there_for(folder):
    make_due(folder, "fetch-feed", ago=3 * 3600)
    fwl(folder, "drain")

    feed = listed(folder)["fetch-feed"]
    assert feed["last_state"] == "succeeded" and feed["missed"] in (12, 13)
    (job,) = json.loads(fwl(folder, "show", "1", "--json").stdout)["jobs"]
    assert job["schedule"] == "fetch-feed" and job["scheduled_for"].endswith("Z")
    first = fwl(folder, "cron", "history", "fetch-feed", "-n", "1").stdout.splitlines()[1]
    assert re.search(r"succeeded  \(catch-up, .* late\)", first)


def test_drain_leaves_schedules_out_when_it_is_told_to(folder):
    make_due(folder, "fetch-feed")
    fwl(folder, "drain", "--no-cron")

    assert listed(folder)["fetch-feed"]["last_job"] is None


def test_a_worker_makes_the_jobs_and_does_what_the_file_says_now(folder):
    (folder / "fastworker.toml").write_text('[cron.tick]\nevery = "200ms"\nshell = "true"\n')
    with subprocess.Popen(
        [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "1"], cwd=folder, env=environment(),
        stderr=subprocess.DEVNULL,
    ) as worker:  # fmt: skip
        try:
            until(lambda: (folder / ".fastworker" / "fwl.db").exists())
            connection = opened(folder)
            until(lambda: len(connection.read(ticks.history, "tick", 10)) >= 3)
            until(lambda: connection.read(queries.get, 2).has_ended)
            connection.close()
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=20) == 0
    (folder / "fastworker.toml").write_text("")
    fwl(folder, "drain")
    assert listed(folder) == {}


def test_drain_and_worker_together_make_one_job_of_a_tick(folder):
    (folder / "fastworker.toml").write_text('[cron.tick]\nevery = "100ms"\nshell = "true"\noverlap = "allow"\n')
    fwl(folder, "drain")
    command = [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "1"]
    with subprocess.Popen(command, cwd=folder, env=environment(), stderr=subprocess.DEVNULL) as worker:
        for _ in range(8):
            subprocess.run(
                [sys.executable, "-m", "fastworker_lite", "drain", "--max-time", "1s"],
                cwd=folder, env=environment(), capture_output=True, timeout=30, check=False,
            )  # fmt: skip
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=20) == 0
    connection = opened(folder)
    counts = connection.read(
        lambda sql: sql.execute("SELECT count(*), count(DISTINCT scheduled_for) FROM job").fetchone()
    )
    connection.close()
    print(f"worker and drain together: {counts[0]} jobs of {counts[1]} ticks")
    assert counts[0] == counts[1] > 5


# ---- run, pause, history


def test_a_job_made_by_hand_is_shown_as_such_and_a_second_is_refused(folder):
    assert fwl(folder, "cron", "run", "fetch-feed").stdout == "1\n"
    assert "job 1 was still queued (overlap = skip)" in fwl(folder, "cron", "run", "fetch-feed", code=4).stderr

    assert "by hand" in fwl(folder, "cron", "history", "fetch-feed").stdout
    assert json.loads(fwl(folder, "cron", "history", "fetch-feed", "--json").stdout)["ticks"][0]["job"] == 1


def test_run_and_wait_ends_as_the_job_did(folder):
    with subprocess.Popen(
        [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "1"], cwd=folder, env=environment(),
        stderr=subprocess.DEVNULL,
    ) as worker:  # fmt: skip
        try:
            fwl(folder, "cron", "run", "weekly-report", "--wait", code=6)
            fwl(folder, "cron", "run", "nosuch", "--wait", code=125)
            fwl(folder, "cron", "run", "nosuch", code=3)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(timeout=20)


def test_a_paused_schedule_stays_paused_through_runners(folder):
    fwl(folder, "cron", "pause", "weekly-report")
    fwl(folder, "cron", "pause", "weekly-report")
    fwl(folder, "drain")

    assert "paused" in fwl(folder, "cron", "list").stdout and listed(folder)["weekly-report"]["next_at"] is None
    fwl(folder, "cron", "resume", "weekly-report")
    assert listed(folder)["weekly-report"]["next_at"] is not None


@pytest.mark.parametrize("command", ["run", "pause", "resume", "history"])
def test_an_unknown_schedule_is_not_found(folder, command):
    assert (
        'no schedule "nosuch". Schedules: fetch-feed, nightly-backup, weekly-report'
        in fwl(folder, "cron", command, "nosuch", code=3).stderr
    )


def test_names_that_could_steer_a_terminal_are_escaped(folder):
    (folder / "fastworker.toml").write_text('[cron."a\\u202Eb"]\nevery = "1h"\nshell = "true"\n')

    assert "\u202e" not in fwl(folder, "cron", "check", code=78).stdout


# ---- import

CRONTAB = """\
# m h dom mon dow command
SHELL=/bin/bash
PATH=/usr/local/bin:/usr/bin
MAILTO="ana@example.org"
CRON_TZ = Europe/Berlin

# the backup
30 2 * * *  /usr/local/bin/backup.sh --target "/mnt/x" >> ~/log 2>&1
SHELL=/bin/sh
@daily      find /tmp -name '*.tmp' -delete
0 9 * * MON mail -s "100\\% done" ana%Hello%there "you"
@reboot     start-something
61 * * * *  nonsense
five words and no time
0 0 1 1 *   /usr/local/bin/backup.sh --full
"""


def test_a_crontab_becomes_tables_that_are_right(folder):
    done = fwl(folder, "cron", "import", text=CRONTAB, code=1)
    (folder / "fastworker.toml").write_text(done.stdout)

    tables = tomllib.loads(done.stdout)["cron"]
    assert list(tables) == ["backup", "find", "mail", "backup-2"]
    assert tables["backup"] == {
        "schedule": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "command": ["/bin/bash", "-c", '/usr/local/bin/backup.sh --target "/mnt/x" >> ~/log 2>&1'],
        "env": {"PATH": "/usr/local/bin:/usr/bin"},
    }
    assert tables["find"]["shell"] == "find /tmp -name '*.tmp' -delete" and tables["find"]["schedule"] == "@daily"
    assert tables["mail"]["shell"] == "printf '%s\\n' Hello 'there \"you\"' | { mail -s \"100% done\" ana; }"
    assert "# the backup\n[cron.backup]" in done.stdout
    found, problems = read_config(load(folder / "fastworker.toml"))
    assert len(found) == 4 and problems == []


def test_what_a_crontab_has_and_cannot_be_imported_is_said(folder):
    said = fwl(folder, "cron", "import", text=CRONTAB, code=1).stderr

    assert "note: line 4: MAILTO=ana@example.org: no mail is sent" in said
    assert "note: line 11: what stood after % is piped into the command" in said
    assert "not imported: line 12: @reboot has no counterpart" in said
    assert 'not imported: line 13: "61 * * * *": minute 61 is not in 0-59' in said
    assert "not imported: line 14: " in said


def test_an_empty_crontab_is_no_trouble(folder):
    assert fwl(folder, "cron", "import", text="# nothing\n").stdout == ""
    assert "No such file" in fwl(folder, "cron", "import", "nosuch", code=2).stderr
