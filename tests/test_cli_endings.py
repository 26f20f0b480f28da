"""How jobs end, as the command line brings it about and tells of it: logs, why, retry, cancel, and `fwl run` on a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite.cli.invoking import run
from fastworker_lite.leases import ProcessIdentity

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20.0

TASKS = '''
import asyncio, os, sys, time
from fastworker_lite import current_job, task

@task
def speaks(path):
    """Says something on both streams and how far it is, then waits for a file."""
    print("out 1")
    print("err 1", file=sys.stderr)
    current_job().progress(40, 100, "half-way")
    while not os.path.exists(path):
        time.sleep(0.02)
    print("out 2")

@task
def sleeps():
    time.sleep(60)

@task
async def naps():
    print("napping", flush=True)
    await asyncio.sleep(60)

@task(retries=1)
def fails():
    print(f"attempt {current_job().attempt}")
    raise ValueError("no")
'''


class Site:
    """A folder with a database, and `fwl` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
        own = {"FWL_DB": str(folder / "fwl.db"), "PYTHONPATH": str(ROOT), "HOME": str(folder), "TERM": "xterm"}
        self.variables = kept | own

    @contextlib.contextmanager
    def start(self, *words: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """`fwl WORD…` in a process of its own, which does not outlive the block."""
        command = [sys.executable, "-m", "fastworker_lite", *words]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | more
        with subprocess.Popen(command, cwd=self.folder, env=self.variables, **given) as process:
            try:
                yield process
            finally:
                process.kill()

    def fwl(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def call(self, *words: str) -> int:
        """As `fwl`, but in this process, which takes a fiftieth of the time. Returns the exit code."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FWL_DB", self.variables["FWL_DB"])
            patch.chdir(self.folder)
            return run(list(words))

    def told(self, *words: str) -> str:
        """What `call` prints to stdout."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            self.call(*words)
        return out.getvalue()

    def submit(self, *words: str) -> str:
        return self.told("submit", *words).strip()

    def json(self, *words: str) -> dict[str, Any]:
        return dict(json.loads(self.told(*words, "--json")))

    def job(self, job_id: str) -> dict[str, Any]:
        [job] = self.json("show", job_id)["jobs"]
        return dict(job)

    def sql(self, statement: str, *parameters: object) -> list[Any]:
        connection = sqlite3.connect(self.folder / "fwl.db", timeout=10)
        with contextlib.closing(connection), connection:
            return connection.execute(statement, parameters).fetchall()

    def until(self, job_id: str, state: str) -> None:
        """Wait until the job is in this state."""
        wait_until(lambda: self.sql("SELECT state FROM job WHERE id = ?", job_id) == [(state,)])

    def log(self, job_id: str, stream: str = "out", attempt: int = 1) -> bytes:
        path = self.folder / "fwl.db.d" / "logs" / f"{job_id}.{attempt}.{stream}"
        return path.read_bytes() if path.exists() else b""


Captured = pytest.CaptureFixture[bytes]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    return ProcessIdentity.of(pid) is not None  # one that is dead and has not been reaped has none


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder that no runner serves."""
    return Site(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder that a runner with three workers serves."""
    site = Site(tmp_path_factory.mktemp("served"))
    (site.folder / "saying.py").write_text(TASKS)
    with site.start("worker", "--workers", "3", "--tasks", "saying", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


# ---- logs


def test_what_a_job_printed_comes_out_as_it_went_in(site: Site) -> None:
    site.fwl("run", "-c", r"printf 'a\033[2J\n\377no end'; printf 'e\tr\r\n' >&2")
    result = site.fwl("logs", "1")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"a\x1b[2J\n\xffno end", b"e\tr\r\n")


@pytest.mark.parametrize(
    ("words", "out", "err"),
    [
        ("logs 1 --stdout", "1\n2\n3\n", ""),
        ("logs 1 --stderr", "", "e\n"),
        ("logs 1 -n 2", "2\n3\n", "e\n"),
        ("logs 1 --lines 0", "", ""),
        ("logs 1 2", "1| 1\n1| 2\n1| 3\n2| second 1\n", "1| e\n"),
        ("logs 2 --attempt 1", "first 1\n", ""),
        ("logs 2 --attempt all", "first 1\nsecond 1\n", ""),
        ("logs @failed", "1\n2\n3\n", "e\n"),
        ("logs --stdout", "second 1\n", "no job is running; job 2 was the last to end: succeeded\n"),
    ],
)
def test_a_person_says_how_much_of_a_log_is_wanted(
    two_jobs: Site, capfdbinary: Captured, words: str, out: str, err: str
) -> None:
    assert two_jobs.call(*words.split()) == 0
    assert capfdbinary.readouterr() == (out.encode(), err.encode())


@pytest.fixture(scope="module")
def two_jobs(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One job that failed, and one that needed two attempts."""
    site = Site(tmp_path_factory.mktemp("two"))
    site.fwl("run", "-c", "echo 1; echo 2; echo 3; echo e >&2; exit 3")
    site.fwl("run", "--retries", "1", "-c", 'test $FWL_ATTEMPT = 2 && echo second 1 || { echo "first 1"; exit 1; }')
    return site


def test_logs_in_json_name_the_job_the_attempt_and_the_stream(two_jobs: Site) -> None:
    lines = two_jobs.fwl("logs", "2", "--attempt", "all", "--json").stdout.decode().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"schema": "fwl.logs/1", "job": 2, "attempt": 1, "stream": "out", "ts": None, "line": "first 1"},
        {"schema": "fwl.logs/1", "job": 2, "attempt": 2, "stream": "out", "ts": None, "line": "second 1"},
    ]


def test_the_files_of_a_log_are_named(two_jobs: Site) -> None:
    names = two_jobs.fwl("logs", "1", "--path").stdout.decode().split()
    assert [Path(name).name for name in names] == ["1.1.out", "1.1.err"]
    assert Path(names[0]).read_text() == "1\n2\n3\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("logs 99", 3, "no job 99"),
        ("logs 1 --attempt 2", 3, "job 1 has no attempt 2"),
        ("logs 1 --attempt x", 2, '"x" is neither'),
        ("logs 99 --exit-code", 125, "no job 99"),
        ("logs 1 2 --exit-code", 125, "takes one job"),
        ("logs 1 --exit-code", 3, ""),
        ("why 99", 3, "no job 99"),
        ("retry 99", 3, "no job 99"),
        ("retry", 2, "which jobs?"),
        ("retry 2", 4, "job 2 has succeeded"),
        ("retry @active", 3, "no job is active"),
        ("cancel 1 --signal NOSUCH", 2, '"NOSUCH" is not a signal'),
        ("cancel 1 --now --grace 1s", 2, "not both"),
        ("cancel 1", 4, "job 1 already finished (failed(3))"),
        ("submit --expires 5 -- true", 2, "--expires: cannot read"),
        ("submit --retry-backoff 0.5 -- true", 2, "--retry-backoff must be"),
    ],
)
def test_what_cannot_be_done_is_told_with_its_code(
    two_jobs: Site, capfdbinary: Captured, words: str, code: int, message: str
) -> None:
    assert two_jobs.call(*words.split()) == code
    assert message in capfdbinary.readouterr().err.decode()


def test_a_running_job_is_followed_to_its_end(served: Site) -> None:
    gate = served.folder / "followed"
    job = served.submit("--task", "speaks", str(gate))
    with served.start("logs", "-f", "--exit-code", job) as following:
        assert following.stdout is not None and following.stderr is not None
        assert following.stdout.readline() == b"out 1\n"
        gate.touch()
        assert following.communicate(timeout=PATIENCE) == (b"out 2\n", b"err 1\n")
    assert following.returncode == 0


def test_following_goes_on_with_the_next_attempt_and_says_so(served: Site) -> None:
    gate = served.folder / "next"
    script = f"echo $FWL_ATTEMPT; until [ -e {gate} ]; do sleep 0.02; done; exit $FWL_ATTEMPT"
    job = served.submit("--retries", "1", "--retry-delay", "200ms", "-c", script)
    with served.start("logs", "-f", "--exit-code", "--json", job) as following:
        assert following.stdout is not None
        first = following.stdout.readline()
        gate.touch()
        rest, err = following.communicate(timeout=PATIENCE)
    lines = [json.loads(line) for line in (first, *rest.splitlines())]
    assert [(line["attempt"], line["line"]) for line in lines] == [(1, "1"), (2, "2")]
    assert re.fullmatch(rf"job {job}: attempt 1 failed: exit 1; attempt 2 of 2 (in 0\.\ds|follows)\n", err.decode())
    assert following.returncode == 2


def test_who_stops_following_is_told_that_the_job_goes_on(served: Site) -> None:
    gate = served.folder / "left"
    job = served.submit("--task", "speaks", str(gate))
    with served.start("logs", "-f", job) as following:
        assert following.stdout is not None
        following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=PATIENCE)
    assert following.returncode == 130
    assert err.decode().endswith(f"detached; job {job} still running (fwl cancel {job})\n")
    gate.touch()
    assert served.call("-q", "wait", job) == 0


def test_without_an_id_the_only_running_job_is_meant_and_several_are_named(served: Site) -> None:
    first = served.submit("-c", "echo it is me; exec sleep 60")
    served.until(first, "running")
    wait_until(lambda: served.log(first))
    assert served.fwl("logs").stdout == b"it is me\n"
    second = served.submit("--", "sleep", "60")
    served.until(second, "running")
    both = served.fwl("logs")
    assert both.returncode == 2
    assert f"2 jobs are running, name one: {first}, {second}" in both.stderr.decode()
    assert served.fwl("cancel", "@active").returncode == 0


# ---- a terminal


class Screen:
    """A terminal of our own, and what has been written to it."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.text = b""

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.theirs, (rows, columns))

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def until(self, text: bytes) -> None:
        while text not in self.text:
            data = self._read()
            assert data, f"{text!r} did not come, but {self.text!r}"

    def rest(self) -> bytes:
        os.close(self.theirs)
        while self._read():
            pass
        os.close(self._ours)
        return self.text.replace(b"\r\n", b"\n")

    def _read(self) -> bytes:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the last one who had it open is gone
            return b""
        self.text += data
        return data


@pytest.fixture
def screen() -> Screen:
    return Screen()


def start_on(screen: Screen, site: Site, *words: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return site.start(*words, stdout=screen.theirs, stderr=screen.theirs)


def test_a_terminal_is_shown_nothing_that_would_steer_it(site: Site, screen: Screen) -> None:
    site.fwl("run", "-c", r"printf 'a\033[2J\033[31mred\033[0m\tb\r\n\377' ")
    with start_on(screen, site, "logs", "1") as process:
        process.wait(PATIENCE)
    assert screen.rest() == b"a\\x1b[2Jred     b\n\\xff\n"


def test_raw_is_for_those_who_want_the_bytes_on_a_terminal_too(site: Site, screen: Screen) -> None:
    site.fwl("run", "-c", r"printf '\033[31mred'")
    with start_on(screen, site, "logs", "--raw", "1") as process:
        process.wait(PATIENCE)
    assert screen.rest() == b"\x1b[31mred"


_LOOKS = """
import os, signal, sys, time
def look(number, _):
    print(os.isatty(1), os.isatty(2), tuple(os.get_terminal_size(1)), flush=True)
    if number:
        sys.exit(5)
signal.signal(signal.SIGWINCH, look)
look(0, None)
while True:
    time.sleep(0.05)
"""


def test_a_command_run_on_a_terminal_finds_one_of_the_same_size(site: Site, screen: Screen) -> None:
    screen.resize(11, 77)
    with start_on(screen, site, "run", "--", sys.executable, "-c", _LOOKS) as process:
        screen.until(b"True True (77, 11)\r\n")
        screen.resize(12, 66)
        process.send_signal(signal.SIGWINCH)
        assert process.wait(PATIENCE) == 5
    assert b"True True (66, 12)\n" in screen.rest()
    assert site.log("1") == b"True True (77, 11)\nTrue True (66, 12)\n"


def test_the_streams_of_a_command_on_a_terminal_are_kept_apart_in_its_logs(site: Site, screen: Screen) -> None:
    with start_on(screen, site, "run", "-c", r"printf '\033[32mgreen\n'; printf '10%%\r20%%\n' >&2") as process:
        assert process.wait(PATIENCE) == 0
    shown = screen.rest()
    assert b"\x1b[32mgreen" in shown and b"10%\r20%" in shown
    assert (site.log("1"), site.log("1", "err")) == (b"\x1b[32mgreen\n", b"10%\r20%\n")


@pytest.mark.parametrize("words", [["--no-pty"], ["--quiet-unless-failed"]])
def test_a_command_finds_no_terminal_where_none_is_wanted(site: Site, screen: Screen, words: list[str]) -> None:
    with start_on(screen, site, "run", *words, "-c", "test -t 1 || test -t 2") as process:
        assert process.wait(PATIENCE) == 1
    screen.rest()


def test_a_command_finds_no_terminal_where_stdout_is_none(site: Site, screen: Screen) -> None:
    with site.start("run", "-c", "test -t 1 || test -t 2", stderr=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    screen.rest()


def test_a_person_who_cancels_is_told_how_and_then_that_it_is_done(served: Site, screen: Screen) -> None:
    job = served.submit("--", "sleep", "60")
    served.until(job, "running")
    with start_on(screen, served, "cancel", job) as process:
        assert process.wait(PATIENCE) == 0
    assert screen.rest().decode() == f"{job} stopping (TERM, KILL in 5 s)\n{job} cancelled\n"


# ---- cancel


@pytest.mark.parametrize(
    "words",
    [["--task", "sleeps"], ["--task", "naps"], ["-c", "sleep 60 & sleep 60"]],
    ids=["call", "coroutine", "command"],
)
def test_a_running_job_is_gone_when_its_cancel_returns(served: Site, words: list[str]) -> None:
    job = served.submit(*words)
    served.until(job, "running")
    begun = time.monotonic()
    result = served.json("cancel", job)
    assert result["results"] == [{"id": int(job), "ok": True, "action": "cancel", "state": "cancelled"}]
    assert time.monotonic() - begun < 4.5  # before anybody would have been killed
    assert served.job(job)["reason"] == "cancelled"


def test_a_job_of_fwl_run_is_cancelled_by_telling_that_process(site: Site) -> None:
    with site.start("run", "--retries", "3", "-c", "echo $$; exec sleep 60") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert site.fwl("cancel", "1").returncode == 0
        assert not is_alive(pid)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert (site.job("1")["state"], site.job("1")["attempt"]) == ("cancelled", 1)


#: A command that heeds USR1, and no TERM.
_DEAF = "trap '' TERM; trap 'echo USR1; exit 0' USR1; echo up; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("words", "said"),
    [("--now", b""), ("--grace 100ms", b""), ("--signal KILL", b""), ("--signal sigusr1 --grace 9s", b"USR1\n")],
)
def test_who_cancels_says_how_a_running_job_ends(site: Site, served: Site, words: str, said: bytes) -> None:
    in_worker = served.submit("-c", _DEAF)
    with site.start("run", "-c", _DEAF) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        assert site.fwl("cancel", "1", *words.split()).returncode == 0
        assert time.monotonic() - begun < 4  # before the grace of those that were given none is over
        assert process.communicate(timeout=PATIENCE)[0] == said
    assert site.job("1")["state"] == "cancelled"
    wait_until(lambda: served.log(in_worker))
    begun = time.monotonic()
    assert served.fwl("cancel", in_worker, *words.split()).returncode == 0
    assert time.monotonic() - begun < 4
    assert served.log(in_worker) == b"up\n" + said
    assert served.job(in_worker)["state"] == "cancelled"


def test_a_second_cancel_may_have_less_patience(site: Site) -> None:
    with site.start("run", "-c", _DEAF) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert site.call("cancel", "--no-wait", "--grace", "1h", "1") == 0
        assert site.json("why", "1")["code"] == "cancelling"
        assert site.fwl("cancel", "--now", "1").returncode == 0
        process.communicate(timeout=PATIENCE)
    assert site.job("1")["state"] == "cancelled"


def test_a_cancel_that_does_not_wait_returns_while_the_job_still_ends(served: Site) -> None:
    job = served.submit("-c", "trap 'sleep 1; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    wait_until(lambda: served.log(job))
    [result] = served.json("cancel", "--no-wait", job)["results"]
    assert (result["ok"], result["state"]) == (True, "running")
    assert served.json("why", job)["code"] == "cancelling"
    assert "(being cancelled)" in served.told("status", job)
    served.until(job, "cancelled")


def test_many_who_cancel_one_job_at_once_all_see_it_gone(served: Site) -> None:
    job = served.submit("--task", "sleeps")
    served.until(job, "running")
    with contextlib.ExitStack() as stack:
        cancels = [stack.enter_context(served.start("cancel", job)) for _ in range(4)]
        codes = [process.wait(PATIENCE) for process in cancels]
    assert set(codes) <= {0, 4} and 0 in codes  # 4 for one that came when it was over
    assert served.sql("SELECT state, attempt FROM job WHERE id = ?", job) == [("cancelled", 1)]


def test_mixed_answers_are_told_one_by_one_and_exit_1(served: Site) -> None:
    ended, waiting = served.submit("--wait", "--", "true"), served.submit("--in", "1h", "--", "true")
    result = served.fwl("cancel", ended, waiting)
    assert (result.returncode, result.stderr.decode()) == (1, f"error: job {ended} already finished (succeeded)\n")
    assert served.job(waiting)["state"] == "cancelled"


def test_a_job_whose_worker_and_runner_are_gone_can_be_cancelled(site: Site) -> None:
    with site.start("run", "-c", "echo $$; exec sleep 60") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.wait(PATIENCE)
        assert site.json("why", "1")["code"] == "worker_gone"
        assert site.fwl("cancel", "1").returncode == 0
        wait_until(lambda: not is_alive(pid))
    assert site.job("1")["state"] == "cancelled"


# ---- run


def test_a_signal_to_fwl_run_ends_its_job_in_a_worker_and_its_retries(served: Site) -> None:
    with served.start("run", "--retries", "3", "-c", "echo up; exec sleep 60") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    [job] = served.json("status", "@last")["jobs"]
    assert (job["state"], job["attempt"]) == ("cancelled", 1)


def test_a_second_signal_kills_what_did_not_heed_the_first(site: Site) -> None:
    script = "trap 'echo heard' INT; echo up; while :; do sleep 0.05; done"
    with site.start("run", "-c", script) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"heard\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 137


def test_a_signal_between_two_attempts_is_the_end(site: Site) -> None:
    with site.start("run", "--retries", "3", "--retry-delay", "1h", "-c", "exit 3") as process:
        wait_until(lambda: os.path.exists(site.folder / "fwl.db"))
        site.until("1", "scheduled")
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert site.job("1")["state"] == "cancelled"


def test_what_a_command_left_behind_dies_with_it_when_it_is_late(site: Site) -> None:
    script = "trap '' TERM; sleep 60 & echo $!; exec sleep 60"
    result = site.fwl("run", "--timeout", "300ms", "--grace", "100ms", "-c", script)
    assert result.returncode == 124
    assert not is_alive(int(result.stdout))


# ---- why, show, status


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--", "true"], "no_runner", "no runner serves this file"),
        (["--in", "59m30s", "--", "true"], "scheduled", "starts in 59m"),
        (["--in", "50ms", "--", "true"], "no_runner", "no runner serves this file"),
        (["-Q", "held", "--new-queue", "--", "true"], "queue_paused", 'queue "held" is paused'),
    ],
)
def test_the_one_reason_why_a_job_has_not_begun_is_told(site: Site, words: list[str], code: str, text: str) -> None:
    job = site.submit(*words)
    site.sql("UPDATE queue SET paused = 1 WHERE name = 'held'")
    time.sleep(0.06)
    said = site.json("why", job)
    assert (said["schema"], said["code"]) == ("fwl.why/1", code)
    assert said["text"].startswith(text)
    assert text in site.told("show", job, "--why")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("-- true", "succeeded", "succeeded"),
        ("-- sh -c 'exit 3'", "failed", "failed: exit 3"),
        ("--timeout 200ms -- sleep 9", "timed_out", "failed: timed out after 0.2s"),
        ("--task fails", "failed", "failed: ValueError: no"),
        ("--on-lost fail -c 'kill -9 $PPID'", "lost", "failed: lost: worker died, signal 9"),
    ],
)
def test_how_a_job_ended_is_told(served: Site, words: str, code: str, text: str) -> None:
    job = served.submit("--wait", *shlex.split(words))
    assert served.json("why", job).items() >= {"id": int(job), "code": code, "text": text}.items()


def test_why_names_what_a_job_with_a_runner_waits_for(served: Site) -> None:
    unknown = served.submit("--task", "nosuch")
    served.until(unknown, "blocked")
    assert served.json("why", unknown)["text"] == "no worker knows task nosuch"
    again = served.submit("--retries", "2", "--retry-delay", "1h", "-c", "exit 3")
    served.until(again, "scheduled")
    assert served.json("why", again)["text"] == 'attempt 2 of 3 in 1h0m after "exit 3"'
    assert served.fwl("cancel", unknown, again).returncode == 0


def test_jobs_that_come_first_are_counted_and_an_expired_one_says_so(served: Site) -> None:
    busy = [served.submit("--", "sleep", "60") for _ in range(3)]
    for job in busy:
        served.until(job, "running")
    first, second = served.submit("--", "true"), served.submit("--expires", "1h", "--", "true")
    assert served.json("why", first)["code"] == "next"
    assert served.json("why", second)["text"] == "1 job is ahead of it"
    served.sql("UPDATE job SET expires_at = created_at WHERE id = ?", second)
    served.fwl("cancel", first, *busy)
    served.until(second, "expired")
    assert served.json("why", second)["text"].startswith("expired: nobody had started it by ")


def test_how_far_a_running_job_is_stands_in_status_show_and_why(served: Site) -> None:
    gate = served.folder / "far"
    job = served.submit("--task", "speaks", str(gate))
    wait_until(lambda: served.sql("SELECT 1 FROM progress WHERE job = ?", job))
    assert "(40/100 half-way)" in served.told("status", job)
    assert "  progress   40/100 half-way\n" in served.told("show", job)
    said = served.json("why", job)
    assert said["code"] == "running"
    assert re.fullmatch(r"is running in worker pid \d+ since .* \(.*\): 40/100 half-way", said["text"])
    [row] = served.json("status", job)["jobs"]
    assert row["progress"].items() >= {"done": 40.0, "total": 100.0, "note": "half-way"}.items()
    gate.touch()
    assert served.call("-q", "wait", job) == 0


def test_every_attempt_is_shown_where_there_was_more_than_one(served: Site) -> None:
    job = served.submit("--wait", "--task", "fails")
    attempts = served.job(job)["attempts"]
    assert [(one["number"], one["outcome"], one["error_type"]) for one in attempts] == [
        (1, "failed", "ValueError"),
        (2, "failed", "ValueError"),
    ]
    rows = [line.split() for line in served.told("show", job).splitlines() if "worker pid" in line]
    assert [row[:3] for row in rows] == [["1", "failed:", "ValueError"], ["2", "failed:", "ValueError"]]
    assert rows[0][-1] == str(attempts[0]["worker_pid"])


# ---- retry


def test_a_failed_job_is_queued_again_under_its_id(site: Site, screen: Screen) -> None:
    site.fwl("run", "-c", "echo $FWL_ATTEMPT; exit 3")
    with start_on(screen, site, "retry", "1") as process:
        assert process.wait(PATIENCE) == 0
    assert screen.rest().startswith(b"1 queued again (attempt 2)\nqueued; no worker is running.")
    again = site.json("retry", "1")
    assert (again["schema"], again["error"]["code"], again["error"]["exit_code"]) == ("fwl.error/1", "not_finished", 4)
    assert site.fwl("drain", "--workers", "1").returncode == 1
    assert site.log("1", attempt=2) == b"2\n"


def test_all_that_failed_are_queued_again_and_what_runs_is_refused(served: Site) -> None:
    failed = [served.submit("--wait", "-c", f"test -e {served.folder}/mended")]
    (served.folder / "mended").touch()
    running = served.submit("--", "sleep", "60")
    served.until(running, "running")
    answer = served.json("retry", "@failed", running)
    by_id = {str(one["id"]): one for one in answer["results"]}
    assert by_id[failed[0]] == {"id": int(failed[0]), "ok": True, "action": "retry", "state": "queued"}
    assert by_id[running]["error"]["code"] == "running"
    assert served.call("-q", "wait", failed[0]) == 0
    refused = served.fwl("retry", running)
    assert (refused.returncode, refused.stderr) == (
        4,
        f"error: job {running} is running. Cancel it first: fwl cancel {running}\n".encode(),
    )
    assert served.fwl("cancel", running).returncode == 0


# ---- options


def test_the_options_of_an_end_are_stored_with_the_job(site: Site) -> None:
    site.fwl(
        "submit", "--retry-backoff", "2", "--retry-max-delay", "1m", "--grace", "3s", "--retry-on-timeout",
        "--expires", "1h", "--", "true",
    )  # fmt: skip
    [(policy, span)] = site.sql("SELECT policy, expires_at - created_at FROM job")
    assert json.loads(policy) == {
        "kill_grace": 3.0, "retry_backoff": 2.0, "retry_max_delay": 60.0, "retry_on_timeout": True,
    }  # fmt: skip
    assert span == pytest.approx(3600)


def test_the_configuration_speaks_where_the_command_line_does_not(site: Site) -> None:
    (site.folder / "fastworker.toml").write_text('[job]\nretries = 2\ntimeout = "9s"\nqueue = "own"\n')
    site.fwl("submit", "--timeout", "1s", "--", "true")
    assert site.fwl("run", "-c", 'echo "$FWL_QUEUE $FWL_ATTEMPT"; exit 3').stdout == b"own 1\nown 2\nown 3\n"
    assert site.sql("SELECT queue, retries, timeout FROM job") == [("own", 2, 1.0), ("own", 2, 9.0)]


@pytest.mark.parametrize("command", ["logs", "why", "retry", "cancel", "run"])
def test_help_shows_examples_one_a_line_before_the_options(site: Site, capfdbinary: Captured, command: str) -> None:
    assert site.call(command, "--help") == 0
    text = capfdbinary.readouterr().out.decode()
    examples = [line for line in text.partition("Options:")[0].splitlines() if line.startswith(f"  fwl {command}")]
    assert len(examples) >= 2
