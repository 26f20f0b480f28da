"""Workers that a submit at a terminal starts, and workers that end when there is nothing to do."""

from __future__ import annotations

import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.idleness import Idleness
from fastworker_lite.paths import SidePaths
from fastworker_lite.store import runners
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.runners import Addresses
from fastworker_lite.watches import watch_process

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30
FWL = [sys.executable, "-m", "fastworker_lite"]
NO_WORKER = "queued; no worker is running. Start one: fwl worker   Or run the queue now: fwl drain"


class Place:
    """A folder with a database, `fwl` within it, and the workers that were started for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = str(folder / "fwl.db")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "XDG_CONFIG"))}
        self.variables = kept | {"FWL_DB": self.database, "PYTHONPATH": str(ROOT), "HOME": str(folder)}

    def fwl(self, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FWL, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self.folder,
            env=self.variables | changed, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def start(self, *words: str, **changed: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*FWL, *words], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=self.folder,
            env=self.variables | changed,
        )  # fmt: skip

    def at_terminal(self, *words: str, **changed: str) -> Terminal:
        return Terminal([*FWL, *words], self.folder, self.variables | changed)

    def workers(self) -> list[int]:
        """The processes of `fwl worker` for this database, whoever started them."""
        listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
        found = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
        return [int(pid) for pid, command in found if f"fastworker_lite worker --db {self.database} " in command]

    @property
    def log(self) -> Path:
        return Path(SidePaths.of(self.database).worker_log)


class Terminal:
    """A command at a terminal of its own."""

    def __init__(
        self, words: list[str], folder: Path, variables: dict[str, str], *, stdin: bool = True, stderr: bool = True
    ) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=theirs if stdin else subprocess.DEVNULL, stdout=theirs,
            stderr=theirs if stderr else subprocess.DEVNULL, cwd=folder, env=variables, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def shown(self) -> str:
        """Everything it has printed, once it has ended; and it ended with 0."""
        text = b""
        try:
            while data := os.read(self._ours, 65536):
                text += data
        except OSError:  # the last one who had it open is gone
            pass
        os.close(self._ours)
        assert self.process.wait(PATIENCE) == 0, text
        return text.replace(b"\r\n", b"\n").decode()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for pid in place.workers():
        end(pid)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    wait_until_gone(pid)


def wait_until_gone(pid: int) -> None:
    watch = watch_process(pid)
    if watch is not None:
        assert select.select([watch], [], [], PATIENCE)[0], f"process {pid} goes on"
        os.close(watch)


def next_line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().rstrip("\n")


# ---- started on demand


def test_a_submit_at_a_terminal_starts_a_worker_that_runs_the_job(place: Place) -> None:
    shown = place.at_terminal("submit", "-c", "echo $SECRET > out", SECRET="pst").shown()
    [pid] = place.workers()
    assert f"started a worker (pid {pid}); it ends after 1m0s without jobs\n" in shown
    assert place.fwl("wait", "1").returncode == 0
    assert (place.folder / "out").read_text() == "pst\n"  # a job has the variables it was submitted with


def test_the_next_submit_finds_the_worker_of_the_first(place: Place) -> None:
    place.at_terminal("submit", "--", "true").shown()
    [pid] = place.workers()
    shown = place.at_terminal("submit", "--", "true").shown()
    assert "worker" not in shown
    assert place.workers() == [pid]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_the_worker_has_nothing_of_its_starter_but_what_it_needs(place: Place) -> None:
    place.at_terminal(
        "submit", "--", "true", SECRET="pst", VIRTUAL_ENV="x", LC_TIME="C", TZ="UTC", FWL_JOB_ID="7", FWL_COLOR="never"
    ).shown()
    [pid] = place.workers()

    names = {entry.partition("=")[0] for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if entry}
    allowed = {"PATH", "HOME", "USER", "LANG", "TZ", "XDG_RUNTIME_DIR", "FWL_COLOR"}
    assert {name for name in names if not name.startswith("LC_")} <= allowed
    assert {"PATH", "HOME", "TZ", "LC_TIME", "FWL_COLOR"} <= names
    opened = [os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)]
    assert opened == ["/dev/null", str(place.log), str(place.log)]
    everything = {os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")}
    assert not any("/dev/pts" in path for path in everything)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) not in (os.getsid(0), pid)  # no leader: it can come by no terminal
    assert stat.S_IMODE(place.log.stat().st_mode) == 0o600


def test_an_inherited_descriptor_is_closed(place: Place) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*FWL, "submit", "--", "true"], stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs, cwd=place.folder,
        env=place.variables, pass_fds=[writing],
    )  # fmt: skip
    os.close(writing)
    assert process.wait(PATIENCE) == 0
    assert len(place.workers()) == 1
    assert os.read(reading, 1) == b""  # nobody has the other end open any more
    for descriptor in (reading, ours, theirs):
        os.close(descriptor)


def test_of_twenty_submits_at_once_one_starts_a_worker(place: Place) -> None:
    place.fwl("status")  # the file is there
    terminals = [place.at_terminal("submit", "--", "true") for _ in range(20)]
    shown = [terminal.shown() for terminal in terminals]
    assert sum("started a worker" in text for text in shown) <= 1  # its starter may have lost patience
    assert place.fwl("wait", "1-20").returncode == 0
    assert len(place.workers()) == 1
    assert place.log.read_text().count("fastworker_lite 0.1.0") == 1


def test_the_worker_ends_when_there_is_nothing_to_do(place: Place) -> None:
    shown = place.at_terminal("submit", "--", "true", FWL_IDLE_EXIT="400ms").shown()
    assert "it ends after 0.4s without jobs" in shown
    for pid in place.workers():
        wait_until_gone(pid)
    assert place.log.read_text().splitlines()[-1] == "stopped: nothing to do for 0.4s"
    assert place.fwl("status", "--json", "1").stdout.count('"succeeded"') == 1
    assert "started a worker" in place.at_terminal("submit", "--", "true").shown()


@pytest.mark.parametrize(("stdin", "stderr"), [(False, False), (True, False), (False, True)])
def test_without_a_terminal_on_both_sides_nothing_is_started(place: Place, stdin: bool, stderr: bool) -> None:
    Terminal([*FWL, "submit", "--", "true"], place.folder, place.variables, stdin=stdin, stderr=stderr).shown()
    assert place.workers() == []
    assert not os.path.exists(SidePaths.of(place.database).starting)


@pytest.mark.parametrize(
    ("words", "variables", "settings"),
    [
        (["--no-start"], {}, ""),
        ([], {"FWL_AUTOSTART": "0"}, ""),
        ([], {"FWL_AUTOSTART": "never"}, 'autostart = "always"\n'),
        ([], {}, 'autostart = "never"\n'),
        (["--in", "5m"], {}, ""),
        (["-Q", "other"], {}, 'queues = ["default"]\n'),
    ],
)
def test_no_worker_is_started_that_is_not_wanted_or_had_nothing_to_do(
    place: Place, words: list[str], variables: dict[str, str], settings: str
) -> None:
    place.fwl("queue", "set", "other", "--workers", "1")
    (place.folder / "fastworker.toml").write_text(settings)
    shown = place.at_terminal("submit", *words, "--", "true", **variables).shown()
    assert NO_WORKER in shown
    assert place.workers() == []


def test_always_needs_no_terminal(place: Place) -> None:
    (place.folder / "fastworker.toml").write_text('autostart = "always"\n')
    result = place.fwl("submit", "--wait", "--", "sh", "-c", "exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, "1\n", "")
    assert len(place.workers()) == 1


def test_the_worker_knows_the_tasks_of_the_configuration(place: Place) -> None:
    (place.folder / "sums.py").write_text(
        "from fastworker_lite import task\n\n@task\ndef add(a, b):\n    return a + b\n"
    )
    (place.folder / "fastworker.toml").write_text(
        'tasks = ["sums"]\n[cron]\ndaily = { schedule = "@daily", shell = "true" }\n'
    )
    (place.folder / "below").mkdir()
    place.folder = place.folder / "below"
    shown = place.at_terminal("submit", "--task", "add", "5", "3").shown()
    assert "schedules need a lasting worker: fwl service install  (or cron: */5 * * * * fwl drain)\n" in shown
    assert place.fwl("wait", "1").returncode == 0
    assert "schedules need" not in place.at_terminal("submit", "--task", "add", "5", "3").shown()


def test_why_the_worker_did_not_start_is_said_and_the_job_is_queued(place: Place) -> None:
    (place.folder / "fastworker.toml").write_text('tasks = ["nosuch"]\n')
    begun = time.monotonic()
    shown = place.at_terminal("submit", "--", "true").shown()
    assert shown.startswith("1\n")
    assert f"no worker has begun; the end of {place.log}:\n" in shown
    assert "    error: cannot import nosuch: ModuleNotFoundError: No module named 'nosuch'\n" in shown
    assert shown.endswith(NO_WORKER + "\n")
    assert time.monotonic() - begun < 10
    assert place.fwl("status", "--count", "--state", "queued").stdout == "1\n"


@pytest.mark.parametrize("variables", [{"FWL_AUTOSTART": "yes"}, {"FWL_IDLE_EXIT": "60"}])
def test_a_variable_that_cannot_be_is_said_and_the_job_is_queued(place: Place, variables: dict[str, str]) -> None:
    shown = place.at_terminal("submit", "--", "true", **variables).shown()
    assert next(iter(variables)) in shown
    assert NO_WORKER in shown


# ---- ending when idle


def test_a_worker_stays_while_a_job_runs_or_is_due_soon(place: Place) -> None:
    place.fwl("submit", "--", "sleep", "0.7")
    place.fwl("submit", "--in", "1200ms", "--", "true")
    place.fwl("submit", "--in", "1h", "--", "true")
    result = place.fwl("worker", "--workers", "1", "--idle-exit", "600ms")
    assert result.returncode == 0
    assert result.stderr.endswith("stopped: nothing to do for 0.6s\n")
    assert place.fwl("status", "--count", "--state", "succeeded").stdout == "2\n"


def test_what_it_could_not_run_keeps_no_worker(place: Place) -> None:
    place.fwl("submit", "--", "true")
    place.fwl("queue", "pause", "default")
    place.fwl("submit", "-Q", "other", "--new-queue", "--", "true")
    assert place.fwl("worker", "--workers", "1", "-Q", "default", "--idle-exit", "200ms").returncode == 0
    assert place.fwl("status", "--count", "--state", "queued").stdout == "2\n"


def test_schedules_keep_a_worker_that_sees_to_them_if_they_are_due_soon(place: Place) -> None:
    (place.folder / "fastworker.toml").write_text(
        '[cron]\noften = { every = "1s", shell = "true", repeat_count = 2 }\n'
    )
    assert place.fwl("worker", "--workers", "1", "--idle-exit", "1100ms", "--no-cron").returncode == 0
    assert place.fwl("status", "-a", "--count").stdout == "0\n"
    assert place.fwl("worker", "--workers", "1", "--idle-exit", "1100ms").returncode == 0
    assert place.fwl("status", "-a", "--count").stdout == "2\n"


def test_a_job_that_comes_at_the_last_moment_keeps_the_runner(database: str, submitter: SyncClient) -> None:
    connection = Connection(database)
    runner = connection.write(runners.add_runner, "r-1", "1", Addresses("w", "a", "c", "o"), os.getpid(), time.time())
    idleness = Idleness(0.0, None, time.time, has_cron=True)
    assert idleness.left(connection) == 0
    submitter.submit(print)
    submitted = connection.write(idleness.leave, runner)
    still_there = connection.read(runners.runners)
    connection.close()
    assert (submitted, len(still_there)) == (False, 1)


def test_a_job_between_two_looks_begins_the_time_anew(database: str) -> None:
    connection, another = Connection(database), Connection(database)
    idleness = Idleness(100.0, None, time.time, has_cron=True)
    first = idleness.left(connection)
    second = idleness.left(connection)
    another.write(lambda sql: sql.execute("INSERT INTO queue (name) VALUES ('q')"))
    third = idleness.left(connection)
    connection.close()
    another.close()
    assert first is not None and second is not None and third is not None
    assert second < first <= 100.0
    assert third > second


# ---- in the foreground


def test_a_second_worker_says_that_it_joins(place: Place) -> None:
    with place.start("worker", "--workers", "1") as first:
        assert next_line(first.stderr).startswith("fastworker_lite 0.1.0")
        second = place.fwl("worker", "--workers", "1", "--idle-exit", "0s")
        assert f"joins 1 worker of this file: pid {first.pid}\n" in second.stderr
        first.terminate()
        assert first.wait(PATIENCE) == 0


def test_a_stop_says_for_what_it_waits(place: Place) -> None:
    with place.start("worker", "--workers", "1") as process:
        next_line(process.stderr)
        place.fwl("submit", "--", "sh", "-c", "echo > begun; while [ ! -e go ]; do sleep 0.05; done")
        wait_for(place.folder / "begun")
        process.send_signal(signal.SIGINT)
        assert next_line(process.stderr) == "stopping: 1 job running, waiting up to 30s (Ctrl-C again to end it)"
        (place.folder / "go").touch()
        assert next_line(process.stderr) == "stopped"
        assert process.wait(PATIENCE) == 0


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.02)


def test_hup_reads_the_schedules_again_and_keeps_the_old_ones_when_they_cannot_be(place: Place) -> None:
    settings = place.folder / "fastworker.toml"
    settings.write_text('[cron]\nold = { every = "1h", shell = "true" }\n')
    with place.start("worker", "--workers", "1") as process:
        assert " 1 schedule " in next_line(process.stderr)
        settings.write_text('[cron]\nnew = { every = "1h", shell = "true" }\n[queue]\nio = { workers = 3 }\n')
        process.send_signal(signal.SIGHUP)
        assert next_line(process.stderr) == "the configuration was read again"
        wait_for_schedules(place, ["new"])
        assert '"io"' in place.fwl("queue", "--json").stdout
        settings.write_text('[cron]\nbroken = { schedule = "30 25 * * *", shell = "true" }\n')
        process.send_signal(signal.SIGHUP)
        told = next_line(process.stderr)
        assert told.startswith("error: fastworker.toml:2: cron.broken.schedule: ")
        assert told.endswith("; the settings stay as they were")
        process.terminate()
        assert process.wait(PATIENCE) == 0
    wait_for_schedules(place, ["new"])


def wait_for_schedules(place: Place, names: list[str]) -> None:
    connection = Connection(place.database)
    deadline = time.monotonic() + PATIENCE
    try:
        while (
            found := connection.read(lambda sql: [row[0] for row in sql.execute("SELECT name FROM schedule")])
        ) != names:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
    finally:
        connection.close()


def test_hup_of_a_terminal_that_is_closed_ends_the_worker(place: Place) -> None:
    pid, ours = pty.fork()
    if pid == 0:
        os.chdir(place.folder)
        os.execve(sys.executable, [*FWL, "worker", "--workers", "1"], place.variables)
    shown = b""
    while b"fastworker_lite" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_log_file_takes_everything_and_another_one_after_it_was_moved(place: Place) -> None:
    with place.start("worker", "--workers", "1", "--log-file", "w.log") as process:
        wait_for(place.folder / "w.log")
        deadline = time.monotonic() + PATIENCE
        while not (place.folder / "w.log").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (place.folder / "w.log").rename(place.folder / "w.log.1")
        process.send_signal(signal.SIGHUP)
        wait_for(place.folder / "w.log")
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None and process.stderr.read() == ""
    assert (place.folder / "w.log.1").read_text().startswith("fastworker_lite 0.1.0")
    assert (place.folder / "w.log").read_text().endswith("stopped\n")
