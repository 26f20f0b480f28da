"""Programs that PyInstaller has frozen, with the runner inside: a command-line tool and a window."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker_lite import ConfigError, SyncClient, freeze_support

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "tests" / "examples"


@pytest.fixture(scope="session")
def freeze(tmp_path_factory):
    """Freeze one of the examples, once, as its own project would. Returns the program."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed (pip install -e '.[freeze]')")
    folder = tmp_path_factory.mktemp("frozen")
    for source in EXAMPLES.glob("[!_]*.py"):
        shutil.copy(source, folder)
    known = {}

    def build(name):
        if name not in known:
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", "--paths", ROOT, f"{name}.py"],
                cwd=folder, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            print(f"{name} frozen in {time.monotonic() - began:.1f} s")
            known[name] = folder / "dist" / name / name
        return str(known[name])

    return build


@pytest.fixture
def tool(freeze):
    return freeze("tool")


def run(*words, **variables):
    done = subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def wait_until(is_so, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.02)


def processes_of(program, *words):
    """The processes that run this program, with these words among those of their command lines."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.readlink(f"/proc/{entry}/exe") == program:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().decode().split("\0")
                if set(words) <= set(line):
                    found.append(int(entry))
    return found


def rows(database, statement):
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
        return file.execute(statement).fetchall()


@pytest.mark.timeout(120)
def test_a_frozen_tool_runs_functions_of_its_main_script_and_its_body_once(tool, database):
    done = run(tool, database, "sum", "1", "2", "3")

    assert re.fullmatch(r"body \d+\nsum 12 in a worker\n", done)
    assert processes_of(tool) == []


@pytest.mark.timeout(120)
def test_workers_of_a_frozen_tool_find_its_modules_and_may_import_from_any_thread(tool, database):
    assert run(tool, database, "measure", "four").endswith("measured 4 True\n")


@pytest.mark.timeout(120)
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_workers_die_with_the_frozen_tool_that_is_killed(tool, database):
    program = subprocess.Popen([tool, database, "hold"], stdout=subprocess.PIPE, text=True)
    with program.stdout:
        assert program.stdout.readline() == f"body {program.pid}\n"
        workers = {int(word) for word in program.stdout.readline().split()[1:]}
    assert workers and workers <= set(processes_of(tool)) - {program.pid}
    program.kill()
    program.wait()

    wait_until(lambda: processes_of(tool) == [])


@pytest.mark.timeout(120)
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_a_worker_started_on_demand_outlives_the_frozen_tool_and_keeps_its_modules(tool, database):
    left = run(tool, database, "leave", "four").split()[-1]
    asked = subprocess.run(
        [tool, "-m", "fastworker_lite", "submit", "--db", database, "--", "sh", "-c", "echo ${LD_LIBRARY_PATH-none}"],
        env={name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"} | {"FWL_AUTOSTART": "always"},
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    try:
        for job in (left, asked.stdout.strip()):
            run(tool, "-m", "fastworker_lite", "wait", "--db", database, job)
        [(pid, role)] = rows(database, "SELECT pid, role FROM runner")
        assert role == "worker" and pid in processes_of(tool, "worker")
        assert rows(database, "SELECT state FROM job") == [("succeeded",), ("succeeded",)]
        assert run(tool, "-m", "fastworker_lite", "logs", "--db", database, asked.stdout.strip()) == "none\n"
    finally:
        for one in processes_of(tool, "worker"):
            os.kill(one, signal.SIGTERM)
    wait_until(lambda: processes_of(tool) == [])


@pytest.mark.timeout(120)
def test_a_frozen_window_shows_progress_and_opens_once(freeze, database, display):
    done = run(freeze("tk_window"), database, DISPLAY=display)

    print(done)
    assert done.count("body") == 1
    assert "result 50 frames on the main thread\n" in done and "sum 42\n" in done
    assert float(re.findall(r"p99 ([\d.]+) ms", done)[0]) < 200


def test_a_program_that_does_not_ask_whether_it_is_a_worker_is_told_so(database, monkeypatch):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "argv", ["tool", "--multiprocessing-fork", "tracker_fd=None", "pipe_handle=3"])

    client = SyncClient(database, runner="own")
    with pytest.raises(ConfigError, match="freeze_support"):
        client.start()
    client.close()


def test_a_program_that_is_not_frozen_goes_on():
    assert freeze_support() is None
