"""Jobs that a person changes, copies, holds and removes; and lists that stay quick beside many."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.cli.invoking import run
from fastworker_lite.store.connection import Connection

from .test_cli_endings import Site

MANY = 100_000


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_job_that_has_not_begun_is_edited_and_one_that_has_ended_is_not(site: Site) -> None:
    job = site.submit("--", "echo", "one")
    assert site.fwl("edit", job, "--priority", "5", "--tag", "a=b").returncode == 0
    assert site.fwl("edit", job, "--", "echo", "two").returncode == 0
    assert (site.job(job)["priority"], site.job(job)["tags"], site.job(job)["argv"]) == (5, {"a": "b"}, ["echo", "two"])
    site.fwl("drain")
    assert site.fwl("logs", job).stdout == b"two\n"
    assert site.fwl("edit", job, "--priority", "6").returncode == 4


def test_a_clone_has_the_command_and_options_but_for_what_is_given(site: Site) -> None:
    job = site.submit("--name", "first", "--tag", "a=b", "--timeout", "1h", "--", "true")
    copy = site.fwl("clone", "first", "--priority", "high").stdout.decode().strip()
    kept = {key: site.job(copy)[key] for key in ("name", "tags", "timeout_s", "argv", "priority")}
    assert kept == {"name": "first", "tags": {"a": "b"}, "timeout_s": 3600.0, "argv": ["true"], "priority": 10}
    assert copy != job


def test_a_held_job_begins_when_it_is_released(site: Site) -> None:
    job = site.submit("--hold", "--", "true")
    site.fwl("drain")
    assert (site.job(job)["state"], site.job(job)["reason"]) == ("blocked", "held")
    assert site.fwl("release", job).returncode == 0
    site.fwl("drain")
    assert site.job(job)["state"] == "succeeded"


def test_rm_removes_what_has_ended_and_asks_before_it_removes_more(site: Site) -> None:
    jobs = [site.submit("--", "true") for _ in range(4)]
    site.fwl("drain", "--no-cron")
    waiting = site.submit("--", "true")
    assert site.fwl("rm", jobs[0]).returncode == 0
    assert site.fwl("rm", waiting).returncode == 4
    assert site.fwl("rm", "--state", "succeeded").returncode == 2
    assert site.fwl("rm", "--state", "succeeded", "--yes").returncode == 0
    assert [row[0] for row in site.sql("SELECT id FROM job")] == [int(waiting)]
    assert not list((site.folder / "fwl.db.d" / "logs").glob("1.*"))


def test_filters_must_all_be_true(site: Site) -> None:
    one = site.submit("--name", "a1", "--tag", "k=1", "--", "true")
    site.submit("--name", "a2", "--tag", "k=2", "--", "true")
    site.submit("--name", "b1", "--tag", "k=1", "--", "true")
    assert site.fwl("status", "-q", "--name", "a*", "--tag", "k=1").stdout.decode().split() == [one]
    assert site.fwl("cancel", "--name", "a*", "--tag", "k=1").returncode == 0
    assert site.job(one)["state"] == "cancelled"


def used(site: Site, *words: str) -> float:
    """CPU seconds of a command, the least of five."""
    found = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert site.fwl(*words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def test_a_hundred_thousand_lines_are_stored_in_five_seconds_and_status_is_as_quick_as_before(site: Site) -> None:
    (site.folder / "lines").write_text("\n".join(map(str, range(MANY))))
    (site.folder / "few").write_text("\n".join(map(str, range(100))))
    site.fwl("submit", "--from", "few", "--", "true", "{}")
    few = used(site, "status")

    began = time.monotonic()
    done = site.fwl("submit", "--from", "lines", "--", "true", "{}")
    taken = time.monotonic() - began

    many = used(site, "status")
    print(f"{MANY} lines in {taken:.1f} s; status {many * 1e3:.0f} ms of CPU, {few * 1e3:.0f} ms with 100")
    assert len(done.stdout.split()) == MANY and taken <= 5
    assert many <= 1.5 * few
    assert json.loads(site.fwl("status", "--count", "--json").stdout)["count"] == MANY + 100


def test_no_read_of_a_long_list_holds_the_file_for_half_a_second(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with SyncClient(site.variables["FWL_DB"], runner="never", durability="normal") as client:
        client.map(abs, range(MANY))
    longest = [0.0]
    read = Connection.read

    def timed(self: Connection, function: Callable[..., Any], *args: Any) -> Any:
        began = time.monotonic()
        try:
            return read(self, function, *args)
        finally:
            longest[0] = max(longest[0], time.monotonic() - began)

    monkeypatch.setattr(Connection, "read", timed)
    monkeypatch.setenv("FWL_DB", site.variables["FWL_DB"])

    assert run(["status", "-a", "--tsv"]) == 0

    ids = [int(line.split("\t")[0]) for line in capsys.readouterr().out.splitlines()]
    print(f"the longest of the reads for {MANY} jobs: {longest[0] * 1e3:.0f} ms")
    assert ids == list(range(1, MANY + 1))
    assert longest[0] <= 0.5
