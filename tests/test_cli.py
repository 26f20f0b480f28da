"""The command line as its users meet it: real processes, their streams, their exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite.paths import SidePaths
from fastworker_lite.sockets import socket_directory

ROOT = Path(__file__).resolve().parent.parent
Result = subprocess.CompletedProcess[bytes]
Fwl = Callable[..., Result]

NO_WORKER = b"queued; no worker is running. Start one: fwl worker   Or run the queue now: fwl drain\n"


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    return kept | {"FWL_DB": str(tmp_path / "fwl.db"), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


@pytest.fixture
def fwl(tmp_path: Path, variables: dict[str, str]) -> Fwl:
    """Run `fwl WORD…` in a fresh folder."""

    def call(*words: str | bytes, given: bytes = b"", **changed: str) -> Result:
        return subprocess.run(
            [sys.executable, "-m", "fastworker_lite", *words],
            input=given, capture_output=True, cwd=tmp_path, env=variables | changed, timeout=60, check=False,
        )  # fmt: skip

    return call


@pytest.fixture
def worker(tmp_path: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A running `fwl worker` that knows the task `add`."""
    (tmp_path / "sums.py").write_text("from fastworker_lite import task\n\n@task\ndef add(a, b):\n    return a + b\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "1", "--tasks", "sums"],
        stderr=subprocess.PIPE, cwd=tmp_path, env=variables,
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"fastworker_lite 0.1.0")
    with process:
        yield process
        process.terminate()
        assert process.wait(30) == 0


def jobs_of(result: Result) -> list[dict[str, Any]]:
    document = json.loads(result.stdout)
    assert document["schema"] == "fwl.jobs/1"
    return list(document["jobs"])


# ---- submit


def test_stdout_of_submit_is_the_id_alone(fwl: Fwl) -> None:
    result = fwl("submit", "--", "true")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"1\n", NO_WORKER)


def test_submit_in_json_is_one_document_with_a_noisy_stderr(fwl: Fwl) -> None:
    document = json.loads(fwl("submit", "--json", "--", "true").stdout)
    assert (
        document.items()
        >= {"schema": "fwl.submitted/1", "id": 1, "state": "queued", "queue": "default", "ahead": 0}.items()
    )
    assert document["worker_alive"] is False


@pytest.mark.parametrize(
    "words",
    [
        ["a b", "'", '"', "$HOME", "x\ny", "", "-v", "--name", "--", "*", "{}", "é"],
        [b"\xff\xfe", b"caf\xe9"],
    ],
)
def test_a_command_gets_the_words_it_was_submitted_with(fwl: Fwl, words: list[Any]) -> None:
    code = "import os, sys; sys.stdout.buffer.write(b'|'.join(os.fsencode(word) for word in sys.argv[1:]))"
    result = fwl("run", "--", sys.executable, "-c", code, *words)
    assert result.stdout == b"|".join(os.fsencode(word) for word in words)


def test_options_after_the_command_are_the_commands(fwl: Fwl) -> None:
    fwl("submit", "--name", "x", "echo", "--name", "y", "-q")
    [job] = jobs_of(fwl("status", "--json", "1"))
    assert (job["name"], job["argv"]) == ("x", ["echo", "--name", "y", "-q"])


def test_a_shell_string_is_kept_as_one(fwl: Fwl) -> None:
    fwl("submit", "-c", "echo a | wc -c")
    [job] = jobs_of(fwl("status", "--json", "1"))
    assert (job["argv"], job["shell"]) == (None, "echo a | wc -c")


def test_a_program_that_is_not_there_is_refused_unless_no_check(fwl: Fwl) -> None:
    result = fwl("submit", "--", "nosuch")
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b'error: no executable named "nosuch" on PATH\n')
    assert fwl("submit", "--no-check", "--", "nosuch").returncode == 0


def test_lines_fill_the_braces_or_come_last(fwl: Fwl) -> None:
    assert fwl("submit", "--from", "-", "--", "echo", "{}.x", given=b"a b\n\nc\n").stdout == b"1\n2\n"
    assert fwl("submit", "--from", "-", "--format", "nul", "--", "echo", given=b"d\ne\0").stdout == b"3\n"
    assert [job["argv"] for job in jobs_of(fwl("status", "--json", "1-3"))] == [
        ["echo", "a b.x"],
        ["echo", "c.x"],
        ["echo", "d\ne"],
    ]


def test_one_bad_line_of_jsonl_stores_nothing(fwl: Fwl) -> None:
    good = b'{"argv": ["true"], "name": "n"}\n{"shell": "true", "retries": 2}\n{"task": "add", "args": [1], "kwargs": {"b": 2}}\n'
    bad = fwl("submit", "--from", "-", "--format", "jsonl", given=good + b'{"argv": ["true"], "nmae": "x"}\n')
    assert (bad.returncode, bad.stdout) == (2, b"")
    assert b"line 4" in bad.stderr
    assert fwl("status", "--count", "-a").stdout == b"0\n"
    assert fwl("submit", "--from", "-", "--format", "jsonl", given=good).stdout == b"1\n2\n3\n"


def test_an_unknown_queue_is_refused_unless_it_is_to_be_made(fwl: Fwl) -> None:
    result = fwl("submit", "-Q", "defualt", "--", "true")
    assert result.returncode == 3
    assert result.stderr == b'error: no queue "defualt". Did you mean "default"?  Queues: default\n'
    assert fwl("submit", "-Q", "gpu", "--new-queue", "--", "true").returncode == 0
    assert fwl("submit", "-Q", "gpu", "--", "true").returncode == 0


def test_a_function_is_named_only_in_allowed_modules(fwl: Fwl) -> None:
    assert fwl("submit", "--task", "os:getcwd").returncode == 2
    assert fwl("submit", "--import", "os", "--task", "os:getcwd").stdout == b"1\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit"], "nothing to run"),
        (["submit", "--in", "5", "--", "true"], '--in: cannot read "5"'),
        (["submit", "--in", "5min ago", "--", "true"], '--in: cannot read "5min ago"'),
        (["submit", "--at", "2001-01-01 03:00", "--", "true"], "Add --past-ok to run it now."),
        (["submit", "--in", "1m", "--at", "03:00", "--", "true"], "not both"),
        (["submit", "--priority", "urgent", "--", "true"], "--priority must be"),
        (["submit", "--on-lost", "x", "--", "true"], "--on-lost must be"),
        (["submit", "--env", "A", "--", "true"], "--env"),
        (["submit", "--nmae", "x", "--", "true"], "--nmae"),
        (["submit", "-C", "/nonexistent", "-c", "true"], "/nonexistent"),
        (["status", "--state", "runing"], '"runing" is not a state'),
        (["status", "4x"], '"4x" is not a job'),
        (["status", "@x"], '"@x" is not a job'),
        (["cancel"], "which jobs?"),
        (["wait"], "which jobs?"),
        (["stauts"], "Did you mean: fwl status?"),
        (["kill", "45"], "Did you mean: fwl cancel 45 --signal KILL?"),
        (["worker", "--tasks", "no_such_module"], "cannot import no_such_module: ModuleNotFoundError"),
    ],
)
def test_what_is_typed_wrongly_is_told_and_exits_2(fwl: Fwl, words: list[str], message: str) -> None:
    result = fwl(*words)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"error: ")
    assert message in result.stderr.decode()


def test_a_job_inside_a_job_does_not_inherit_its_variables(fwl: Fwl) -> None:
    result = fwl(
        "run", "--env", "MINE=1", "-c", 'echo "$FWL_JOB_ID $FWL_ATTEMPT $MINE"', FWL_JOB_ID="77", FWL_ATTEMPT="9"
    )
    assert result.stdout == b"1 1 1\n"


def test_a_clean_environment_keeps_what_login_sets(fwl: Fwl, tmp_path: Path) -> None:
    result = fwl("run", "--clean-env", "-c", 'echo "[$SECRET] $HOME"', SECRET="x")
    assert result.stdout.decode() == f"[] {tmp_path}\n"


# ---- run


@pytest.mark.parametrize(
    ("script", "code"),
    [
        *[(f"exit {code}", code) for code in (0, 1, 3, 124, 125, 126, 127, 255)],
        *[(f"kill -{number} $$", 128 + number) for number in (9, 11, 15)],
    ],
)
def test_run_exits_with_the_code_of_its_job(fwl: Fwl, script: str, code: int) -> None:
    assert fwl("run", "--", "sh", "-c", script).returncode == code


def test_run_has_codes_for_its_own_troubles(fwl: Fwl, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    assert fwl("run", "--", "nosuch").returncode == 127
    assert fwl("run", "--", "./plain").returncode == 126
    assert fwl("run", "--timeout", "200ms", "--", "sleep", "9").returncode == 124
    assert fwl("run", "--nosuch").returncode == 125
    assert fwl("run", "-Q", "nosuch", "--", "true").returncode == 125
    assert fwl("run", "--json", "--", "true").returncode == 125
    assert fwl("--db", "/nonexistent/x.db", "run", "--", "true").returncode == 125


def test_run_keeps_the_streams_apart_and_in_the_logs(fwl: Fwl, tmp_path: Path) -> None:
    result = fwl("run", "-c", "printf out; printf err >&2")
    assert (result.stdout, result.stderr) == (b"out", b"err")
    logs = tmp_path / "fwl.db.d" / "logs"
    assert [(logs / f"1.1.{stream}").read_bytes() for stream in ("out", "err")] == [b"out", b"err"]


def test_run_is_silent_about_a_success_when_asked_to_be(fwl: Fwl) -> None:
    good = fwl("run", "--quiet-unless-failed", "-c", "echo hi")
    assert (good.stdout, good.stderr) == (b"", b"")
    bad = fwl("run", "--quiet-unless-failed", "-c", "echo hi; exit 3")
    assert (bad.returncode, bad.stdout) == (3, b"hi\n")
    assert bad.stderr.startswith(b"job 2 failed: exit 3 after ")


def test_run_tries_again_as_often_as_it_was_told_to(fwl: Fwl) -> None:
    result = fwl("run", "--retries", "2", "--retry-delay", "50ms", "-c", "echo $FWL_ATTEMPT; test $FWL_ATTEMPT = 3")
    assert (result.returncode, result.stdout) == (0, b"1\n2\n3\n")


def test_run_does_not_wait_for_what_its_job_left_behind(fwl: Fwl) -> None:
    begun = time.monotonic()
    assert fwl("run", "-c", "sleep 20 & echo done").stdout == b"done\n"
    assert time.monotonic() - begun < 10


def test_the_job_of_run_gets_the_signals_that_run_gets(tmp_path: Path, variables: dict[str, str]) -> None:
    script = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "fastworker_lite", "run", "-c", script],
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env=variables,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30)[0] == b"told\n"
    assert process.returncode == 7


# ---- looking


def test_a_list_has_the_id_first_and_cuts_nothing_in_a_pipe(fwl: Fwl) -> None:
    long = "x" * 300
    fwl("submit", "--", "echo", long)
    result = fwl("status", COLUMNS="40", LANG="C", LC_ALL="C")
    header, row = result.stdout.decode().splitlines()
    assert header.split() == ["ID", "STATE", "QUEUE", "NAME", "AGE", "TIME", "COMMAND"]
    assert row.split()[:3] == ["1", "queued", "default"]
    assert row.endswith(long)
    assert fwl("-q").stdout == fwl("ls", "-q").stdout == fwl("status", "--quiet").stdout == b"1\n"


def test_nothing_that_steers_a_terminal_gets_through(fwl: Fwl) -> None:
    fwl("submit", "--name", "n\u202e", "--", "echo", "a\x1b[2Jb\nc\x9b\x7f")
    fwl("run", "-c", "printf '\\033[2Jbad' >&2; exit 1")
    for words in (["status"], ["show", "1"], ["show", "2"], ["status", "--tsv"], ["status", "--json"], ["wait", "2"]):
        text = fwl(*words).stdout.decode()
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert "a\\x1b[2Jb\\nc\\x9b\\x7f" in fwl("status").stdout.decode()


def test_every_key_of_a_job_is_there_before_it_began(fwl: Fwl) -> None:
    fwl("submit", "--in", "1h", "--priority", "high", "--retries", "2", "--timeout", "1m30s", "--", "true")
    [job] = jobs_of(fwl("show", "1", "--json"))
    keys = (
        "id name kind argv shell cwd queue priority state exit_code signal reason attempt max_attempts slots tags unique_key lock "
        "after after_mode schedule created_at run_after started_at finished_at duration_s timeout_s worker pid log result"
    )
    assert job.keys() >= set(keys.split())
    assert (job["state"], job["priority"], job["max_attempts"], job["timeout_s"]) == ("scheduled", 10, 3, 90.0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", job["run_after"])


def test_an_empty_list_is_no_failure_and_an_unknown_id_is(fwl: Fwl) -> None:
    empty = fwl("status")
    assert (empty.returncode, empty.stdout, empty.stderr) == (0, b"", b"no jobs yet. Try: fwl submit -- echo hello\n")
    assert jobs_of(fwl("status", "--json")) == []
    for words in (["status", "99"], ["show", "99"], ["wait", "99"], ["cancel", "99"], ["status", "--task-id", "99"]):
        assert fwl(*words).returncode == 3
    assert fwl("wait", "99", "--exit-code").returncode == 125


def test_errors_in_json_are_on_stdout_and_name_the_exit_code(fwl: Fwl) -> None:
    for words, code, exit_code in (
        (["show", "99", "--json"], "not_found", 3),
        (["--json", "status", "--nosuch"], "usage", 2),
        (["--json", "nosuch"], "usage", 2),
        (["run", "--json", "--", "true"], "usage", 125),
    ):
        result = fwl(*words)
        document = json.loads(result.stdout)
        assert (document["schema"], document["error"]["code"], document["error"]["exit_code"]) == (
            "fwl.error/1",
            code,
            exit_code,
        )
        assert document["error"].keys() == {"code", "message", "hint", "exit_code"}
        assert result.returncode == exit_code


def test_the_version_is_told(fwl: Fwl) -> None:
    assert fwl("--version").stdout == fwl("-V").stdout == fwl("version").stdout == b"fastworker_lite 0.1.0\n"
    assert json.loads(fwl("version", "--json").stdout)["version"] == "0.1.0"


# ---- wait and cancel


def test_waiting_says_how_each_ended_and_fails_if_one_did(fwl: Fwl) -> None:
    fwl("run", "--name", "good", "--", "true")
    fwl("run", "-c", "exit 3")
    both = fwl("wait", "1", "2")
    assert both.returncode == 1
    assert both.stdout.decode().splitlines()[0].startswith("1 good succeeded ")
    assert fwl("wait", "1").returncode == 0
    assert fwl("wait", "2", "--exit-code").returncode == 3
    assert fwl("wait", "1", "2", "--any").returncode in (0, 1)
    assert fwl("wait", "-", given=b"1\n1\n").returncode == 0


def test_a_wait_that_takes_too_long_leaves_nothing_behind(fwl: Fwl, tmp_path: Path) -> None:
    sockets = Path(
        socket_directory(SidePaths.of(tmp_path / "fwl.db"))
    )  # a place that others share, if the path is long
    before = set(sockets.iterdir())
    fwl("submit", "--", "true")
    result = fwl("wait", "1", "--timeout", "100ms")
    assert (result.returncode, result.stderr) == (124, NO_WORKER[8:] + b"timed out after 0.1 s: 1 queued\n")
    assert set(sockets.iterdir()) <= before
    sql = sqlite3.connect(tmp_path / "fwl.db")
    assert sql.execute("SELECT count(*) FROM waiter").fetchone() == (0,)
    sql.close()


def test_only_what_has_not_begun_is_cancelled(fwl: Fwl) -> None:
    fwl("run", "-c", "exit 3")
    fwl("submit", "--", "true")
    fwl("submit", "--in", "1h", "--", "true")
    assert fwl("cancel", "2").returncode == 0
    assert fwl("cancel", "--task-id", "3").returncode == 0
    done = fwl("cancel", "1")
    assert (done.returncode, done.stderr) == (4, b"error: job 1 already finished (failed(3))\n")
    assert fwl("cancel", "1", "2", "3").returncode == 4
    fwl("submit", "--", "true")
    document = json.loads(fwl("cancel", "--json", "4", "99").stdout)
    assert document["schema"] == "fwl.actions/1"
    assert [result["ok"] for result in document["results"]] == [True, False]


# ---- what --db may be


@pytest.mark.parametrize("kind", ["folder", "text", "foreign", "newer", "nowhere", "damaged"])
def test_a_file_that_is_not_ours_is_refused_and_left_alone(fwl: Fwl, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("dear diary\n")
    elif kind == "foreign":
        sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    elif kind in ("newer", "damaged"):
        fwl("status", "--db", str(path))
    if kind == "newer":
        with sqlite3.connect(path) as sql:
            sql.execute("PRAGMA user_version = 99")
        sql.close()
    if kind == "damaged":
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 4000)
    if kind == "nowhere":
        path = tmp_path / "no" / "folder.db"
    before = path.read_bytes() if path.is_file() else b""
    result = fwl("--db", str(path), "submit", "--", "true")
    expected = {"folder": 74, "nowhere": 74, "text": 65, "foreign": 65, "damaged": 65, "newer": 78}[kind]
    assert (result.returncode, result.stdout) == (expected, b"")
    assert result.stderr.count(b"\n") == 1
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_fault_in_the_configuration_file_exits_78(fwl: Fwl, tmp_path: Path) -> None:
    (tmp_path / "fastworker.toml").write_text("workers = -1\n")
    result = fwl("status")
    assert result.returncode == 78
    assert b"fastworker.toml" in result.stderr


def test_options_that_all_commands_have_may_come_first_or_last(fwl: Fwl, tmp_path: Path) -> None:
    other = str(tmp_path / "other.db")
    assert fwl("--db", other, "submit", "--", "true").stdout == b"1\n"
    assert fwl("submit", "--db", other, "--", "true").stdout == b"2\n"
    assert fwl("status", "--count").stdout == b"0\n"


def test_a_reader_that_leaves_and_a_full_disk_are_told_apart(
    fwl: Fwl, tmp_path: Path, variables: dict[str, str]
) -> None:
    program = f"{sys.executable} -m fastworker_lite"
    for _ in range(3):
        fwl("submit", "--", "true")
    early = subprocess.run(
        f"{program} status -q | true", shell=True, capture_output=True, cwd=tmp_path, env=variables, check=False
    )
    assert early.stderr == b""
    full = subprocess.run(
        f"{program} status > /dev/full", shell=True, capture_output=True, cwd=tmp_path, env=variables, check=False
    )
    assert (full.returncode, full.stderr) == (1, b"error: cannot write the output: No space left on device\n")


# ---- with a runner


def test_draining_runs_the_queue_and_tells_what_failed(fwl: Fwl) -> None:
    fwl("submit", "--", "true")
    fwl("submit", "--name", "bad", "-c", "echo why >&2; exit 3")
    fwl("submit", "--in", "1h", "--", "true")
    result = fwl("drain", "--workers", "1")
    assert (result.returncode, result.stdout) == (1, b"")
    assert re.fullmatch(rb"job 2 bad failed: exit 3 after [\d.]+s\n    why\n", result.stderr)
    again = json.loads(fwl("drain", "--json").stdout)
    assert again == {
        "schema": "fwl.drain/1", "ran": 0, "succeeded": 0, "failed": 0, "left": 1, "failed_ids": [], "stopped_by": "empty",
    }  # fmt: skip


def test_draining_stops_taking_jobs_when_its_time_is_over(fwl: Fwl) -> None:
    for _ in range(20):
        fwl("submit", "--", "sleep", "0.4")
    result = fwl("drain", "--workers", "1", "--max-time", "1s", "--json")
    assert result.returncode == 124
    assert json.loads(result.stdout)["stopped_by"] == "max_time"


def test_a_task_is_called_with_what_reads_as_json(fwl: Fwl, worker: object) -> None:
    for words in (
        ["--task", "add", "5", "3"],
        ["--task-name", "add", "--args", "5", "3", "--non-blocking"],
        ["--task", "add", "a=5", "b=3"],
    ):
        submitted = fwl("submit", "--wait", *words)
        assert submitted.returncode == 0
        [job] = jobs_of(fwl("show", "--json", submitted.stdout.decode().strip()))
        assert job["result"] == 8


def test_submitting_and_waiting_exits_with_the_code_of_the_job(fwl: Fwl, worker: object) -> None:
    result = fwl("submit", "--wait", "--", "sh", "-c", "exit 7")
    assert (result.returncode, result.stdout, result.stderr) == (7, b"1\n", b"")
    assert fwl("submit", "--wait", "--task", "add", "5").returncode == 1


def test_a_running_worker_runs_the_job_of_run(fwl: Fwl, worker: object) -> None:
    result = fwl("run", "-c", "echo out; echo err >&2; exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert fwl("run", "--timeout", "300ms", "--", "sleep", "9").returncode == 124
    assert fwl("run", "-c", "kill -11 $$").returncode == 139


def test_a_running_job_is_gone_when_its_cancel_returns(fwl: Fwl, worker: object) -> None:
    fwl("submit", "--", "sleep", "20")
    time.sleep(0.5)
    assert fwl("cancel", "1").returncode == 0
    assert fwl("submit", "--wait", "--", "true").returncode == 0  # the worker, its only one, is free
    assert jobs_of(fwl("show", "--json", "1"))[0]["state"] == "cancelled"


def test_a_worker_that_is_told_to_stop_lets_its_job_end(fwl: Fwl, worker: subprocess.Popen[bytes]) -> None:
    fwl("submit", "-c", "sleep 1; echo done")
    time.sleep(0.5)
    worker.terminate()
    assert worker.wait(30) == 0
    assert jobs_of(fwl("show", "--json", "1"))[0]["state"] == "succeeded"


def test_a_worker_that_is_told_to_stop_while_it_starts_ends_at_once(tmp_path: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, env=variables) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.terminate()
        assert process.wait(10) == 0


def test_a_name_that_no_worker_knows_is_noted(fwl: Fwl, worker: object) -> None:
    time.sleep(0.5)
    result = fwl("submit", "--task", "nosuch")
    assert result.returncode == 0
    assert result.stderr.startswith(b'note: no running worker knows task "nosuch"')
