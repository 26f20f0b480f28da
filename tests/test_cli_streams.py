"""What `fwl` writes where: into pipes, files and terminals, and when nobody can take it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_cli_endings import PATIENCE, Screen, Site

FWL = f"{sys.executable} -m fastworker_lite"
READ_VERBS = [
    "status",
    "status -a --json",
    "status --tsv",
    "status -q",
    "show 1",
    "show 1 --json",
    "why 1",
    "logs 1",
    "logs 1 --json",
    "wait 1",
    "wait 1 --json",
    "events",
    "queue list",
    "cron list",
    "listeners",
    "version",
]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder with something for every command to tell."""
    site = Site(tmp_path_factory.mktemp("filled"))
    (site.folder / "fastworker.toml").write_text('[cron.nightly]\nevery = "1h"\nshell = "true"\n')
    site.fwl("run", "--name", "first", "-c", "seq 100000")
    site.call("submit", "--name", "second", "--", "echo", "x" * 200)
    site.call("listeners", "add", "app", f"unix://{site.folder}/app.sock")
    yield site


def shell(site: Site, line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=site.folder, env=site.variables | variables, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


# ---- submit


def test_stdout_of_submit_is_the_id_alone_in_a_pipe_and_on_a_terminal(site: Site) -> None:
    assert re.fullmatch(rb"\d+\n", site.fwl("submit", "--", "true").stdout)
    screen = Screen()
    with site.start("submit", "--", "true", stdout=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    assert re.fullmatch(rb"\d+\n", screen.rest())


def test_submit_in_json_can_be_read_whatever_is_on_stderr(site: Site) -> None:
    result = shell(site, f"{{ echo noise >&2; {FWL} submit --json -- true; }} | {sys.executable} -m json.tool")
    assert result.returncode == 0
    assert b'"schema": "fwl.submitted/1"' in result.stdout
    assert result.stderr.startswith(b"noise\nqueued; no worker is running")


# ---- lists


@pytest.mark.parametrize(
    "variables",
    [{"COLUMNS": "40"}, {"COLUMNS": "80"}, {}, {"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
    ids=["40", "80", "unset", "C", "ASCII"],
)
def test_the_first_word_of_each_row_is_the_id_however_wide_it_is(filled: Site, variables: dict[str, str]) -> None:
    result = shell(filled, f"{FWL} status | awk '{{print $1}}'", **variables)
    assert (result.stdout, result.stderr) == (b"ID\n2\n1\n", b"")


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_terminal_gets_whole_ids_and_states_and_cuts_the_command(filled: Site, columns: int) -> None:
    screen = Screen()
    screen.resize(24, columns)
    with filled.start("status", "--color", "never", stdout=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    header, *rows = screen.rest().decode().splitlines()
    assert header.split() == ["ID", "STATE", "QUEUE", "NAME", "AGE", "TIME", "COMMAND"]
    assert [row.split()[:2] for row in rows] == [["2", "queued"], ["1", "succeeded"]]
    fixed = header.index("COMMAND")
    assert all(len(row) <= max(columns, fixed + 9) for row in rows)


@pytest.mark.skipif(shutil.which("script") is None, reason="script is not installed")
def test_the_ids_are_there_under_script(filled: Site) -> None:
    result = shell(filled, f"script -qec '{FWL} status 1 2 2>&-' /dev/null </dev/null | awk '{{print $1}}'")
    assert result.stdout.split()[:3] == [b"ID", b"1", b"2"]


def test_the_ids_are_there_with_next_to_no_environment(filled: Site) -> None:
    """As from cron: no LANG, no PATH to speak of, no HOME."""
    database = filled.variables["FWL_DB"]
    root = filled.variables["PYTHONPATH"]
    result = shell(filled, f"env -i PYTHONPATH={root} {FWL} --db {database} status | awk '{{print $1}}'")
    assert (result.stdout, result.stderr) == (b"ID\n2\n1\n", b"")


# ---- colours


@pytest.mark.parametrize(
    "variables",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FWL_COLOR": "never", "FORCE_COLOR": "1"}],
    ids=["NO_COLOR", "dumb", "never"],
)
def test_who_wants_no_colour_gets_no_escape(filled: Site, variables: dict[str, str]) -> None:
    line = "; ".join(f"{FWL} {words}" for words in ("status", "show 1", "why 1", "wait 1", "submit -h", "nosuch"))
    piped = shell(filled, f"({line}) 2>&1", **variables)
    assert b"\x1b" not in piped.stdout
    screen = Screen()
    with subprocess.Popen(
        ["/bin/sh", "-c", line],
        cwd=filled.folder, env=filled.variables | variables, stdin=subprocess.DEVNULL, stdout=screen.theirs,
        stderr=screen.theirs,
    ) as process:  # fmt: skip
        process.wait(60)
    shown = screen.rest()
    assert b"\x1b" not in shown
    assert b"job 1 first succeeded" in shown and b'no command "nosuch"' in shown


@pytest.mark.parametrize(
    "variables", [{"FORCE_COLOR": "1"}, {"CLICOLOR_FORCE": "1", "NO_COLOR": ""}, {"FWL_COLOR": "always"}]
)
def test_who_wants_colour_gets_it_for_states_and_nothing_else(filled: Site, variables: dict[str, str]) -> None:
    words = "status -a --fields id,state,command"
    plain = shell(filled, f"{FWL} {words}").stdout
    coloured = shell(filled, f"{FWL} {words}", **variables).stdout
    assert b"\x1b[32msucceeded" in coloured
    assert re.sub(rb"\x1b\[[0-9]*m", b"", coloured) == plain


# ---- nobody to take it


@pytest.mark.parametrize("words", READ_VERBS)
def test_a_full_disk_is_told_in_one_line(filled: Site, words: str) -> None:
    result = shell(filled, f"{FWL} {words} > /dev/full")
    assert (result.returncode, result.stderr) == (1, b"error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("words", ["status 1 2", "logs 1", "logs 1 --json", "show 1", "wait 1 2 --any", "-h"])
def test_a_reader_that_has_seen_enough_is_no_trouble(filled: Site, words: str) -> None:
    with filled.start(*words.split()) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("words", READ_VERBS)
def test_a_reader_that_is_gone_before_the_first_line_is_no_trouble(filled: Site, words: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        with filled.start(*words.split(), stdout=theirs) as process:
            _, err = process.communicate(timeout=PATIENCE)
    finally:
        os.close(theirs)
    assert (process.returncode, err) == (0, b"")


def test_an_error_keeps_its_code_when_nobody_reads_it(filled: Site) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with filled.start("show", "99", stderr=theirs) as process:
        process.communicate(timeout=PATIENCE)
    os.close(theirs)
    assert process.returncode == 3


@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_a_stream_that_is_closed_ends_no_command(filled: Site, closing: str) -> None:
    result = shell(filled, f"{FWL} status 1 {closing}")
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr + result.stdout
