"""What people rely on in scripts: words arrive as they were typed, exit codes mean one thing, nothing runs twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli_endings import PATIENCE, Site, is_alive, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder that a runner with two workers serves."""
    site = Site(tmp_path_factory.mktemp("served"))
    (site.folder / "plain").write_text("no program")
    with site.start("worker", "--workers", "2", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


# ---- the words of a command

WORDS = [
    "a b",
    "'",
    '"',
    "\\",
    "$HOME",
    "`id`",
    "x\ny",
    "",
    "-",
    "--",
    "-v",
    "--name=x",
    "*",
    "{}",
    "é\U0001f600",
    "#",
    "!",
]
BYTES = [b"\xff\xfe", b"caf\xe9", b"\x80 \x1b[2J\x01"]


def test_every_word_reaches_the_command_through_a_worker(served: Site) -> None:
    words = [*map(os.fsencode, WORDS), *BYTES]
    code = "import os, sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    command = [sys.executable, "-m", "fastworker_lite", "submit", "--", sys.executable, "-c", code, *words]
    job = subprocess.run(
        command, cwd=served.folder, env=served.variables, capture_output=True, check=True
    ).stdout.decode().strip()  # fmt: skip
    assert served.call("-q", "wait", job) == 0
    assert served.log(job).split(b"\0") == words
    shown = served.job(job)["argv"]
    assert [os.fsencode(word) for word in shown[3:]] == words


def test_every_word_of_a_list_reaches_its_command(served: Site) -> None:
    lines = "".join(json.dumps({"argv": ["printf", "%s", word]}) + "\n" for word in WORDS)
    (served.folder / "list").write_text(lines)
    jobs = served.submit("--from", "list", "--format", "jsonl").split()
    assert served.call("-q", "wait", *jobs) == 0
    assert [served.log(job) for job in jobs] == [word.encode() for word in WORDS]


# ---- exit codes

CHILDREN = [
    *[(f"exit {code}", code) for code in (0, 1, 3, 124, 125, 126, 127)],
    *[(f"kill -{number} $$", 128 + number) for number in (9, 11, 15)],
]


@pytest.mark.parametrize(("script", "code"), CHILDREN)
def test_whoever_waits_for_a_code_gets_the_childs(served: Site, script: str, code: int) -> None:
    job = served.submit("-c", script)
    assert served.call("wait", "--exit-code", job) == code
    assert served.call("logs", "--exit-code", job) == code
    told = served.told("wait", "--exit-code", "--json", job)
    assert (json.loads(told)["exit_code"], json.loads(told)["source"]) == (code, "job")
    assert served.call("wait", job) == (1 if code else 0)


def test_submitting_and_following_pass_the_code_on_too(served: Site) -> None:
    assert served.fwl("submit", "--wait", "-c", "exit 9").returncode == 9
    job = served.submit("-c", "sleep 0.2; kill -15 $$")
    assert served.fwl("logs", "-f", "--exit-code", job).returncode == 143


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nosuch"], 127),
        (["./plain"], 126),
        (["--timeout", "200ms", "--", "sleep", "20"], 124),
    ],
    ids=["not found", "not executable", "timeout"],
)
def test_what_keeps_a_child_from_a_code_of_its_own_has_one(served: Site, words: list[str], code: int) -> None:
    job = served.submit("--no-check", *words)
    assert served.call("wait", "--exit-code", job) == code


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("wait {sleeping} --timeout 50ms", 124),
        ("wait {sleeping} --timeout 50ms --exit-code", 124),
        ("wait 999999", 3),
        ("wait 999999 --exit-code", 125),
        ("logs 999999", 3),
        ("logs 999999 --exit-code", 125),
        ("show 999999", 3),
        ("cancel 999999", 3),
        ("retry 999999", 3),
        ("status 999999", 3),
        ("wait", 2),
        ("cancel", 2),
        ("wait --exit-code", 125),
        ("wait --nosuch", 2),
        ("submit --wait --nosuch -- true", 125),
        ("submit -Q nosuch -- true", 3),
        ("submit -Q nosuch --wait -- true", 125),
    ],
)
def test_our_own_troubles_have_codes_of_their_own(
    served: Site, sleeping: str, capfd: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    assert served.call(*words.format(sleeping=sleeping).split()) == code
    assert capfd.readouterr().out == ""


@pytest.fixture(scope="module")
def sleeping(served: Site) -> str:
    """A job that waits for its time."""
    return served.submit("--in", "1h", "--", "true")


def test_a_selector_that_means_no_job_is_not_found(site: Site) -> None:
    for verb in ("cancel", "retry", "wait"):
        assert site.call(verb, "@failed") == 3
    assert site.call("wait", "@active", "--exit-code") == 125


def test_a_database_that_is_busy_too_long_is_told_with_75(site: Site) -> None:
    """All at once: each waits for ten seconds."""
    job = site.submit("--", "true")
    gate = site.folder / "fwl.db.d" / "gate"
    verbs = {f"wait {job}": 75, "drain": 75, f"cancel {job}": 75, "submit -- true": 75, "run -- true": 125}
    with gate.open("rb+") as held, contextlib.ExitStack() as stack:
        fcntl.flock(held, fcntl.LOCK_EX)
        started = [(stack.enter_context(site.start(*words.split())), code) for words, code in verbs.items()]
        for process, code in started:
            out, err = process.communicate(timeout=PATIENCE)
            assert (process.returncode, out) == (code, b""), err
            assert re.match(rb"error: database busy for ", err)


def test_a_database_of_a_newer_release_is_refused_with_78(site: Site) -> None:
    site.submit("--", "true")
    connection = sqlite3.connect(site.folder / "fwl.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for words, code in (("status", 78), ("wait 1", 78), ("logs 1", 78), ("drain", 78), ("wait 1 --exit-code", 125)):
        assert site.call(*words.split()) == code


# ---- locks


def test_of_two_runs_that_begin_at_once_one_runs_and_the_other_is_skipped(site: Site) -> None:
    words = ["run", "--lock", "x", "--skip-if-running", "-c", "echo ran; sleep 1.5"]
    site.submit("--in", "1h", "--", "true")  # so that neither has to make the file
    with site.start(*words) as one, site.start(*words) as other:
        told = [process.communicate(timeout=PATIENCE) for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    assert sorted(out for out, _ in told) == [b"", b"ran\n"]
    [skipped] = [err for out, err in told if not out]
    assert re.match(rb'skipped: job \d+ holds lock "x" \(', skipped)


def test_a_lock_is_free_when_who_ran_with_it_was_killed(site: Site) -> None:
    pid_file = site.folder / "pid"
    words = ["run", "--lock", "x", "--skip-if-running"]
    with site.start(*words, "-c", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 60") as holder:
        wait_until(pid_file.exists)
        holder.kill()
        holder.wait(PATIENCE)
    for number in range(2):
        again = site.fwl(*words, "--", "echo", f"mine {number}")
        assert (again.returncode, again.stdout) == (0, f"mine {number}\n".encode())
    assert not is_alive(int(pid_file.read_text()))
    assert site.job("1")["reason"].startswith("lost: ")


# ---- drain and worker


@pytest.mark.parametrize(
    ("jobs", "words", "code", "left"),
    [
        ([], "", 0, 0),
        (["true", "true"], "", 0, 0),
        (["true", "exit 3"], "", 1, 0),
        (["sleep 2", "true", "true"], "--workers 1 --max-time 1s", 124, 2),
    ],
    ids=["nothing", "success", "failure", "time"],
)
def test_drain_exits_as_its_jobs_ended(site: Site, jobs: list[str], words: str, code: int, left: int) -> None:
    for script in jobs:
        site.submit("-c", script)
    result = site.fwl("drain", "--json", *words.split())
    document = json.loads(result.stdout)
    assert result.returncode == code
    if code == 124:
        assert (document["failed"], document["stopped_by"]) == (0, "max_time")
        assert document["left"] + document["ran"] == 3 and document["ran"] >= 1
    else:
        assert (document["ran"], document["left"]) == (len(jobs), left)


def test_a_failure_that_is_tried_again_with_success_is_none_to_drain(site: Site) -> None:
    site.submit("--retries", "1", "--retry-delay", "100ms", "-c", "test $FWL_ATTEMPT = 2")
    assert site.fwl("drain").returncode == 0


@contextlib.contextmanager
def one_worker(site: Site, script: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A worker that runs this, and the process that does."""
    pid_file = site.folder / "pid"
    site.submit("-c", f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; {script}")
    with site.start("worker", "--workers", "1", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(pid_file.exists)
        yield process, int(pid_file.read_text())


def tell_to_stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    assert worker.stderr is not None
    assert worker.stderr.readline().startswith(b"stopping: ")


def test_a_worker_that_is_told_to_end_finishes_what_runs(site: Site) -> None:
    gate = site.folder / "gate"
    with one_worker(site, f"until [ -e {gate} ]; do sleep 0.02; done") as (worker, _):
        site.submit("--", "true")
        tell_to_stop(worker)
        gate.touch()
        assert worker.wait(PATIENCE) == 0
    assert [site.job(job)["state"] for job in ("1", "2")] == ["succeeded", "queued"]


def test_a_worker_that_is_told_twice_ends_what_runs(site: Site) -> None:
    with one_worker(site, "exec sleep 60") as (worker, child):
        tell_to_stop(worker)
        began = time.monotonic()
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 0
        assert time.monotonic() - began < 8
        assert not is_alive(child)
    assert site.job("1")["state"] == "queued"  # interrupted, and the next worker begins it again


# ---- many


def test_a_submit_beside_five_thousand_costs_at_most_twice_the_first(site: Site) -> None:
    first = cost_of_submit(site)
    (site.folder / "lines").write_text("".join(f"{number}\n" for number in range(5000)))
    began = time.monotonic()
    assert len(site.submit("--from", "lines", "--", "echo", "{}").splitlines()) == 5000
    all_of_them = time.monotonic() - began
    after = cost_of_submit(site)
    print(f"first {first * 1000:.1f} ms, after 5,000 {after * 1000:.1f} ms; those took {all_of_them:.2f} s")
    assert after <= 2 * first


def cost_of_submit(site: Site) -> float:
    """Without what it takes to start a process; the least of several."""
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        site.submit("--", "true")
        taken.append(time.perf_counter() - began)
    return min(taken)
