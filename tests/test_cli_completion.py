"""Completion, as the shells ask for it: what is offered, how long that takes, and that it leaves the file alone."""

from __future__ import annotations

import os
import pty
import re
import resource
import select
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.cli.commands import COMMANDS, entries_in
from fastworker_lite.cli.completion import SCRIPTS

ROOT = Path(__file__).resolve().parent.parent
Complete = Callable[..., tuple[str, list[str]]]


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    return kept | {"FWL_DB": str(tmp_path / "fwl.db"), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


@pytest.fixture
def complete(tmp_path: Path, variables: dict[str, str]) -> Complete:
    """What the last word may be: what the shell adds, and the candidates."""

    def call(*words: str, **changed: str) -> tuple[str, list[str]]:
        answer = subprocess.run(
            [sys.executable, "-m", "fastworker_lite", "_complete", "zsh", *words],
            capture_output=True, cwd=tmp_path, env=variables | changed, timeout=30, check=True, text=True,
        )  # fmt: skip
        assert answer.stderr == ""
        first, *lines = answer.stdout.splitlines()
        return first, [line.partition("\t")[0] for line in lines]

    return call


def store(path: Path, number: int) -> None:
    """As many jobs: the third one of each three is queued, the others have failed."""
    with SyncClient(str(path), runner="never", durability="normal") as client:
        client.submit("add", 1, 2)
    sql = sqlite3.connect(path)
    names = [row[1] for row in sql.execute("PRAGMA table_info(job)") if row[1] != "id"]
    changed = {"state": "iif(x % 3, 'failed', 'queued')", "name": "'job ' || x"}
    values = ", ".join(changed.get(name, name) for name in names)
    sql.execute(
        f"WITH RECURSIVE n(x) AS (SELECT 2 UNION ALL SELECT x + 1 FROM n WHERE x < {number}) "
        f"INSERT INTO job ({', '.join(names)}) SELECT {values} FROM job, n WHERE id = 1"
    )
    sql.commit()
    sql.close()


@pytest.fixture
def jobs(tmp_path: Path) -> None:
    store(tmp_path / "fwl.db", 12)


# ---- what is offered


def test_the_commands_are_offered_with_what_they_do(tmp_path: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "fastworker_lite", "_complete", "zsh", ""]
    answer = subprocess.run(command, capture_output=True, env=variables, check=True, text=True)
    assert answer.stdout.splitlines()[1:] == [f"{name}\t{entry.summary}" for name, entry in entries_in("").items()]


def test_what_has_been_typed_of_a_word_narrows_the_choice(complete: Complete) -> None:
    assert complete("cr") == ("nothing 0", ["cron"])
    assert complete("cron", "p") == ("nothing 0", ["pause"])
    assert complete("--db", "x.db", "cron", "p") == ("nothing 0", ["pause"])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "ls"])
def test_every_command_offers_its_options(complete: Complete, name: str) -> None:
    offered = complete(*name.split(), "--")[1]
    assert {"--db", "--json", "--help"} <= set(offered)


def test_an_option_is_offered_once_unless_it_may_be_repeated(complete: Complete) -> None:
    offered = complete("submit", "--queue", "io", "--env", "A=1", "--")[1]
    assert "--queue" not in offered
    assert "--env" in offered
    assert "--task-name" not in offered  # hidden


def test_jobs_are_offered_newest_first_and_only_where_they_make_sense(complete: Complete, jobs: None) -> None:
    selectors = ["@last", "@failed", "@active"]
    assert complete("cancel", "") == ("nothing 0", [*selectors, "12", "9", "6", "3", "1"])
    assert complete("retry", "") == ("nothing 0", [*selectors, "11", "10", "8", "7", "5", "4", "2"])
    assert complete("show", "1") == ("nothing 0", ["12", "11", "10", "1"])
    assert complete("wait", "@") == ("nothing 0", selectors)
    assert complete("submit", "--after", "3,1")[1] == ["3,12", "3,11", "3,10", "3,1"]


def test_values_of_options_are_offered_also_behind_an_equals_sign(complete: Complete, jobs: None) -> None:
    assert complete("submit", "--queue", "") == ("nothing 0", ["default"])
    assert complete("submit", "--queue=d") == ("nothing 0", ["--queue=default"])
    assert complete("submit", "--on-conflict", "")[1] == ["keep", "fail", "replace"]
    assert complete("status", "--state", "s")[1] == ["scheduled", "succeeded"]
    assert complete("submit", "--cwd", "")[0] == "folders 0"
    assert complete("submit", "--from", "")[0] == "files 0"


def test_the_names_of_schedules_and_listeners_and_topics_are_offered(complete: Complete, tmp_path: Path) -> None:
    with SyncClient(str(tmp_path / "fwl.db"), runner="never", durability="normal") as client:
        client.schedule("nightly", "add", cron="0 3 * * *")
        client.register_listener("unix:///tmp/app.sock", name="app")
    for verb in ("run", "next", "history", "pause", "resume"):
        assert complete("cron", verb, "")[1] == ["nightly"]
    assert complete("listeners", "pause", "")[1] == ["app"]
    assert {"submit", "exit-codes"} <= set(complete("help", "")[1])
    assert complete("completion", "")[1] == ["bash", "zsh", "fish"]


def test_another_programs_words_are_left_to_the_shell(complete: Complete) -> None:
    assert complete("submit", "--name", "x", "--", "ma") == ("command 4", [])
    assert complete("submit", "--", "make", "--t") == ("command 2", [])
    assert complete("run", "make", "--t") == ("command 1", [])
    assert complete("submit", "--task", "add", "") == ("command 3", [])


def test_names_that_steer_a_terminal_are_escaped(complete: Complete, tmp_path: Path) -> None:
    with SyncClient(str(tmp_path / "fwl.db"), runner="never", durability="normal") as client:
        client.options(name="\x1b[31mred\n\t99").submit("add", 1, 2)
    answer = complete("show", "")[1]
    assert answer == ["@last", "@failed", "@active", "1"]


# ---- what it costs, and what it leaves alone


def test_no_file_is_made_and_nothing_is_said_where_there_is_none(complete: Complete, tmp_path: Path) -> None:
    assert complete("cancel", "") == ("nothing 0", ["@last", "@failed", "@active"])
    assert complete("cron", "run", "", FWL_DB="") == ("nothing 0", [])
    (tmp_path / "fwl.db").write_bytes(b"something else\n" * 99)
    assert complete("queue", "pause", "") == ("nothing 0", [])
    (tmp_path / "fastworker.toml").write_text("nonsense = [")
    assert complete("queue", "pause", "") == ("nothing 0", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fastworker.toml", "fwl.db"]


def test_the_log_of_a_file_in_use_is_read_and_not_written_back(complete: Complete, tmp_path: Path) -> None:
    with SyncClient(str(tmp_path / "fwl.db"), runner="never", durability="normal") as client:
        client.submit("add", 1, 2)
        before = (tmp_path / "fwl.db-wal").stat().st_size, (tmp_path / "fwl.db").stat().st_mtime_ns
        assert complete("show", "")[1][-1] == "1"
        assert ((tmp_path / "fwl.db-wal").stat().st_size, (tmp_path / "fwl.db").stat().st_mtime_ns) == before
        assert before[0] > 0


def test_a_writer_is_not_waited_for(complete: Complete, jobs: None, tmp_path: Path) -> None:
    sql = sqlite3.connect(tmp_path / "fwl.db", isolation_level=None)
    sql.execute("BEGIN EXCLUSIVE")
    try:
        began = time.monotonic()
        assert complete("show", "")[1][-1] == "1"
        assert time.monotonic() - began < 5
    finally:
        sql.execute("ROLLBACK")
        sql.close()


def cpu_of_a_completion(variables: dict[str, str]) -> float:
    command = [sys.executable, "-m", "fastworker_lite", "_complete", "zsh", "cancel", ""]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, env=variables, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_it_takes_no_longer_where_there_are_many_jobs(tmp_path: Path, variables: dict[str, str]) -> None:
    paths = {number: tmp_path / f"{number}.db" for number in (100, 10_000, 100_000)}
    for number, path in paths.items():
        store(path, number)
    cpu_of_a_completion(variables)  # compiles what is not compiled yet
    taken = {
        number: min(cpu_of_a_completion(variables | {"FWL_DB": str(path)}) for _ in range(5))
        for number, path in paths.items()
    }
    print({number: f"{1000 * seconds:.0f} ms" for number, seconds in taken.items()})
    assert taken[10_000] <= 0.150
    assert taken[100_000] <= 1.5 * taken[100]


# ---- real shells


def program(folder: Path) -> str:
    """A folder with `fwl` in it."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "fwl").write_text(f'#!/bin/sh\nexec {sys.executable} -m fastworker_lite "$@"\n')
    (programs / "fwl").chmod(0o755)
    return str(programs)


class Terminal:
    """A shell at a terminal, with `fwl` on its path."""

    def __init__(self, words: list[str], folder: Path, variables: dict[str, str]) -> None:
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        (programs / "fwl").write_text(f'#!/bin/sh\nexec {sys.executable} -m fastworker_lite "$@"\n')
        (programs / "fwl").chmod(0o755)
        environment = variables | {
            "PATH": f"{programs}:{variables['PATH']}",
            "TERM": "dumb",
            "PS1": "$ ",
            "COLUMNS": "500",
        }
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder, start_new_session=True
        )
        os.close(slave)

    def type(self, text: str, until: str) -> str:
        """Type *text*, and return what is on the screen once *until* (a pattern) is."""
        os.write(self._master, text.encode())
        shown, ends = "", time.monotonic() + 20
        while not re.search(until, re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|.\x08", "", shown)):  # as it is on the screen
            readable, _, _ = select.select([self._master], [], [], max(0.0, ends - time.monotonic()))
            assert readable, f"typed {text!r}, waited for {until!r}, got {shown!r}"
            shown += os.read(self._master, 65536).decode(errors="replace")
        return shown

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


LINES = [
    ("fwl canc\t12", "fwl cancel 12"),
    ("fwl cron pau\tx", "fwl cron pause x"),
    ("fwl status --stat\tx", "fwl status --state x"),
    ("fwl status --state que\tx", "fwl status --state queued x"),
    ("fwl status --state=que\tx", "fwl status --state=queued x"),
    ("fwl submit --queue \tx", "fwl submit --queue default x"),
    ("fwl submit --queue=\tx", "fwl submit --queue=default x"),
    ("fwl wait @la\tx", "fwl wait @last x"),
    ("fwl show 11\tx", "fwl show 11 x"),
    ("fwl submit --cwd bi\tx", "fwl submit --cwd bin/x"),
    ("fwl submit --from fas\tx", "fwl submit --from fastfile x"),
    ("fwl submit -- mktem\tx", "fwl submit -- mktemp x"),
    ("fwl run -- cat fas\tx", "fwl run -- cat fastfile x"),
]
STARTED = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u -D; "),
}


@pytest.mark.parametrize("shell", STARTED)
def test_a_shell_completes(shell: str, tmp_path: Path, variables: dict[str, str], jobs: None) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "fastfile").touch()
    command, before = STARTED[shell]
    terminal = Terminal(command, tmp_path, variables)
    try:
        terminal.type(f"{before}source <(fwl completion {shell}); echo rea''dy\n", "ready")
        for typed, completed in LINES:
            terminal.type("\x15" + typed, re.escape(completed))
    finally:
        terminal.close()


def test_fish_completes(tmp_path: Path, variables: dict[str, str], jobs: None) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (tmp_path / "fastfile").touch()
    path = program(tmp_path) + ":" + variables["PATH"]
    for typed, completed in LINES:
        line = typed.partition("\t")[0]
        wanted = completed[: -1 if completed[-1] == "x" else -3].split()[-1]
        asked = f"fwl completion fish | source; complete -C '{line}'"
        answer = subprocess.run(
            ["fish", "--no-config", "-c", asked],
            capture_output=True, env=variables | {"PATH": path}, cwd=tmp_path, timeout=30, text=True, check=True,
        )  # fmt: skip
        offered = [one.partition("\t")[0] for one in answer.stdout.splitlines()]
        assert wanted in offered


def test_the_script_of_bash_is_without_faults() -> None:
    subprocess.run(["bash", "-n"], input=SCRIPTS["bash"][0], text=True, check=True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_without_faults(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=SCRIPTS[shell][0], text=True, check=True)
