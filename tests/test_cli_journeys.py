"""Whole sessions, as people have them who come from other programs: each step is a real `fwl`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli_endings import PATIENCE, Screen, Site, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def served(site: Site) -> Iterator[Site]:
    """The folder, with a worker of two processes."""
    with site.start("worker", "--workers", "2", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


def at_terminal(site: Site, *words: str) -> tuple[int, str]:
    """The exit code of a command at a terminal, and what a person sees of it."""
    screen = Screen()
    screen.resize(24, 80)
    with site.start(*words, stdin=screen.theirs, stdout=screen.theirs, stderr=screen.theirs) as process:
        process.wait(PATIENCE)
    return process.returncode, screen.rest().decode()


def test_one_who_queues_by_hand_sees_why_a_job_failed_and_tries_it_again(served: Site) -> None:
    job = served.submit("--name", "build", "-c", 'echo broken >&2; test "$FWL_ATTEMPT" = 2')
    assert served.fwl("wait", job).returncode == 1
    assert served.told("why", "build") == f"job {job} failed: exit 1\n  Try again: fwl retry {job}\n"
    assert served.fwl("logs", "build").stderr == b"broken\n"

    code, text = at_terminal(served, "retry", "@failed")
    assert (code, text) == (0, f"{job} queued again (attempt 2)\n")
    assert served.fwl("wait", job).returncode == 0


def test_one_who_puts_jobs_aside_changes_one_and_lets_them_go(served: Site) -> None:
    first, second = (served.submit("--hold", "--name", "late", "--", "echo", word) for word in ("one", "two"))
    assert served.fwl("edit", first, "--", "echo", "changed").returncode == 0
    assert served.fwl("release", "--name", "late").returncode == 0
    assert served.fwl("wait", first, second).returncode == 0
    assert served.fwl("logs", first, second).stdout == f"{first}| changed\n{second}| two\n".encode()
    assert served.fwl("rm", first).returncode == 0
    assert served.fwl("show", first).returncode == 3


def test_one_who_chains_jobs_finds_what_came_of_the_rest(served: Site) -> None:
    first = served.submit("--hold", "-c", "exit 7")
    then = served.submit("--after", first, "--", "echo", "then")
    otherwise = served.submit("--after-fail", first, "--", "echo", "otherwise")
    assert f"(after {first})" in served.told("status", then)
    served.fwl("release", first)
    assert served.fwl("wait", first, then, otherwise).returncode == 1
    assert served.told("why", then).startswith(f"job {then} cancelled: {first} failed\n")
    assert served.log(otherwise) == b"otherwise\n"


def test_a_line_of_a_crontab_is_silent_until_it_fails_and_never_runs_twice(site: Site) -> None:
    line = ["run", "--name", "backup", "--lock", "backup", "--skip-if-running", "--quiet-unless-failed"]
    good = site.fwl(*line, "--", "echo", "fine")
    assert (good.returncode, good.stdout, good.stderr) == (0, b"", b"")
    bad = site.fwl(*line, "-c", "echo oops; exit 4")
    assert (bad.returncode, bad.stdout) == (4, b"oops\n") and b"Log: fwl logs 2" in bad.stderr

    with site.start(*line, "--", "sleep", "60") as running:
        wait_until(lambda: site.sql("SELECT 1 FROM job WHERE state = 'running'"))
        second = site.fwl(*line, "--", "echo", "twice")
        assert (second.returncode, second.stdout) == (0, b"")
        assert second.stderr.startswith(b'skipped: job 3 holds lock "backup" (running')
        site.fwl("cancel", "3", "--now")
        running.communicate(timeout=PATIENCE)
    assert [job["name"] for job in site.json("status", "-a")["jobs"]] == ["backup"] * 3


def test_one_without_a_worker_queues_from_cron_and_drains_later(site: Site) -> None:
    (site.folder / "fastworker.toml").write_text('[cron.tick]\nevery = "1h"\nshell = "echo tick"\n')
    result = site.fwl("submit", "--", "false")
    assert result.stdout == b"1\n" and result.stderr.startswith(b"queued; no worker is running.")
    drained = site.fwl("drain")
    assert drained.returncode == 1 and b"1" in drained.stderr
    assert site.fwl("cron", "check").returncode == 0
    assert site.fwl("cron", "run", "tick").stdout.strip().isdigit()
    assert site.fwl("drain").returncode == 0
    assert site.fwl("logs", "tick").stdout == b"tick\n"


def test_one_with_a_list_of_files_has_a_job_for_each_and_repeats_those_that_failed(served: Site) -> None:
    (served.folder / "good.txt").write_text("g")
    submitted = subprocess.run(
        [sys.executable, "-m", "fastworker_lite", "submit", "--from", "-", "--tag", "set=1", "--", "cp", "{}", "{.}.bak"],
        input=b"good.txt\nbad.txt\n", capture_output=True, cwd=served.folder, env=served.variables, check=True,
    )  # fmt: skip
    assert submitted.stdout == b"1\n2\n"
    assert served.fwl("wait", "1-2").returncode == 1
    assert (served.folder / "good.bak").read_text() == "g"
    assert served.fwl("status", "-q", "--state", "failed", "--tag", "set=1").stdout == b"2\n"

    (served.folder / "bad.txt").write_text("b")
    assert served.fwl("retry", "--tag", "set=1", "--state", "failed").returncode == 0
    assert served.fwl("wait", "2").returncode == 0
    assert (served.folder / "bad.bak").read_text() == "b"


def test_every_reading_command_of_a_session_answers_in_json(served: Site) -> None:
    job = served.submit("--", "true")
    served.fwl("wait", job)
    schemas = {
        "status": "fwl.jobs/1", f"show {job}": "fwl.jobs/1", f"why {job}": "fwl.why/1", "queue": "fwl.queues/1",
        "workers": "fwl.workers/1", "cron list": "fwl.schedules/1", "listeners": "fwl.listeners/1",
        "prune --dry-run": "fwl.prune/1", "status --count": "fwl.count/1",
    }  # fmt: skip
    for words, schema in schemas.items():
        assert json.loads(served.fwl(*words.split(), "--json").stdout)["schema"] == schema
