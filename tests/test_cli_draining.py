"""What `fwl drain` takes for enough, what `fwl show` can show, and what `fwl queue set` reads."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from .test_cli_endings import Site, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def drained(site: Site, *words: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(site.fwl("drain", "--json", *words).stdout)
    return found


def test_drain_stops_at_the_number_of_jobs_and_leaves_the_rest(site: Site) -> None:
    for _ in range(6):
        site.submit("--", "sleep", "0.2")

    found = drained(site, "--workers", "1", "--max-jobs", "2")

    assert found["stopped_by"] == "max_jobs"
    assert 2 <= int(str(found["ran"])) < 6 and int(str(found["left"])) == 6 - int(str(found["ran"]))


def test_drain_waits_for_retries_only_when_told_to(site: Site) -> None:
    job = site.submit("--retries", "1", "--retry-delay", "1s", "--", "false")
    assert drained(site)["ran"] == 0
    assert site.job(job)["state"] == "scheduled"

    assert site.fwl("drain", "--wait-retries").returncode == 1
    assert (site.job(job)["state"], site.job(job)["attempt"]) == ("failed", 2)


def test_drain_leaves_a_file_alone_that_somebody_serves(site: Site) -> None:
    with site.start("worker", "--workers", "1", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        wait_until(lambda: site.fwl("health").returncode == 0)
        done = site.fwl("drain", "--skip-if-running")
        assert (done.returncode, done.stderr.decode().split(":")[0]) == (0, "skipped")
        assert drained(site, "--skip-if-running")["stopped_by"] == "skipped"


# ---- show


def test_show_gives_one_field(site: Site) -> None:
    job = site.submit("--", "sh", "-c", "exit 3")
    site.fwl("drain")
    assert site.fwl("show", job, "--field", "exit_code").stdout == b"3\n"
    assert site.fwl("show", job, "--field", "argv").stdout == b'["sh", "-c", "exit 3"]\n'
    refused = site.fwl("show", job, "--field", "exitcode")
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_show_hides_the_values_of_the_environment_until_they_are_asked_for(site: Site) -> None:
    job = site.submit("--clean-env", "--env", "TOKEN=s3cret", "--", "true")
    names = site.fwl("show", job, "--env").stdout.decode()
    assert "TOKEN" in names.split() and "s3cret" not in names
    assert "s3cret" not in site.fwl("show", job, "--shell").stdout.decode()
    assert "TOKEN=s3cret" in site.fwl("show", job, "--env", "--reveal").stdout.decode().split()


def test_the_line_that_show_prints_does_the_same(site: Site) -> None:
    words = ["sh", "-c", 'printf "%s|" "$@" "$WORD" "$PWD"', "x", "a b", "", "'q'", "-n"]
    job = site.submit("--env", "WORD=one two", "--", *words)
    site.fwl("drain")
    line = site.fwl("show", job, "--shell", "--reveal").stdout.decode()

    again = subprocess.run(["sh", "-c", line], capture_output=True, check=True, cwd="/")

    assert again.stdout == site.fwl("logs", job).stdout != b""
    assert shlex.split(line)[:2] == ["cd", str(site.folder)]


# ---- queue set


def test_a_queue_takes_a_share_of_the_cores(site: Site) -> None:
    site.fwl("queue", "set", "gpu", "--workers", "50%")
    assert site.sql("SELECT workers FROM queue") == [(max(1, (os.cpu_count() or 1) // 2),)]
    assert site.fwl("queue", "set", "gpu", "--workers", "0%").returncode == 0
    assert site.sql("SELECT workers FROM queue") == [(1,)]


@pytest.mark.parametrize("text", ["x", "-1", "0", "1.5", "50 %", "%"])
def test_what_is_no_number_of_workers_says_what_is(site: Site, text: str) -> None:
    done = site.fwl("queue", "set", "gpu", f"--workers={text}")
    assert done.returncode == 2
    assert b"Use N, 50% or unlimited" in done.stderr
