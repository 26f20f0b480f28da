"""`fwl top`, as a person sees it in a terminal: what it shows, what its keys do, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastworker_lite.store import figures
from fastworker_lite.store.connection import Connection
from tests.test_cli_endings import PATIENCE, Site, wait_until

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

HOSTILE = "\x1b]0;owned\x07[bold red]x"
SHOWN = r"\x1b]0;owned\x07[bold red]x"

TASKS = """
import os, time
from fastworker_lite import current_job, task

@task
def counts(path):
    current_job().progress(40, 80, "half-way")
    print("\\x1b]0;owned\\x07[bold red]x", flush=True)
    while not os.path.exists(path):
        time.sleep(0.02)

@task
def fails():
    raise ValueError("\\x1b]0;owned\\x07[bold red]x")
"""


class Terminal:
    """A terminal of tmux in which a shell runs a line, then says how that ended and waits."""

    def __init__(self, site: Site, line: str, size: tuple[int, int], **variables: str) -> None:
        self._name = f"fwl-{secrets.token_hex(6)}"
        self._environment = site.variables | variables
        (site.folder / "line").write_text(f"stty -g > before\n{line}\necho exit $?\nstty -g > after\ncat\n")
        width, height = map(str, size)
        words = ["new-session", "-d", "-x", width, "-y", height, "-c", str(site.folder), "sh", "line"]
        self.tmux("-f", "/dev/null", *words)

    def tmux(self, *words: str) -> str:
        command = [str(shutil.which("tmux")), "-L", self._name, *words]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout

    def is_true(self, name: str) -> bool:
        return self.tmux("display-message", "-p", f"#{{{name}}}").strip() == "1"

    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def until(self, *texts: str) -> str:
        """Wait until all of these are on the screen, and return all that is."""
        deadline = time.monotonic() + PATIENCE
        while not all(text in (seen := self.text()) for text in texts):
            assert time.monotonic() < deadline, f"{texts} did not appear:\n{seen}"
            time.sleep(0.02)
        return seen

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def resize(self, width: int, height: int) -> str:
        """Give the window another size, and return what is on it once it has been drawn anew."""
        self.tmux("resize-window", "-x", str(width), "-y", str(height))
        wait_until(lambda: self._is_drawn(width, height))
        return self.text()

    def _is_drawn(self, width: int, height: int) -> bool:
        lines = self.text().splitlines()
        clock = lines[0][-8:] if lines else ""
        return len(lines) == height and lines[-1].startswith("q quit") and len(lines[0]) == width and clock[2:3] == ":"


@contextlib.contextmanager
def terminal(site: Site, words: str = "top", size: tuple[int, int] = (80, 24), **variables: str) -> Iterator[Terminal]:
    """`fwl WORDS` in a terminal."""
    line = f"sh -c 'echo $$ > pid; exec {sys.executable} -m fastworker_lite {words}'"
    one = Terminal(site, line, size, **variables)
    try:
        yield one
    finally:
        one.tmux("kill-server")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A folder that no runner serves, with a job that has failed."""
    site = Site(tmp_path)
    site.call("run", "--name", "broken", "-c", "echo last words; exit 3")
    return site


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder with everything in it that there is to see, and two workers."""
    site = Site(tmp_path_factory.mktemp("served"))
    (site.folder / "seen.py").write_text(TASKS)
    (site.folder / "fastworker.toml").write_text('[cron.nightly]\ncron = "30 2 * * *"\ncommand = ["true"]\n')
    with site.start("worker", "--workers", "2", "--tasks", "seen", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None and process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        site.submit("--name", HOSTILE, "--task", "counts", "over")
        site.submit("--queue", "gpu", "--new-queue", "--name", "waits", "--in", "1h", "--", "true")
        site.until(site.submit("--task", "fails"), "failed")
        site.until("1", "running")
        yield site
        (site.folder / "over").touch()
        process.terminate()
        process.communicate(timeout=PATIENCE)


# ---- what it shows


@needs_tmux
def test_everything_is_seen_in_a_small_window(served: Site) -> None:
    with terminal(served) as window:
        seen = window.until("RUNNING 1", "QUEUES 2", "FAILURES 1", "WORKERS 2", "SCHEDULES 1")

    running = next(line for line in seen.splitlines() if line.startswith("> 1 "))
    assert "████░░░░  50%" in running and "(half-way)" in running
    assert "1 running, 0 queued, 1 scheduled, 0 blocked" in seen
    assert "gpu" in seen and "ValueError" in seen and "30 2 * * *" in seen
    assert "functions" in seen and "% " in seen and " MB" in seen
    assert "c cancel" in seen.splitlines()[-1]


@needs_tmux
def test_what_others_wrote_steers_no_terminal(served: Site) -> None:
    with terminal(served, size=(200, 30)) as window:
        seen = window.until("RUNNING 1", "ValueError")
        assert "owned" not in window.tmux("display-message", "-p", "#{pane_title}")

    running = next(line for line in seen.splitlines() if line.startswith("> 1 "))
    failure = next(line for line in seen.splitlines() if "ValueError" in line)
    assert running.count(SHOWN) == 2 and failure.count(SHOWN) == 1


@needs_tmux
def test_a_terminal_that_lacks_the_signs_gets_others(served: Site) -> None:
    with terminal(served, PYTHONIOENCODING="ascii") as window:
        assert "####....  50%" in window.until("RUNNING 1")


@needs_tmux
def test_what_happens_appears_by_itself(site: Site) -> None:
    with terminal(site, "top --interval 200ms") as window:
        window.until("RUNNING 0", "no worker is running")
        site.submit("--", "true")
        window.until("1 queued", "█")
        with site.start("run", "--name", "sleeper", "--", "sleep", "60"):
            window.until("RUNNING 1", "sleeper", "alone")


@needs_tmux
def test_any_size_of_the_window_will_do(served: Site) -> None:
    with terminal(served) as window:
        window.until("RUNNING 1")
        wide = window.resize(120, 40)
        narrow = window.resize(40, 10)
        window.tmux("resize-window", "-x", "3", "-y", "2")
        window.resize(80, 24)
        window.press("q")
        window.until("exit 0")

    assert "SCHEDULES 1" in wide
    assert "RUNNING 1" in narrow and "50%" in narrow and "FAILURES 1" in narrow


def test_the_figures_are_one_document(served: Site) -> None:
    found = served.json("top")

    assert (found["schema"], found["window_s"], found["is_served"]) == ("fwl.top/1", 120, True)
    [running], [failure], [schedule] = found["running"], found["failures"], found["schedules"]
    assert (running["progress"]["done"], running["last_line"]) == (40, HOSTILE)
    assert (failure["id"], failure["error_type"]) == (3, "ValueError")
    assert (schedule["name"], schedule["schedule"], schedule["paused"]) == ("nightly", "30 2 * * *", False)
    assert [(row["name"], row["running"]) for row in found["queues"]] == [("default", 1), ("gpu", 0)]
    assert {one["job"] for one in found["workers"]} == {1, None} and found["workers"][0]["rss_bytes"] > 1_000_000
    assert found["ended_per_s"] == found["failed_per_s"] == round(1 / 120, 3)
    assert 0 <= found["wait_s"]["p50"] <= found["wait_s"]["p95"]


# ---- what keys do


@needs_tmux
def test_a_key_cancels_the_selected_job(site: Site) -> None:
    with site.start("run", "--", "sleep", "60"), site.start("run", "--name", "second", "--", "sleep", "60"):
        site.until("2", "running")
        site.until("3", "running")
        with terminal(site) as window:
            window.until("RUNNING 2")
            [row] = [line for line in window.text().splitlines() if "second" in line]
            second, other = row.strip("> ").split()[0], {"2", "3"} - {row.strip("> ").split()[0]}
            for _ in range(int(second) - 2):
                window.press("j")
            window.until(f"> {second} ")
            window.press("c")
            window.until(f"job {second} is being ended")
            site.until(second, "cancelled")
            assert site.job(other.pop())["state"] == "running"


@needs_tmux
def test_a_key_runs_a_failed_job_again(site: Site) -> None:
    with terminal(site) as window:
        window.until("FAILURES 1", "exit 3")
        window.press("Down", "r")
        window.until("job 1 queued again", "FAILURES 0")

    assert site.job("1")["state"] == "queued"


@needs_tmux
def test_a_key_pauses_a_queue_and_resumes_it(site: Site) -> None:
    with terminal(site) as window:
        window.until("> default")
        window.press("p")
        window.until('queue "default" paused', "paused 0")
        assert site.sql("SELECT paused FROM queue") == [(1,)]
        window.press("p")
        window.until('queue "default" resumed')

    assert site.sql("SELECT paused FROM queue") == [(0,)]


@needs_tmux
def test_a_key_that_needs_a_job_says_so_on_a_queue(site: Site) -> None:
    with terminal(site) as window:
        window.until("> default")
        window.press("c")
        window.until("select a job first")


@needs_tmux
@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")
def test_a_key_shows_a_log_in_the_pager_and_the_view_is_back_after_it(site: Site) -> None:
    site.call("run", "-c", r"printf 'kept \033]0;owned\007\n'; exit 1")
    with terminal(site, LESS="-FXE") as window:
        window.until("FAILURES 2")
        window.press("j", "l")
        assert "RUNNING" not in window.until(r"kept \x1b]0;owned\x07")
        window.press("q")
        window.until("FAILURES 2", "q quit")
        assert "owned" not in window.tmux("display-message", "-p", "#{pane_title}")


@needs_tmux
def test_without_a_pager_the_log_is_printed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for program in ("sh", "stty", "cat"):
        (tmp_path / "bin" / program).symlink_to(str(shutil.which(program)))
    with terminal(site, PATH=str(tmp_path / "bin")) as window:
        window.until("FAILURES 1")
        window.press("j", "l")
        window.until("last words", "Enter to go back")
        window.press("Enter")
        window.until("FAILURES 1", "q quit")


@needs_tmux
def test_the_keys_are_explained(site: Site) -> None:
    with terminal(site) as window:
        window.until("FAILURES 1")
        window.press("?")
        window.until("pause its queue, or resume it", "Any key goes back")
        window.press("q")
        window.until("FAILURES 1")
        window.press("?")
        window.until("Any key goes back")
        window.press("Escape")
        window.until("FAILURES 1")


# ---- what it leaves behind


@needs_tmux
@pytest.mark.parametrize(
    ("end", "code"), [("q", 0), ("C-c", 130), (signal.SIGTERM, 143), (signal.SIGINT, 130), ("no file", 74)]
)
def test_the_terminal_is_as_it_was_however_it_ends(site: Site, end: object, code: int) -> None:
    with terminal(site) as window:
        window.until("FAILURES 1")
        assert window.is_true("alternate_on") and not window.is_true("cursor_flag")
        if isinstance(end, signal.Signals):
            os.kill(int((site.folder / "pid").read_text()), end)
        elif end == "no file":
            (site.folder / "fwl.db").rename(site.folder / "gone.db")
        else:
            window.press(str(end))
        window.until(f"exit {code}")
        assert not window.is_true("alternate_on") and window.is_true("cursor_flag")
        wait_until((site.folder / "after").exists)

    assert (site.folder / "after").read_text() == (site.folder / "before").read_text()


@needs_tmux
def test_the_pager_ends_with_it(site: Site) -> None:
    with terminal(site) as window:
        window.until("FAILURES 1")
        window.press("j", "l")
        window.until("last words")
        os.kill(int((site.folder / "pid").read_text()), signal.SIGTERM)
        window.until("exit 143")
        assert not window.is_true("alternate_on")


@needs_tmux
def test_a_shell_can_suspend_it_and_let_it_go_on(site: Site) -> None:
    with shell(site) as window:
        window.until("$")
        window.press(f"{sys.executable} -m fastworker_lite top", "Enter")
        window.until("FAILURES 1")
        window.press("C-z")
        window.until("Stopped")
        assert not window.is_true("alternate_on")
        window.press("fg", "Enter")
        window.until("FAILURES 1", "q quit")


@contextlib.contextmanager
def shell(site: Site) -> Iterator[Terminal]:
    one = Terminal(site, "PS1='$ ' sh -i", (80, 24))
    try:
        yield one
    finally:
        one.tmux("kill-server")


def test_a_terminal_that_goes_away_ends_it(site: Site) -> None:
    leader, follower = pty.openpty()
    with site.start("top", stdin=follower, stdout=follower, stderr=follower, start_new_session=True) as process:
        os.close(follower)
        drawn = b""
        while b"q quit" not in drawn:
            drawn += os.read(leader, 4096)
        os.close(leader)
        assert process.wait(PATIENCE) == 128 + signal.SIGHUP


def test_a_log_is_escaped_for_a_pipe_where_that_is_asked_for(site: Site) -> None:
    site.call("run", "-c", r"printf 'a\033]0;owned\007\n'; printf 'b\033[31m' >&2")

    assert site.fwl("logs", "2", "--escape").stdout == rb"a\x1b]0;owned\x07" + b"\n"
    assert site.fwl("logs", "2", "--escape").stderr == b"b\n"
    assert site.fwl("logs", "2", "--escape", "--raw").returncode == 2


@pytest.mark.parametrize("words", [["top"], ["top", "--interval", "0s"], ["top", "--interval", "soon"]])
def test_without_a_terminal_or_a_sensible_interval_it_is_refused(site: Site, words: list[str]) -> None:
    done = site.fwl(*words)

    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: ") and b"Traceback" not in done.stderr
    assert b"fwl status" in done.stderr or b"--interval" in done.stderr


# ---- what it costs


def fill(connection: Connection, ended: int, queued: int) -> None:
    """Jobs that have ended within the last minute, each fiftieth badly, and behind them some that wait."""
    now = time.time()
    insert = """
        INSERT INTO job (state, queue, lane, priority, created_at, started_at, finished_at, kind, task, park, checksum, payload)
        VALUES (?, 'default', 0, 0, ?, ?, ?, 'call', 'add', 0, 0, ?)
    """
    rows = [
        ("failed" if number % 50 == 0 else "succeeded", now - 62, now - 61, now - 60 + 60 * number / ended, b"x" * 100)
        for number in range(ended)
    ]
    rows += [("queued", now, None, None, b"x" * 100)] * queued  # type: ignore[list-item]
    connection.write(lambda sql: sql.execute("INSERT OR IGNORE INTO queue (name) VALUES ('default')"))
    connection.write(lambda sql: sql.executemany(insert, rows))


def test_those_that_ended_are_found_below_a_long_queue(database: str) -> None:
    with contextlib.closing(Connection(database)) as connection:
        fill(connection, ended=500, queued=60_000)

        assert len(connection.read(figures.ended, time.time() - 70)) == 500
        assert len(connection.read(figures.ended, time.time() - 30)) in range(240, 260)
        assert connection.read(figures.failed_ids, 3) == [451, 401, 351]


def test_a_look_at_a_hundred_thousand_jobs_takes_few_milliseconds(database: str) -> None:
    from fastworker_lite.cli.top_figures import Observer
    from fastworker_lite.cli.top_view import Look, lines

    costs = []
    with contextlib.closing(Connection(database)) as connection:
        fill(connection, ended=50_000, queued=50_000)
        observer = Observer(connection)
        for _ in range(7):
            observer.forget()
            begun = time.process_time()
            screen = lines(observer.look(), observer.history, Look(), database, (80, 24), "12:00:00")
            costs.append(time.process_time() - begun)
            assert len(screen) == 24

    assert sorted(costs)[3] < 0.1  # it takes 0.01 where it was written


@needs_tmux
def test_what_is_selected_is_seen_however_long_the_list(site: Site) -> None:
    with contextlib.closing(Connection(site.folder / "fwl.db")) as connection:
        fill(connection, ended=2_000, queued=0)
    with terminal(site) as window:
        window.until("FAILURES 41", "> default")
        window.press("k")
        window.until("> 2 ")
        window.press("k")
        window.until("> 52 ")


def test_the_rate_of_many_jobs_is_that_of_the_last_ones(database: str) -> None:
    from fastworker_lite.cli.top_figures import Observer

    with contextlib.closing(Connection(database)) as connection:
        fill(connection, ended=60_000, queued=0)
        pace = Observer(connection).look().pace

    assert 300 < pace.per_second < 1100 and 0 < pace.failed_per_second < pace.per_second / 40
    assert pace.wait == (1.0, 1.0)


def test_what_processes_take_is_told_with_and_without_proc() -> None:
    from fastworker_lite.cli.top_usage import Meter
    from fastworker_lite.leases import ProcessIdentity

    me, elsewhere = ProcessIdentity.mine(), ProcessIdentity.mine()._replace(boot="another")
    meter = Meter()
    found = meter.read([me, elsewhere])
    meter._has_proc = False
    by_ps = meter.read([me])

    assert found.keys() == by_ps.keys() == {os.getpid()}
    for usage in (found[me.pid], by_ps[me.pid]):
        assert usage.memory is not None and usage.memory > 1_000_000
        assert usage.cpu is not None and usage.cpu >= 0
    assert meter.read([elsewhere]) == {}


def test_json_is_one_line_of_ascii(site: Site) -> None:
    done = site.fwl("top", "--json")

    assert done.stdout.isascii() and done.stdout.count(b"\n") == 1
    assert json.loads(done.stdout)["failures"][0]["name"] == "broken"
