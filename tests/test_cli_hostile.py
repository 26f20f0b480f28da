"""Nothing that a job can say steers the terminal of who looks at it, and nothing of it ends a command."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastworker_lite import SyncClient, call
from fastworker_lite.cli.invoking import run
from tests.test_cli_endings import PATIENCE, Screen, Site, start_on

HOSTILE = {
    "clears": "\x1b[2J\x1b[H",
    "title": "\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "link": "\x1b]8;;http://example.org\x1b\\here\x1b]8;;\x1b\\",
    "device": "\x1bP+q544e\x1b\\",
    "asks": "\x1b[6n\x1b[c\x05",
    "resets": "\x1bc",
    "colour": "\x1b[31mred\x1b[5m",
    "half": "ends in \x1b[",
    "c1": "\x9b2J\x90q\x9c",
    "c1 title": "\x9d0;title\x9c",
    "next line": "one\x85two",
    "bell": "\x07\x07\x07",
    "return": "hidden\rshown",
    "newline": "one\nerror: forged\n2  succeeded",
    "tab": "a\tb\tc",
    "backspace": "hidden\x08\x08\x08\x08\x08\x08shown",
    "feeds": "a\x0bb\x0cc",
    "shifts": "\x0e\x0f\x1a\x7f",
    "nul": "a\x00b",
    "override": "\u202etxt.exe\u202d",
    "isolate": "\u2066a\u2067b\u2068c\u2069",
    "marks": "\u200f\u200e\u061c",
    "separators": "one\u2028two\u2029three\ufeff",
    "bytes": "\udcff\udc9b2J",
    "surrogate": "\ud800 \udfff",
    "formats": "%s %(x)s {0} {0.__class__} $(id) `id` [bold]x[/] \\x1b[2J",
    "wide": "\u4e16" * 60 + "e\u0301\u0302\U0001f468\u200d\U0001f469",
}

TASKS = """
import sys
from fastworker_lite import current_job, task

@task
def says(text):
    current_job().progress(1, 2, text)
    print(text)
    print(text, file=sys.stderr)
    raise type(text.encode("ascii", "replace").decode().replace("\\0", "") or "E", (ValueError,), {})(text)
"""

#: Of a terminal nothing is heard but lines; the rest of C0, DEL, C1, what reorders a line, and what is no character.
STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

Captured = pytest.CaptureFixture[bytes]


def as_name(text: str) -> str:
    """What can be stored as a name, which must be Unicode and no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "") or "-"


def as_word(text: str) -> str:
    """What can be a program's argument: no NUL, and any bytes."""
    errors = "surrogatepass" if "\ud800" in text else "surrogateescape"
    return os.fsdecode(text.encode("utf-8", errors).replace(b"\0", b""))


class Told:
    """A database full of hostile jobs: for each string a call that failed, a command that did, and a task that nobody knows."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        (folder / "saying.py").write_text(TASKS)
        self.ids: dict[str, tuple[str, str, str]] = {}
        with SyncClient(folder / "fwl.db", runner="never", durability="normal") as client:
            for key, text in HOSTILE.items():
                name = as_name(text)
                said = call("says", text).options(name=name)
                unknown = call(f"nosuch {name}").options(name=name, queue=name)
                says, parked = (one.id for one in client.submit_calls([said, unknown]))
                client.schedule(key, ["echo", as_word(text)], cron="0 9 * * *", timezone="UTC")
                self.site.sql("UPDATE schedule SET name = ? WHERE name = ?", f"at {name}", key)  # refused as a name
                self.ids[key] = says, self._command(text, name), parked
        for index, text in enumerate(HOSTILE.values()):
            self.site.call("listeners", "add", f"{as_name(text)}{index}", f"unix://{folder}/{as_name(text)}.sock")

    def _command(self, text: str, name: str) -> str:
        place = self.site.folder / (as_word(text).replace("/", "") or "-")
        place.mkdir(exist_ok=True)
        script = r"""printf '%s\n' "$1"; printf '%s\n' "$1" >&2; exit 3"""
        return self.site.submit("--name", name, "-C", str(place), "--", "sh", "-c", script, "x", as_word(text))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    yield Told(tmp_path_factory.mktemp("told"))


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capfdbinary: Captured, told: Told) -> Any:
    """Run a command as if on a terminal, and return its exit code and what was written to that."""

    def run_on_terminal(*words: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        with monkeypatch.context() as patch:
            for number, name in ((1, "stdout"), (2, "stderr")):
                raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
                patch.setattr(sys, name, Terminal(raw, encoding="utf-8", write_through=True))
            patch.setenv("FWL_DB", told.site.variables["FWL_DB"])
            patch.setenv("TERM", "dumb")  # or a wait would draw its line, which begins with a return
            patch.delenv("COLUMNS", raising=False)
            patch.chdir(told.site.folder)
            code = run(list(words))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run_on_terminal


def test_what_a_drain_reports_to_a_terminal_is_harmless(told: Told) -> None:
    """It comes first: it runs the jobs."""
    screen = Screen()
    with start_on(screen, told.site, "drain", "--workers", "1", "--tasks", "saying", "--no-cron") as process:
        screen.until(b"left\r\n")
        assert process.wait(PATIENCE * 2) == 1
    text = screen.rest().decode()
    assert text.count("failed: ") == 2 * len(HOSTILE)
    assert STEERS.search(text) is None


#: What is run for each string, of which of its jobs (0 the call, 1 the command, 2 the parked one), and the exit code.
RENDERS = [
    ("status", 1, 0),
    ("status --json", 1, 0),
    ("status --tsv", 1, 0),
    ("status", 2, 0),
    ("show", 0, 0),
    ("show", 1, 0),
    ("show --json", 0, 0),
    ("why", 0, 0),
    ("why", 2, 0),
    ("logs", 0, 0),
    ("logs --json", 1, 0),
    ("wait", 0, 1),
    ("wait --json", 1, 1),
    ("wait --timeout 0s", 2, 124),
    ("cancel", 0, 4),
    ("cancel", 2, 0),
    ("retry", 0, 0),
]
LISTS = ["events", "queue list", "cron list", "listeners", "status -a", "status -a --json"]


@pytest.mark.parametrize("key", HOSTILE)
def test_whatever_is_shown_of_a_job_is_harmless(told: Told, shown: Any, key: str) -> None:
    for words, which, expected in RENDERS:
        verb, *options = words.split()
        code, out, err = shown(verb, told.ids[key][which], *options)
        separated = out.replace("\t", "") if "--tsv" in options else out
        found = STEERS.search(separated + err)
        assert found is None, f"{words} shows {found}: {out + err!r}"
        assert code == expected, f"{words} exits with {code}: {out + err!r}"
        assert out + err
        if "--json" in options:
            assert out.isascii() and all(json.loads(line)["schema"] for line in out.splitlines())


@pytest.mark.parametrize("words", LISTS)
def test_whatever_is_listed_is_harmless(told: Told, shown: Any, words: str) -> None:
    code, text, _ = shown(*words.split())
    assert code == 0
    assert STEERS.search(text) is None
    assert len(text) > 28
    if words != "status -a" and "json" not in words and words != "events":
        assert len(text.splitlines()) > len(HOSTILE) - 5  # queues that have the same name after all are one


@pytest.mark.parametrize("key", HOSTILE)
def test_what_is_typed_wrongly_comes_back_harmless(shown: Any, key: str) -> None:
    text = as_word(HOSTILE[key])
    for words, expected in (
        (["status", f"no {text}"], {2, 3}),
        (["logs", "--attempt", text, "1"], {2}),
        (["wait", "--timeout", text, "1"], {2}),
        (["wait", "--queue", f"no {text}", "--drained"], {3}),
        (["cron", "run", text], {3}),
        (["listeners", "remove", text], {2, 3}),
        (["submit", f"--{text}", "--", "true"], {2}),
        ([text], {2}),
        (["--db", f"/nonexistent/{text}", "status"], {74}),
    ):
        code, out, err = shown(*words)
        assert STEERS.search(out + err) is None, f"{words} shows {out + err!r}"
        assert code in expected, f"{words} exits with {code}: {out + err!r}"
        assert err.count("\n") <= 2


# ---- as processes, on a terminal


@pytest.mark.parametrize("key", ["clears", "c1 title", "override", "bytes", "newline", "nul"])
def test_a_log_on_a_terminal_is_harmless(told: Told, key: str) -> None:
    screen = Screen()
    with start_on(screen, told.site, "logs", told.ids[key][1]) as process:
        assert process.wait(PATIENCE) == 0
    text = screen.rest().decode()
    assert STEERS.search(text) is None
    assert text.count("\n") == 2 * (1 + HOSTILE[key].count("\n"))


def test_a_line_without_end_is_shown_in_little_time_and_memory(tmp_path: Path) -> None:
    """Ten megabytes of escapes without a newline, to a terminal and with a prefix into a pipe."""
    site = Site(tmp_path)
    job = site.submit("--", "true")
    site.fwl("run", "--", "true")
    logs = tmp_path / "fwl.db.d" / "logs"
    logs.mkdir(exist_ok=True)
    (logs / f"{job}.1.out").write_bytes(b"\x1b[2J\xe4\xb8\x96" * (10_000_000 // 7))
    site.sql("UPDATE job SET state = 'cancelled', attempt = 1, started_at = 1.0, finished_at = 2.0 WHERE id = ?", job)

    bare, _ = usage_of(site, "version")
    for words in (["logs", job], ["logs", job, "2"], ["logs", job, "--json"], ["logs", job, "-n", "1"]):
        memory, seconds = usage_of(site, *words)
        print(f"{' '.join(words)}: {seconds:.1f} s, {memory - bare} MB more than nothing")
        assert memory - bare < 60
        assert seconds < 10


_MEASURE = """
import os, pty, resource, subprocess, sys, threading, time
ours, theirs = os.openpty()
def swallow():
    try:
        while os.read(ours, 1 << 16):
            pass
    except OSError:
        pass
threading.Thread(target=swallow, daemon=True).start()
began = time.monotonic()
subprocess.run([sys.executable, "-m", "fastworker_lite", *sys.argv[1:]], stdout=theirs, stderr=theirs, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024, time.monotonic() - began)
"""


def usage_of(site: Site, *words: str) -> tuple[int, float]:
    """The most megabytes that a command took on a terminal, and its seconds."""
    command = [sys.executable, "-c", _MEASURE, *words]
    result = subprocess.run(command, env=site.variables, capture_output=True, text=True, check=True, timeout=60)
    memory, seconds = result.stdout.split()
    return int(memory), float(seconds)
