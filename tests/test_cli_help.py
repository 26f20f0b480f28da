"""What `fwl` says of itself, and of words that it does not know."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastworker_lite.cli import manual, parsing
from fastworker_lite.cli.app import app
from fastworker_lite.cli.commands import COMMANDS, HEADINGS, entries_in
from fastworker_lite.cli.topics import TOPICS

ROOT = Path(__file__).resolve().parent.parent
Result = subprocess.CompletedProcess[str]
Fwl = Callable[..., Result]
VISIBLE = [name for name, entry in COMMANDS.items() if not entry.is_hidden]


@pytest.fixture
def fwl(tmp_path: Path) -> Fwl:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    variables = kept | {"FWL_DB": str(tmp_path / "fwl.db"), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    variables |= {"XDG_STATE_HOME": str(tmp_path / "state")}

    def call(*words: str, **changed: str) -> Result:
        return subprocess.run(
            [sys.executable, "-m", "fastworker_lite", *words],
            capture_output=True, text=True, cwd=tmp_path, env=variables | changed, timeout=60, check=False,
        )  # fmt: skip

    return call


# ---- help


def test_help_of_all_is_had_in_four_ways_and_lists_the_commands_under_headings(fwl: Fwl) -> None:
    answers = [fwl(*words) for words in ([("-h",), ("--help",), ("help",), ("help", "help")])]
    assert {answer.returncode for answer in answers} == {0}
    assert len({answer.stdout for answer in answers[:3]}) == 1
    text = answers[0].stdout
    for heading in HEADINGS:
        assert f"\n{heading}:\n" in text
    for name, entry in entries_in("").items():
        assert re.search(rf"^  {name} +{re.escape(entry.summary)}$", text, re.MULTILINE)
    assert f"Topics: fwl help {' | '.join(TOPICS)}" in " ".join(text.split())


@pytest.mark.parametrize("name", VISIBLE)
def test_help_of_a_command_fits_80_columns_and_names_every_option(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app().main([*name.split(), "-h"], prog_name="fwl", standalone_mode=False, obj=parsing.new_session())
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: fwl {name}")
    assert max(map(len, text.splitlines())) <= 80
    for option in parsing.load(name).params:
        if option.param_type_name == "option" and not option.hidden:
            assert max(option.opts, key=len) in text
    for variable in ("FWL_DB", "FWL_CONFIG", "FWL_JSON", "FWL_QUIET", "FWL_COLOR", "FWL_NO_INPUT", "FWL_DEBUG"):
        assert variable in text


def test_help_has_examples_before_options_and_options_under_headings_where_there_are_many(fwl: Fwl) -> None:
    text = fwl("help", "submit").stdout
    places = [
        text.index(part) for part in ("fwl submit -- make -j4", "Arguments:", "Limits:", "When it fails:", "--db")
    ]
    assert places == sorted(places)
    assert fwl("submit", "-h").stdout == fwl("submit", "--help").stdout == text
    assert fwl("submit", "--name", "x", "-h").stdout == text  # wherever it stands
    assert "Limits:" not in fwl("help", "show").stdout


@pytest.mark.parametrize("topic", TOPICS)
def test_topics_are_explained_and_fit_80_columns(fwl: Fwl, topic: str) -> None:
    answer = fwl("help", topic)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(answer.stdout.splitlines()) > 5
    assert max(map(len, answer.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["sumbit"], 'error: no help on "sumbit". Did you mean: fwl help submit?'),
        (["exit-cods"], 'error: no help on "exit-cods". Did you mean: fwl help exit-codes?'),
        (["cron", "lst"], 'error: no help on "cron lst". Did you mean: fwl help cron list?'),
        (["qqqqqqq"], 'error: no help on "qqqqqqq".'),
    ],
)
def test_help_that_there_is_not_is_refused_with_what_was_meant(fwl: Fwl, words: list[str], line: str) -> None:
    answer = fwl("help", *words)
    assert (answer.returncode, answer.stderr.splitlines()[0]) == (2, line)


# ---- the manual


def test_the_manual_names_every_command_and_option() -> None:
    text = manual.text().replace("\\-", "-")
    for name in VISIBLE:
        assert re.search(rf"^\.SS fwl {name}\b", text, re.MULTILINE), name
        for option in parsing.load(name).params:
            if option.param_type_name == "option" and not option.hidden:
                assert re.search(rf"^\.B .*{max(option.opts, key=len)}\b", text, re.MULTILINE), (name, option.opts)
    for section in ("NAME", "SYNOPSIS", "EXIT CODES", "ENVIRONMENT", "FILES"):
        assert f"\n.SH {section}\n" in text


@pytest.mark.parametrize(
    "command",
    [
        ["groff", "-man", "-ww", "-Tutf8"],
        ["man", "--warnings", "-l"],
        ["mandoc", "-Tlint", "-W", "warning"],
    ],
    ids=lambda command: command[0],
)
def test_the_manual_is_without_faults(command: list[str], tmp_path: Path) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "fwl.1").write_text(manual.text())
    answer = subprocess.run([*command, tmp_path / "fwl.1"], capture_output=True, text=True, check=False)
    complaints = answer.stdout if command[0] == "mandoc" else answer.stderr
    assert (answer.returncode, complaints) == (0, "")


def test_the_manual_is_printed_into_a_pipe_as_it_is_written(fwl: Fwl) -> None:
    answer = fwl("man")
    assert answer.returncode == 0
    assert answer.stdout == manual.text()


# ---- words that are not known


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stauts"], 'error: no command "stauts". Did you mean: fwl status?'),
        (["kill", "45"], 'error: no command "kill". Did you mean: fwl cancel 45 --signal KILL?'),
        (["tail", "45"], 'error: no command "tail". Did you mean: fwl logs -f 45?'),
        (["enqueue", "--", "ls -l"], "error: no command \"enqueue\". Did you mean: fwl submit -- 'ls -l'?"),
        (["cron", "lst"], 'error: no command "cron lst". Did you mean: fwl cron list?'),
        (["submit", "--nmae", "x", "--", "true"], "error: unknown option --nmae before the command. Did you mean --name?  (Options of CMD go after --)"),
        (["status", "--stat", "queued"], "error: unknown option --stat. Did you mean --state?"),
        (["status", "--limit"], "error: --limit needs a value: a number"),
        (["submit", "--on-conflict"], "error: --on-conflict needs a value: keep, fail or replace"),
        (["submit", "--timeout"], "error: --timeout needs a value: 90s, 5m, 1h30m or 2d"),
        (["status", "--limit", "x"], 'error: --limit: "x" is not a whole number'),
        (["status", "--json=3"], "error: --json takes no value"),
        (["cron", "run"], "error: NAME is missing: the schedule"),
        (["status", "--color", "blue"], 'error: --color: "blue" is none of auto, always and never'),
    ],
)  # fmt: skip
def test_what_is_not_known_is_answered_in_a_line_with_what_was_meant(fwl: Fwl, words: list[str], line: str) -> None:
    answer = fwl(*words)
    assert (answer.returncode, answer.stdout) == (2, "")
    first, *hints = answer.stderr.splitlines()
    assert first == line
    assert all(hint.startswith("  See: fwl ") for hint in hints)


def test_what_was_typed_cannot_steer_the_terminal(fwl: Fwl) -> None:
    for words in (["\x1b[31m"], ["kill", "\x1b[31m"], ["status", "--\x1b[31m"], ["help", "\x1b[31m"]):
        answer = fwl(*words)
        assert answer.returncode == 2
        assert "\x1b" not in answer.stderr


def test_usage_errors_are_json_where_json_is_asked_for_by_option_or_environment(fwl: Fwl) -> None:
    for answer in (fwl("status", "--limit", "x", "--json"), fwl("stauts", FWL_JSON="1"), fwl("--json", "stauts")):
        error = json.loads(answer.stdout)["error"]
        assert (error["code"], error["exit_code"], answer.returncode) == ("usage", 2, 2)


def test_options_of_the_command_are_not_taken_for_ours(fwl: Fwl) -> None:
    answer = fwl("run", "echo", "--json", "--debug")
    assert (answer.returncode, answer.stdout) == (0, "--json --debug\n")
    assert fwl("submit", "echo", "--json").stdout == "2\n"
    assert fwl("submit", "--queue", "nosuch", "echo", "--json").stdout == ""


# ---- faults of ours

BROKEN = """
import sys
from fastworker_lite.cli import listing, main

def status(secret: str = "hunter2") -> int:
    password = secret
    raise KeyError("no such\\x1b[31m thing")

listing.status = status
main.main()
"""


def broken(fwl: Fwl, tmp_path: Path, *words: str, **changed: str) -> Result:
    """`fwl status` with a fault in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    variables = kept | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state"), "HOME": str(tmp_path)}
    return subprocess.run(
        [sys.executable, "-c", BROKEN, "status", *words],
        capture_output=True, text=True, cwd=tmp_path, env=variables | changed, check=False,
    )  # fmt: skip


def test_a_fault_of_ours_is_a_line_and_a_private_file(fwl: Fwl, tmp_path: Path) -> None:
    answer = broken(fwl, tmp_path)
    first, second = answer.stderr.splitlines()
    assert answer.returncode == 70
    assert first.startswith("error: unexpected: KeyError: ")
    path = Path(second.removeprefix("  details: "))
    assert path.parent == tmp_path / "state" / "fastworker"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text()
    assert "Traceback" in text
    assert "KeyError" in text
    assert "hunter2" not in text


@pytest.mark.parametrize(("words", "changed"), [(["--debug"], {}), ([], {"FWL_DEBUG": "1"})])
def test_a_fault_is_traced_on_the_screen_when_that_is_asked_for(
    fwl: Fwl, tmp_path: Path, words: list[str], changed: dict[str, str]
) -> None:
    answer = broken(fwl, tmp_path, *words, **changed)
    assert answer.returncode == 70
    assert "Traceback (most recent call last):" in answer.stderr
    assert answer.stderr.splitlines()[-1].startswith("error: unexpected: KeyError")
    assert "\x1b" not in answer.stderr
    assert "hunter2" not in answer.stderr
    assert not (tmp_path / "state").exists()


# ---- options that all commands have


def test_options_that_all_have_stand_before_or_after_the_command(fwl: Fwl, tmp_path: Path) -> None:
    for words in (["-v", "status"], ["status", "-v"]):
        assert f"database {tmp_path / 'fwl.db'}, settings none" in fwl(*words).stderr
    assert "settings none" in fwl("status", FWL_VERBOSE="1").stderr
    assert fwl("--no-input", "--color", "never", "status").returncode == 0
    assert fwl("status", "--no-input", "--color=always").returncode == 0


def test_a_flag_before_the_command_goes_before_the_environment(fwl: Fwl, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('db = "a.db"\n')
    (tmp_path / "b.toml").write_text('db = "b.db"\n')
    answer = fwl("-v", "--config", "a.toml", "status", FWL_CONFIG="b.toml", FWL_DB="")
    assert f"database {tmp_path / 'a.db'}" in answer.stderr


@pytest.mark.parametrize(
    ("choice", "changed", "is_coloured"),
    [
        ("auto", {}, False),  # not a terminal
        ("auto", {"FORCE_COLOR": "1"}, True),
        ("auto", {"CLICOLOR_FORCE": "1"}, True),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ("auto", {"FORCE_COLOR": "1", "FWL_NO_COLOR": "1"}, False),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, True),
        ("never", {"FORCE_COLOR": "1"}, False),
        (None, {"FWL_COLOR": "always", "NO_COLOR": "1"}, True),
    ],
)
def test_colours_are_as_chosen_else_as_the_environment_has_it(
    choice: str | None, changed: dict[str, str], is_coloured: bool
) -> None:
    chosen = "" if choice is None else f"render.choose_colour('{choice}', '--color')"
    script = (
        "from fastworker_lite.cli import parsing, render\nparsing.new_session()\n"
        f"{chosen}\nprint(repr(render.paint('failed', 'red')))"
    )
    names = ("FORCE_COLOR", "CLICOLOR_FORCE", "NO_COLOR", "FWL_NO_COLOR", "FWL_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, env=kept | {"PYTHONPATH": str(ROOT)} | changed, check=True,
    )  # fmt: skip
    assert answer.stdout.strip() == repr("\x1b[31mfailed\x1b[0m" if is_coloured else "failed")
