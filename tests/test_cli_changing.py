"""Jobs that a person changes, copies, holds and removes; and lists that stay quick beside many."""

from __future__ import annotations

import json
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.cli.invoking import run
from fastworker_lite.store.connection import Connection

from .test_cli_endings import PATIENCE, Screen, Site, wait_until

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


# ---- asking


def ended(site: Site, number: int) -> None:
    for _ in range(number):
        site.submit("--", "true")
    site.fwl("drain")
    site.submit("--", "true")


def answered(site: Site, answer: bytes, *words: str) -> tuple[int, bytes]:
    """The exit code of a command whose question is answered on a terminal, and what was on that."""
    screen = Screen()
    with site.start(*words, stdin=screen.theirs, stdout=screen.theirs, stderr=screen.theirs) as process:
        screen.until(b"[y/N] ")
        screen.type(answer)
        process.wait(PATIENCE)
    return process.returncode, screen.rest()


ASKING = [
    ("rm --state succeeded", "remove 2 jobs", 1),
    ("prune --older-than 0s", "remove 2 jobs", 1),
    ("cancel --all", "cancel 1 job", 3),
]


@pytest.mark.parametrize(("words", "question", "left"), ASKING)
def test_what_reaches_many_jobs_is_asked_about_on_a_terminal(site: Site, words: str, question: str, left: int) -> None:
    ended(site, 2)
    state = "SELECT count(*) FROM job WHERE state <> 'cancelled'"
    for answer in (b"n\n", b"\n", b"perhaps\n"):
        code, text = answered(site, answer, *words.split())
        assert code == 1 and f"{question}? [y/N] ".encode() in text and b"nothing was done" in text
        assert site.sql(state) == [(3,)]
    assert answered(site, b"y\n", *words.split())[0] == 0
    assert site.sql(state) == [(1 if left == 1 else 2,)]


@pytest.mark.parametrize(("words", "question", "left"), ASKING)
def test_where_nobody_can_be_asked_it_takes_yes(site: Site, words: str, question: str, left: int) -> None:
    ended(site, 2)
    refused = site.fwl(*words.split())
    said = f"error: that would {question}; add --yes if it is what you want\n"
    assert (refused.returncode, refused.stdout, refused.stderr.decode()) == (2, b"", said)
    assert site.sql("SELECT count(*) FROM job WHERE state <> 'cancelled'") == [(3,)]
    assert site.fwl(*words.split(), "--yes").returncode == 0


def test_prune_asks_only_where_it_is_told_how_old_and_finds_something(site: Site) -> None:
    assert site.fwl("prune", "--older-than", "0s").returncode == 0
    ended(site, 2)
    assert site.fwl("prune").returncode == 0
    assert site.fwl("prune", "--older-than", "1h").returncode == 0
    assert site.fwl("prune", "--older-than", "0s", "--dry-run").stdout == b"2 jobs would be removed\n"
    assert json.loads(site.fwl("prune", "--older-than", "0s", "--yes", "--json").stdout)["removed"] == 2


# ---- queues


def test_jobs_that_are_cancelled_along_with_others_are_no_failure(site: Site) -> None:
    first = site.submit("--in", "1h", "--", "true")
    site.submit("--after", first, "--", "true")
    site.submit("--lock", "l", "--", "true")
    result = site.fwl("cancel", "--all", "--yes", "--json")
    assert result.returncode == 0
    assert [one["id"] for one in json.loads(result.stdout)["results"]] == [1, 2, 3]
    assert site.sql("SELECT count(*) FROM job WHERE state = 'cancelled'") == [(3,)]


def test_a_queue_is_made_without_a_limit_and_one_that_is_not_there_is_not_said_to_take_an_option(site: Site) -> None:
    refused = site.fwl("pause", "--queue", "io")
    assert (refused.returncode, refused.stderr) == (3, b'error: no queue "io".  Queues: default\n')
    for _ in range(2):
        assert site.fwl("queue", "add", "io").returncode == 0
    assert [queue["name"] for queue in site.json("queue")["queues"]] == ["io"]
    assert site.fwl("pause", "--queue", "io").returncode == 0
    assert site.fwl("queue", "remove", "io").returncode == 0
    gone = site.fwl("queue", "remove", "io")
    assert (gone.returncode, gone.stderr) == (3, b'error: no queue "io".  Queues: default\n')


NO_WORKER = "queued; no worker is running. Start one: fwl worker   Or run the queue now: fwl drain\n"


@pytest.mark.parametrize("words", ["retry 1", "clone 1", "release 2", "resume --all"])
def test_what_queues_a_job_says_that_there_is_no_worker_or_starts_one_at_a_terminal(site: Site, words: str) -> None:
    site.fwl("run", "--", "false")
    site.submit("--hold", "--", "true")
    if words.startswith("resume"):
        site.submit("--", "true")
    assert site.fwl(*words.split()).stderr.decode() == NO_WORKER

    site.fwl("cancel", "@queued")
    site.fwl("hold", site.submit("--", "true"))
    again = {"release 2": "release @blocked", "retry 1": "retry @cancelled"}.get(words, words)
    if words.startswith("resume"):
        site.submit("--", "true")
    screen = Screen()
    with site.start(*again.split(), stdin=screen.theirs, stdout=screen.theirs, stderr=screen.theirs) as process:
        process.wait(PATIENCE)
    assert "started a worker" in screen.rest().decode()
    assert site.fwl("stop").returncode == 0


def test_who_is_too_late_is_told_what_to_type_instead(site: Site) -> None:
    site.fwl("run", "--", "true")
    held = site.fwl("hold", "1")
    assert (held.returncode, held.stderr) == (4, b"error: job 1 has ended: it is succeeded\n")
    again = site.fwl("retry", "1")
    assert (again.returncode, again.stderr) == (4, b"error: job 1 has succeeded. Run it anew: fwl clone 1\n")
    job = site.submit("--", "true")
    site.fwl("cancel", job)
    assert site.told("why", job) == f"job {job} cancelled\n  Have it run all the same: fwl retry {job}\n"


def test_why_and_show_name_what_is_in_the_way_and_what_to_type_next(site: Site) -> None:
    first, job = site.submit("--lock", "l", "--", "sleep", "60"), site.submit("--lock", "l", "--", "true")
    with site.start("worker", stdout=subprocess.DEVNULL) as process:
        site.until(first, "running")
        site.until(job, "blocked")
        assert site.told("why", job) == f"job {job} is blocked: waits for lock l, which job {first} has\n"
        assert site.told("show", job).endswith(f"\nnext: fwl why {job} - fwl edit {job} - fwl cancel {job}\n")
        assert site.told("show", first).endswith(f"\nnext: fwl logs -f {first} - fwl cancel {first}\n")
        site.fwl("cancel", first, "--now")
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert site.told("show", first).endswith(f"\nnext: fwl logs {first} - fwl retry {first}\n")


def test_pausing_a_job_holds_it_unless_it_has_begun(site: Site) -> None:
    job = site.submit("--", "true")
    assert site.fwl("pause", job).returncode == 0 and site.job(job)["reason"] == "held"
    assert site.told("why", job) == f"job {job} is blocked: held\n  Let it go on: fwl release {job}\n"
    assert site.fwl("resume", job).returncode == 0
    site.fwl("drain")
    assert site.fwl("pause", job).returncode == 4
    assert site.fwl("pause").returncode == 2
    assert site.fwl("pause", "--queue", "nosuch").returncode == 3
    assert site.fwl("pause", job, "--queue", "default").returncode == 2


def test_of_a_running_job_only_what_counts_for_its_next_attempt_is_edited(site: Site) -> None:
    with site.start("run", "--", "sleep", "60") as process:
        wait_until(lambda: (site.folder / "fwl.db").exists() and site.sql("SELECT 1 FROM job WHERE state = 'running'"))
        assert site.fwl("edit", "1", "--retries", "2", "--name", "nap").returncode == 0
        refused = site.fwl("edit", "1", "--timeout", "5s")
        held = site.fwl("hold", "1")
        site.fwl("cancel", "1", "--now")
        process.communicate(timeout=PATIENCE)
    assert refused.returncode == 4 and b"only its priority, name, tags and retries can change" in refused.stderr
    assert held.returncode == 4
    assert site.job("1")["name"] == "nap"


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
