"""Waiting from the shell: what ends it, what is said meanwhile, what it costs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastworker_lite.paths import SidePaths
from fastworker_lite.sockets import socket_directory
from tests.test_cli_endings import PATIENCE, Screen, Site, start_on, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder that a runner with two workers serves."""
    site = Site(tmp_path_factory.mktemp("served"))
    with site.start("worker", "--workers", "2", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


def until_waited_for(site: Site, job: str) -> None:
    wait_until(lambda: site.sql("SELECT 1 FROM waiter WHERE job = ?", job))


def gated(site: Site, *words: str, then: str = "exit 0") -> tuple[str, Path]:
    """A job that runs until its file is there."""
    gate = site.folder / f"gate-{time.monotonic_ns()}"
    return site.submit(*words, "-c", f"until [ -e {gate} ]; do sleep 0.02; done; {then}"), gate


# ---- what ends it


def succeeds(site: Site, job: str, gate: Path) -> None:
    gate.touch()


def is_cancelled(site: Site, job: str, gate: Path) -> None:
    site.call("cancel", job)


@pytest.mark.parametrize(
    ("then", "happens", "said", "code"),
    [
        ("exit 0", succeeds, r"{} succeeded [\d.]+s\n", 0),
        ("exit 3", succeeds, r"{} failed: exit 3 [\d.]+s\n", 1),
        ("kill -9 $$", succeeds, r"{} failed: .*9.* [\d.]+s\n", 1),
        ("exit 0", is_cancelled, r"{} cancelled [\d.]+s\n", 1),
    ],
    ids=["success", "failure", "signal", "cancel"],
)
def test_a_wait_ends_with_its_job_however_that_ends(
    served: Site, then: str, happens: Callable[[Site, str, Path], None], said: str, code: int
) -> None:
    job, gate = gated(served, then=then)
    served.until(job, "running")
    with served.start("wait", job) as waiting:
        until_waited_for(served, job)
        happens(served, job, gate)
        out, err = waiting.communicate(timeout=PATIENCE)
    assert re.fullmatch(said.format(job), out.decode())
    assert (waiting.returncode, err) == (code, b"")


def test_a_wait_ends_for_a_job_whose_parent_failed(served: Site) -> None:
    parent, gate = gated(served, then="exit 1")
    child = served.submit("--after", parent, "--", "true")
    with served.start("wait", child) as waiting:
        until_waited_for(served, child)
        gate.touch()
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert re.fullmatch(rf"{child} cancelled: .*{parent}.*\n", out.decode())
    assert waiting.returncode == 1


@pytest.mark.parametrize(("words", "code"), [((), 1), (("--exit-code",), 125)])
def test_a_wait_ends_for_a_job_whose_record_is_removed(site: Site, words: tuple[str, ...], code: int) -> None:
    job, _ = site.submit("--", "true"), site.submit("--", "true")
    with site.start("wait", job, *words) as waiting:
        until_waited_for(site, job)
        site.sql("DELETE FROM job WHERE id = ?", job)
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out) == (code, b"" if words else f"{job} removed\n".encode())


def test_a_wait_ends_for_a_job_whose_worker_was_killed(served: Site) -> None:
    job, _ = gated(served, "--on-lost", "fail")
    served.until(job, "running")
    with served.start("wait", job) as waiting:
        until_waited_for(served, job)
        os.kill(served.job(job)["worker"]["pid"], signal.SIGKILL)
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert out.startswith(f"{job} failed: lost: ".encode())
    assert waiting.returncode == 1


def test_a_wait_ends_for_a_job_of_fwl_run_that_was_killed_with_it(site: Site) -> None:
    started = site.folder / "started"
    with site.start("run", "--on-lost", "fail", "-c", f"touch {started}; exec sleep 60") as running:
        wait_until(started.exists)
        with site.start("wait", "1") as waiting:
            until_waited_for(site, "1")
            running.kill()
            out, _ = waiting.communicate(timeout=PATIENCE)
    assert out.startswith(b"1 failed: lost: ")
    assert waiting.returncode == 1


def test_jobs_that_had_ended_are_told_at_once_and_each_once(site: Site) -> None:
    site.fwl("run", "--name", "good", "--", "true")
    site.fwl("run", "-c", "exit 3")
    result = site.fwl("wait", "1-2", "1")
    assert re.fullmatch(r"1 good succeeded [\d.]+s\n2 failed: exit 3 [\d.]+s\n", result.stdout.decode())
    assert result.returncode == 1
    assert site.fwl("wait", "-q", "1-2").stdout == b""


# ---- what is waited for


@pytest.mark.parametrize(
    "words", [["--name", "n*"], ["--queue", "default"], ["--tag", "k=v"], ["--since", "1h"], ["--all"]]
)
def test_by_filters_what_has_not_ended_is_meant_and_where_all_has_the_newest(site: Site, words: list[str]) -> None:
    named = ["--name", "nightly", "--tag", "k=v"]
    site.fwl("run", *named, "--", "false")
    site.fwl("run", *named, "--", "true")
    ended = site.fwl("wait", *words)
    assert re.fullmatch(rb"2 nightly succeeded [\d.]+s\n", ended.stdout)
    assert (ended.returncode, ended.stderr) == (0, b"")

    job = site.submit(*named, "--", "true")
    assert site.fwl("wait", *words, "--timeout", "0s").stderr.endswith(f": {job} queued\n".encode())


@pytest.mark.parametrize("words", [["--name", "nosuch"], ["--state", "running"], ["@active"]])
def test_where_nothing_can_be_meant_a_wait_does_not_succeed(site: Site, words: list[str]) -> None:
    site.fwl("run", "--name", "nightly", "--", "true")
    assert site.fwl("wait", *words).returncode == 3


def test_the_start_of_a_job_can_be_waited_for(served: Site) -> None:
    first, gate = gated(served, "--in", "300ms")
    begun = served.fwl("wait", first, "--for", "started")
    assert (begun.returncode, begun.stdout) == (0, f"{first} running\n".encode())
    with served.start("wait", first, "--for", "started", "--json") as again:
        out, _ = again.communicate(timeout=PATIENCE)
    assert json.loads(out).items() >= {"schema": "fwl.events/1", "event": "started"}.items()
    gate.touch()


def test_a_job_that_ends_without_a_start_fails_a_wait_for_that(site: Site) -> None:
    job = site.submit("--", "true")
    site.call("cancel", job)
    assert site.fwl("wait", job, "--for", "started").returncode == 1


def test_the_start_of_a_job_that_waits_for_its_next_attempt_was_before(served: Site) -> None:
    job = served.submit("--retries", "1", "--retry-delay", "1h", "--", "false")
    served.until(job, "scheduled")
    result = served.fwl("wait", job, "--for", "started", "--timeout", "10s")
    assert (result.returncode, result.stdout.decode().split()[:2]) == (0, [job, "scheduled:"])
    served.call("cancel", job)


@pytest.mark.parametrize("option", ["--any", "--fail-fast"])
def test_a_wait_may_end_with_the_first(served: Site, option: str) -> None:
    long, gate = gated(served)
    short = served.submit("--", "false")
    result = served.fwl("wait", long, short, option)
    assert (result.returncode, result.stdout.decode().split()[0]) == (1, short)
    gate.touch()


def test_a_success_is_no_reason_to_end_for_who_waits_for_the_first_failure(served: Site) -> None:
    jobs = [served.submit("--", "true"), served.submit("--", "true")]
    assert len(served.fwl("wait", *jobs, "--fail-fast").stdout.splitlines()) == 2


def test_a_queue_is_drained_when_nothing_of_it_is_queued_or_runs(served: Site) -> None:
    served.submit("-Q", "gpu", "--new-queue", "--in", "1h", "--", "true")
    assert served.fwl("wait", "--queue", "gpu", "--drained").returncode == 0
    first, gate = gated(served, "-Q", "gpu")
    with served.start("wait", "--queue", "gpu", "--drained", "--json") as waiting:
        until_waited_for(served, first)
        late = served.submit("-Q", "gpu", "-c", "sleep 0.3")
        gate.touch()
        out, _ = waiting.communicate(timeout=PATIENCE)
    assert json.loads(out) == {"schema": "fwl.events/1", "event": "drained", "queue": "gpu"}
    assert served.job(late)["state"] == "succeeded"


def test_a_queue_that_is_not_drained_in_time_is_told_with_what_it_holds(site: Site) -> None:
    site.submit("--", "true")
    for seconds in ("0s", "100ms"):
        result = site.fwl("wait", "--queue", "default", "--drained", "--timeout", seconds)
        assert (result.returncode, result.stdout) == (124, b"")
        assert result.stderr.endswith(b' s: queue "default" holds 0 running, 1 queued\n')


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("wait 99", 3, "no job 99"),
        ("wait 1 99", 3, "no job 99 (newest is 1)"),
        ("wait 99 --exit-code", 125, "no job 99"),
        ("wait 1 --for ended", 2, '"ended" is neither finished nor started'),
        ("wait 1 --timeout 5", 2, "--timeout: cannot read"),
        ("wait 1 --timeout 0s", 124, "timed out after 0 s: 1 queued"),
        ("wait 1 --for started --timeout 50ms", 124, "timed out after 0.05 s: 1 queued"),
        ("wait --queue default --timeout 0s", 124, "1 queued"),
        ("wait 1 --drained", 2, "--drained takes --queue"),
        ("wait 1 --queue default --drained", 2, "--drained takes --queue"),
        ("wait --queue default --tag a=b --drained", 2, "--drained takes --queue"),
        ("wait --queue nosuch --drained", 3, 'no queue "nosuch"'),
    ],
)
def test_what_cannot_be_waited_for_is_told_with_its_code(
    site: Site, capfdbinary: pytest.CaptureFixture[bytes], words: str, code: int, said: str
) -> None:
    site.submit("--", "true")
    capfdbinary.readouterr()
    assert site.call(*words.split()) == code
    assert said in capfdbinary.readouterr().err.decode()


def test_every_end_is_an_event_in_json(served: Site) -> None:
    good, bad = served.submit("--", "true"), served.submit("-c", "exit 4")
    lines = [json.loads(line) for line in served.fwl("wait", "--json", good, bad).stdout.splitlines()]
    lines.sort(key=lambda line: line["job"]["id"])
    told = [(line["schema"], line["event"], line["job"]["id"], line["exit_code"], line["source"]) for line in lines]
    assert told == [("fwl.events/1", "ended", int(good), 0, "job"), ("fwl.events/1", "ended", int(bad), 4, "job")]


# ---- a person


def test_who_stops_waiting_is_told_that_the_job_goes_on(served: Site) -> None:
    job, gate = gated(served)
    served.until(job, "running")
    with served.start("wait", job) as waiting:
        until_waited_for(served, job)
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out) == (130, b"")
    assert err.decode() == f"detached; job {job} still running (fwl cancel {job})\n"
    gate.touch()
    assert served.sql("SELECT count(*) FROM waiter WHERE job = ?", job) == [(0,)]


def test_a_terminal_has_one_line_that_is_gone_in_the_end(served: Site, screen: Screen) -> None:
    screen.resize(24, 60)
    name = "thumbs\x1b[2J" + "\u4e16" * 40
    long, gate = gated(served, "--name", name)
    short = served.submit("--", "true")
    served.until(long, "running")
    with start_on(screen, served, "wait", long, short) as waiting:
        screen.until(b"1/2 done, 1 running (thumbs\\x1b[2J")
        gate.touch()
        assert waiting.wait(PATIENCE) == 0
    text = screen.rest().decode()
    frames = re.findall(r"\r([^\r\n]*)\x1b\[K", text)
    assert frames[-1] == ""
    assert all(len(frame) + frame.count("\u4e16") < 60 for frame in frames)
    assert "\x1b" not in text.replace("\x1b[K", "")


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {}], ids=["dumb", "no terminal"])
def test_without_a_terminal_that_can_erase_nothing_is_drawn(
    served: Site, screen: Screen, variables: dict[str, str]
) -> None:
    job = served.submit("-c", "sleep 0.3")
    old = served.variables
    served.variables = old | variables
    try:
        more = {"stdout": screen.theirs, "stderr": screen.theirs} if variables else {}
        with served.start("wait", job, **more) as waiting:
            out, err = waiting.communicate(timeout=PATIENCE)
    finally:
        served.variables = old
    shown = screen.rest() + (out or b"") + (err or b"")
    assert re.fullmatch(rf"{job} succeeded [\d.]+s\n", shown.decode())


def test_a_person_sees_the_end_of_the_log_of_the_one_job_that_failed(served: Site, screen: Screen) -> None:
    job = served.submit("-c", r"for n in $(seq 15); do printf 'line %s\033[31m\n' $n >&2; done; exit 1")
    with start_on(screen, served, "wait", job) as waiting:
        assert waiting.wait(PATIENCE) == 1
    shown = screen.rest().decode()
    assert "    line 15\\x1b[31m\n" in shown
    assert "line 5\\" not in shown
    assert shown.endswith(f"all of it: fwl logs {job}\n")
    assert served.fwl("wait", job).stderr == b""


def test_a_person_is_told_when_nobody_is_there_to_run_it(site: Site, screen: Screen) -> None:
    job = site.submit("--", "true")
    with start_on(screen, site, "wait", job, "--timeout", "50ms") as waiting:
        assert waiting.wait(PATIENCE) == 124
    assert screen.rest().startswith(b"no worker is running. Start one: fwl worker")


NO_WORKER = "no worker is running. Start one: fwl worker   Or run the queue now: fwl drain\n"


def first_line(site: Site, *words: str) -> str:
    """What a command that does not end by itself says first on its stderr, which is no terminal."""
    with site.start(*words) as process:
        assert process.stderr is not None
        return process.stderr.readline().decode()


@pytest.mark.parametrize("words", ["wait 1-2", "wait --all", "logs -f 1", "logs --wait 1"])
def test_without_a_worker_who_waits_is_told_so_wherever_stderr_goes(site: Site, words: str) -> None:
    site.submit("--", "true")
    site.submit("--", "true")
    assert first_line(site, *words.split()) == NO_WORKER


@pytest.mark.parametrize("option", ["--wait", "--follow"])
def test_who_submits_and_waits_is_told_once_that_there_is_no_worker(site: Site, option: str) -> None:
    site.fwl("run", "--", "true")
    with site.start("submit", option, "--", "true") as waiting:
        until_waited_for(site, "2")
        site.call("cancel", "2")
        _, err = waiting.communicate(timeout=PATIENCE)
    assert err.decode().count(NO_WORKER) == 1


@pytest.mark.parametrize("command", ["wait {}", "logs -f {}", "submit --wait --unique k -- true"])
def test_what_waits_for_a_person_is_told_with_what_to_type(served: Site, command: str) -> None:
    job = served.submit("--hold", "--unique", "k", "--", "true")
    with served.start(*command.format(job).split()) as waiting:
        until_waited_for(served, job)
        served.call("release", job)
        _, err = waiting.communicate(timeout=PATIENCE)
    assert err.decode().endswith(f"job {job} is blocked: held. Let it go on: fwl release {job}\n")


def test_who_waits_for_a_job_of_a_paused_queue_is_told_how_to_resume_it(served: Site) -> None:
    served.submit("-Q", "a b", "--new-queue", "--", "true")
    served.call("pause", "-Q", "a b")
    job = served.submit("-Q", "a b", "--", "true")
    said = first_line(served, "wait", job)
    assert said == f"job {job} is queued: queue \"a b\" is paused. Let it go on: fwl resume --queue 'a b'\n"
    served.call("resume", "-Q", "a b")
    assert served.call("-q", "wait", job) == 0


# ---- what it costs


def test_a_wait_is_told_and_does_not_look_again_and_again(served: Site) -> None:
    """A process that waits for two seconds uses next to no processor time in them."""
    job, gate = gated(served)
    with served.start("wait", job) as waiting:
        until_waited_for(served, job)
        before = processor_ticks(waiting.pid)
        time.sleep(2)
        used = processor_ticks(waiting.pid) - before
        gate.touch()
        began = time.monotonic()
        waiting.communicate(timeout=PATIENCE)
    print(f"{used * 10} ms of 2 s; told after {time.monotonic() - began:.3f} s")
    assert used <= 4
    assert time.monotonic() - began < 0.9  # less than the second after which it would look anyway


def processor_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_wait_costs_the_same_beside_a_hundred_thousand_jobs(site: Site) -> None:
    site.submit("--", "true")
    fill(site, 99)
    few = cost_of_wait(site)
    fill(site, 99_900)
    many = cost_of_wait(site)
    print(f"wait takes {few * 1000:.0f} ms beside 100 jobs, {many * 1000:.0f} ms beside 100,000")
    assert many < 1.5 * few


def test_a_hundred_thousand_jobs_can_be_waited_for(site: Site) -> None:
    site.submit("--", "true")
    fill(site, 99_999)
    began = time.monotonic()
    given_up = site.fwl("wait", "1-100000", "--timeout", "0s")
    first = time.monotonic() - began
    site.sql("UPDATE job SET state = 'cancelled', finished_at = 1.0")
    began = time.monotonic()
    done = site.fwl("wait", "1-100000")
    print(f"a look at 100,000: {first:.2f} s; telling of all: {time.monotonic() - began:.2f} s")
    assert given_up.returncode == 124
    assert given_up.stderr.endswith(b", 10 queued, and 99990 more\n")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 100_000)
    assert first < 10


def fill(site: Site, count: int) -> None:
    """So many copies of the first job."""
    columns = [row[1] for row in site.sql("PRAGMA table_info(job)") if row[1] not in ("id",)]
    names = ", ".join(columns)
    site.sql(
        f"""
        WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
        INSERT INTO job ({names}) SELECT {names} FROM numbers CROSS JOIN job WHERE id = 1
        """,
        count,
    )


def cost_of_wait(site: Site) -> float:
    """Of a wait that ends at once, without what it takes to start a process; the least of several."""
    taken = []
    for _ in range(7):
        began = time.perf_counter()
        assert site.call("wait", "1", "--timeout", "1ms", "-q") == 124
        taken.append(time.perf_counter() - began)
    return min(taken)


def test_a_wait_that_is_over_leaves_nothing_behind(site: Site) -> None:
    job = site.submit("--", "true")
    sockets = Path(socket_directory(SidePaths.of(site.folder / "fwl.db")))
    before = set(sockets.iterdir())
    for words in (["wait", job, "--timeout", "50ms"], ["wait", "--queue", "default", "--drained", "--timeout", "50ms"]):
        assert site.call(*words) == 124
    assert site.sql("SELECT count(*) FROM waiter") == [(0,)]
    assert {path for path in set(sockets.iterdir()) - before if f"-{os.getpid()}-" in path.name} == set()
