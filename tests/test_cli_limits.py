"""What runs when, from the shell: queues, limits, locks, keys, dependencies."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.test_cli_endings import Site, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def wait_for_file(path: Path) -> None:
    wait_until(path.exists)


# ---- dependencies


def test_a_job_waits_for_those_it_is_after(site: Site) -> None:
    first, second = site.submit("--", "true"), site.submit("--", "false")
    after = site.submit("--after", first, "--", "true")
    never = site.submit("--after", f"{first},{second}", "--", "true")
    anyway = site.submit("--after-any", second, "--", "true")
    mourner = site.submit("--after-fail", second, "--", "true")
    assert site.job(after)["reason"] == f"after {first}"

    assert site.fwl("drain").returncode == 1

    states = {name: site.job(job)["state"] for name, job in vars_of(after=after, anyway=anyway, mourner=mourner)}
    assert states == {"after": "succeeded", "anyway": "succeeded", "mourner": "succeeded"}
    assert (site.job(never)["state"], site.job(never)["reason"]) == ("cancelled", f"{second} failed")


def vars_of(**named: str) -> list[tuple[str, str]]:
    return list(named.items())


def test_a_line_of_json_may_say_what_it_is_after_and_which_lock_it_takes(site: Site) -> None:
    first = site.submit("--", "true")
    line = json.dumps({"argv": ["true"], "after": [int(first)], "lock": "l", "unique": "u"})
    (site.folder / "jobs").write_text(f"{line}\n")

    [second] = site.fwl("submit", "--from", "jobs", "--format", "jsonl").stdout.split()

    assert site.job(second.decode())["reason"] == "after 1"
    assert site.sql("SELECT unique_key, limits FROM job WHERE id = 2") == [("u", '[["lock l", 1, null]]')]


def test_a_parent_that_does_not_exist_is_no_such_job(site: Site) -> None:
    site.submit("--", "true")
    done = site.fwl("submit", "--after", "99", "--", "true")

    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"error: --after 99: no such job (newest is 1)\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--after", ""],
        ["--concurrency", "0"],
        ["--rate", "10"],
        ["--on-conflict", "keep"],
        ["--debounce", "2s"],
        ["--unique", "k", "--debounce", "2"],
        ["--skip-if-running"],
        ["--lock", "l", "--unique", "k", "--skip-if-running"],
    ],
)
def test_what_cannot_be_is_refused_with_nothing_stored(site: Site, words: list[str]) -> None:
    done = site.fwl("submit", *words, "--", "true")

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr
    assert site.fwl("status", "-a", "-q").stdout == b""


# ---- keys


def test_a_unique_job_is_added_once_and_says_so(site: Site) -> None:
    first = site.fwl("submit", "--unique", "backup", "--", "sleep", "5")
    second = site.fwl("submit", "--unique", "backup", "--", "sleep", "5")

    assert first.stdout == second.stdout == b"1\n"
    assert second.stderr == b'already queued as job 1 (unique key "backup"); nothing added\n'
    third = json.loads(site.fwl("submit", "--json", "--unique", "backup", "--", "sleep", "5").stdout)
    assert (third["id"], third["created"], third["unique_key"]) == (1, False, "backup")


def test_a_conflict_that_is_to_fail_exits_with_4_and_one_to_be_replaced_does_not(site: Site) -> None:
    site.submit("--unique", "k", "--", "true")
    failed = site.fwl("submit", "--unique", "k", "--on-conflict", "fail", "--", "true")

    assert failed.returncode == 4 and b'job 1 has the unique key "k" already' in failed.stderr
    assert site.submit("--unique", "k", "--on-conflict", "replace", "--", "true") == "2"
    assert site.job("1")["state"] == "cancelled"


def test_an_idempotency_key_leads_to_the_job_that_has_ended(site: Site) -> None:
    site.submit("--idempotency-key", "order 7", "--", "true")
    site.fwl("drain")

    again = site.fwl("submit", "--idempotency-key", "order 7", "--", "true")
    assert (again.returncode, again.stdout) == (0, b"1\n")
    assert again.stderr == b'already succeeded as job 1 (idempotency key "order 7"); nothing added\n'


# ---- locks


def test_of_two_runs_with_a_lock_one_runs_and_the_other_is_skipped(site: Site) -> None:
    started = site.folder / "started"
    with site.start("run", "--lock", "b", "--skip-if-running", "--", "sh", "-c", f"touch {started}; sleep 20") as one:
        wait_for_file(started)
        other = site.fwl("run", "--lock", "b", "--skip-if-running", "--", "echo", "never")

        assert (other.returncode, other.stdout) == (0, b"")
        assert other.stderr.startswith(b'skipped: job 1 holds lock "b" (running ')
        one.send_signal(signal.SIGTERM)
        one.wait(20)
    assert site.fwl("run", "--lock", "b", "--skip-if-running", "--", "echo", "free").stdout == b"free\n"


def test_a_lock_is_free_again_when_its_holder_was_killed(site: Site) -> None:
    started = site.folder / "started"
    with site.start("run", "--lock", "b", "--", "sh", "-c", f"touch {started}; sleep 20") as one:
        wait_for_file(started)
        one.kill()
        one.wait(20)
    done = site.fwl("run", "--lock", "b", "--skip-if-running", "--", "echo", "mine")

    # The killed run's job waits for somebody to try it again, under the same lock.
    assert done.returncode == 0
    assert done.stdout == b"mine\n" or done.stderr.startswith(b"skipped: ")


def test_a_run_waits_for_a_lock_and_goes_on_the_moment_it_is_free(site: Site) -> None:
    started, log = site.folder / "started", site.folder / "log"
    hold = f"touch {started}; sleep 1; date +%s.%N >> {log}"
    with site.start("run", "--lock", "b", "--", "sh", "-c", hold) as one:
        wait_for_file(started)
        second = site.fwl("run", "--lock", "b", "--", "sh", "-c", f"date +%s.%N >> {log}")
        assert (second.returncode, one.wait(20)) == (0, 0)
    first_ended, second_began = (float(line) for line in log.read_text().split())
    print(f"the lock went over in {second_began - first_ended:.3f} s")
    assert 0 <= second_began - first_ended < 1


def test_a_run_that_waits_for_a_lock_can_be_interrupted(site: Site) -> None:
    started = site.folder / "started"
    with site.start("run", "--lock", "b", "--", "sh", "-c", f"touch {started}; sleep 20") as one:
        wait_for_file(started)
        with site.start("run", "--lock", "b", "--", "true") as two:
            wait_until(lambda: site.sql("SELECT state FROM job WHERE id = 2") == [("blocked",)])
            two.send_signal(signal.SIGINT)
            assert two.wait(20) == 130
        one.send_signal(signal.SIGTERM)
        one.wait(20)
    assert site.job("2")["state"] == "cancelled"


def test_submits_with_a_lock_that_are_to_skip_add_one_job(site: Site) -> None:
    first = site.fwl("submit", "--lock", "b", "--skip-if-running", "--", "true")
    second = site.fwl("submit", "--lock", "b", "--skip-if-running", "--", "true")

    assert first.stdout == b"1\n"
    assert second.returncode == 0 and second.stderr.startswith(b"already queued as job 1")
    assert site.sql("SELECT count(*) FROM job") == [(1,)]


# ---- queues


def test_a_queue_is_listed_with_its_limits_and_what_it_holds(site: Site) -> None:
    assert site.fwl("queue", "set", "io", "--workers", "2", "--rate", "100/h", "--max-length", "2").returncode == 0
    site.submit("--queue", "io", "--", "true")

    [row] = json.loads(site.fwl("queue", "list", "--json").stdout)["queues"]
    assert row == {
        "name": "io",
        "paused": False,
        "workers": 2,
        "max_length": 2,
        "rate": "100/h",
        "queued": 1,
        "running": 0,
        "scheduled": 0,
        "blocked": 0,
    }
    assert site.fwl("queue").stdout.splitlines()[1].split() == [
        b"io",
        b"open",
        b"1",
        b"0",
        b"0",
        b"0",
        b"2",
        b"2",
        b"100/h",
    ]
    assert site.fwl("queue", "list", "-q").stdout == b"io\n"


def test_a_queue_that_is_full_refuses_with_4(site: Site) -> None:
    site.fwl("queue", "set", "io", "--max-length", "1")
    site.submit("-Q", "io", "--", "true")

    full = site.fwl("submit", "-Q", "io", "--", "true")
    assert full.returncode == 4 and b'queue "io" may hold 1 jobs' in full.stderr
    site.fwl("queue", "set", "io", "--max-length", "unlimited")
    assert site.submit("-Q", "io", "--", "true") == "2"


def test_a_paused_queue_is_left_alone_by_drain_and_says_why(site: Site) -> None:
    job = site.submit("--", "true")
    assert site.fwl("queue", "pause", "default").returncode == 0
    site.fwl("drain")
    assert site.job(job)["state"] == "queued"
    assert b"paused" in site.fwl("why", job).stdout
    assert b"paused" in site.fwl("queue").stdout

    assert site.fwl("queue", "resume", "default").returncode == 0
    site.fwl("drain")
    assert site.job(job)["state"] == "succeeded"


def test_a_queue_with_jobs_is_not_removed_and_an_unknown_one_is_named(site: Site) -> None:
    site.submit("--", "true")

    held = site.fwl("queue", "remove", "default")
    assert held.returncode == 4 and b'queue "default" holds 1 jobs' in held.stderr
    unknown = site.fwl("queue", "pause", "defalt")
    assert unknown.returncode == 3 and b'Did you mean "default"?' in unknown.stderr
    site.fwl("cancel", "1")
    assert site.fwl("queue", "remove", "default").returncode == 0
    assert site.fwl("queue", "remove", "default").returncode == 3


@pytest.mark.parametrize("words", [["--workers", "0"], ["--workers", "many"], ["--rate", "5"], []])
def test_a_limit_that_cannot_be_is_refused(site: Site, words: list[str]) -> None:
    done = site.fwl("queue", "set", "io", *words)

    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert json.loads(site.fwl("queue", "--json").stdout)["queues"] == []


# ---- why


def test_why_says_for_what_a_job_waits(site: Site) -> None:
    first = site.submit("--lock", "l", "--", "true")
    after = site.submit("--after", first, "--", "true")

    assert b"after 1" in site.fwl("why", after).stdout
    started = site.folder / "started"
    with site.start("run", "--lock", "l", "--priority", "high", "--", "sh", "-c", f"touch {started}; sleep 20") as one:
        wait_for_file(started)
        with site.start("drain"):
            wait_until(lambda: site.sql("SELECT state FROM job WHERE id = 1") == [("blocked",)])
            assert b"waits for lock l" in site.fwl("why", first).stdout
        one.send_signal(signal.SIGTERM)
        one.wait(20)


def test_five_thousand_jobs_that_wait_do_not_slow_a_submit(site: Site) -> None:
    """A submit costs the same with 5,000 jobs of its lock waiting."""
    lines = "\n".join(str(number) for number in range(5000))
    (site.folder / "lines").write_text(lines)
    few = cost_of_submit(site)
    site.fwl("submit", "--from", "lines", "--lock", "l", "--", "true")
    many = cost_of_submit(site)
    print(f"submit takes {few * 1000:.0f} ms, and {many * 1000:.0f} ms beside 5,000 of its lock")
    assert many < 2 * few + 0.05


def cost_of_submit(site: Site) -> float:
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        site.fwl("submit", "--lock", "l", "--", "true")
        taken.append(time.perf_counter() - began)
    return sorted(taken)[2]


# ---- times


def test_a_time_is_meant_in_the_zone_that_is_named(site: Site) -> None:
    job = site.fwl("submit", "--at", "2031-03-30 03:30", "--tz", "Europe/Berlin", "--", "true")

    assert job.stdout == b"1\n"
    assert site.sql("SELECT due_at FROM job") == [(1932600600.0,)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--at", "2031-03-30 02:30", "--tz", "Europe/Berlin"],
            b"--at: 2031-03-30 02:30 does not exist in Europe/Berlin",
        ),
        (["--at", "2031-03-30 02:30", "--tz", "Europe/Berln"], b'did you mean "Europe/Berlin"?'),
        (["--tz", "Europe/Berlin"], b"give both"),
    ],
)
def test_a_time_that_cannot_be_is_refused(site: Site, words: list[str], said: bytes) -> None:
    done = site.fwl("submit", *words, "--", "true")

    assert done.returncode == 2 and said in done.stderr and done.stdout == b""
