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

from fastworker_lite import freeze_support
from tests.examples.windows import check_window

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "tests" / "examples"
PROGRAMS = ("tool", "tk_window")

pytestmark = pytest.mark.timeout(180)  # the first test waits for PyInstaller
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")


@pytest.fixture(scope="session")
def frozen(tmp_path_factory):
    """The folder in which both programs have been frozen, as their own project would."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("PyInstaller is not installed (pip install -e '.[freeze]')")
    folder, began = tmp_path_factory.mktemp("frozen"), time.monotonic()
    for source in EXAMPLES.glob("[!_]*.py"):
        shutil.copy(source, folder)
    freezing = [
        subprocess.Popen(
            [sys.executable, "-m", "PyInstaller", "--onedir", "--log-level", "ERROR", "--paths", ROOT,
             "--exclude-module", "pygments", f"{name}.py"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for name in PROGRAMS
    ]  # fmt: skip
    for one in freezing:
        _, complaints = one.communicate()
        assert one.returncode == 0, complaints
    print(f"frozen in {time.monotonic() - began:.1f} s")
    return folder / "dist"


@pytest.fixture
def tool(frozen):
    return str(frozen / "tool" / "tool")


@pytest.fixture
def window(frozen, display, monkeypatch):
    monkeypatch.setenv("DISPLAY", display)
    return str(frozen / "tk_window" / "tk_window")


def run(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"} | variables
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=50)
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


def count(database, state):
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as file:
        return file.execute("SELECT count(*) FROM job WHERE state = ?", (state,)).fetchone()[0]


@needs_proc
def test_a_frozen_tool_runs_functions_of_its_main_script_and_its_body_once(tool, database):
    assert re.fullmatch(r"body \d+\nsum 12 in a worker\n", run(tool, database, "sum", "1", "2", "3"))
    assert processes_of(tool) == []


def test_workers_of_a_frozen_tool_find_its_modules_and_the_libraries_of_the_system(tool, database):
    assert run(tool, database, "measure", "four").endswith("measured 4 True None\n")
    said = run(tool, database, "measure", "four", LD_LIBRARY_PATH="/opt/theirs")
    assert said.endswith("measured 4 True /opt/theirs\n")


def test_processes_that_a_frozen_tool_starts_itself_are_left_to_it(tool, database):
    bodies = r"body \d+\n" * 2  # its own, and that of the process, as multiprocessing has it
    assert re.fullmatch(bodies + r"own 14\n", run(tool, database, "own", "7"))


@needs_proc
@pytest.mark.parametrize("program, words", [("tool", ["hold"]), ("window", ["100000"])])
def test_workers_die_with_the_frozen_program_that_is_killed(program, words, submitter, request):
    path, database = request.getfixturevalue(program), submitter.database
    killed = subprocess.Popen([path, database, *words], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(processes_of(path)) == 3 and count(database, "running"))
    finally:
        killed.kill()
        killed.wait()

    wait_until(lambda: processes_of(path) == [])


@needs_proc
def test_a_worker_started_on_demand_outlives_the_frozen_tool_and_keeps_its_modules(tool, database):
    left = run(tool, database, "leave", "four").split()[-1]
    words = ["-m", "fastworker_lite", "submit", "--db", database, "--", "sh", "-c", "echo ${LD_LIBRARY_PATH-none}"]
    asked = run(tool, *words, FWL_AUTOSTART="always").strip()
    try:
        for job in (left, asked):
            run(tool, "-m", "fastworker_lite", "wait", "--db", database, job)
        assert len(processes_of(tool, "worker")) == 1
        assert count(database, "succeeded") == 2
        assert run(tool, "-m", "fastworker_lite", "logs", "--db", database, asked) == "none\n"
    finally:
        for one in processes_of(tool, "worker"):
            os.kill(one, signal.SIGTERM)
    wait_until(lambda: processes_of(tool) == [])


def test_a_frozen_window_shows_progress_stays_responsive_and_opens_once(window, database):
    said = run(window, database)

    check_window("frozen Tk", said, "")
    assert said.count("body") == 1 and "sum 42 " in said


def test_freeze_support_does_nothing_in_a_program_that_is_not_frozen():
    assert freeze_support() is None
