"""`fwl status` and the words that say which jobs are meant."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_cli_endings import PATIENCE, Screen, Site


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Jobs 1 to 6: two of one name that succeeded, one that failed, one queued, one later, one held."""
    site = Site(tmp_path_factory.mktemp("several"))
    for _ in range(2):
        site.submit("--name", "backup", "--tag", "of=ana", "--", "true")
    site.submit("--name", "sync", "--tag", "of=ben", "-c", "exit 3")
    assert site.fwl("drain").returncode == 1
    site.submit("--name", "backup", "--", "echo", "a\tb" + "x" * 120)
    site.submit("--in", "1h", "--", "true")
    site.submit("--hold", "--", "true")
    return site


def ids(site: Site, *words: str, given: bytes = b"") -> list[str]:
    command = [sys.executable, "-m", "fastworker_lite", "status", "-q", *words]
    result = subprocess.run(
        command, input=given, capture_output=True, cwd=site.folder, env=site.variables, timeout=PATIENCE, check=True
    )
    return result.stdout.decode().split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("-a", "1 2 3 4 5 6"),
        ("2 1 2", "2 1"),
        ("1-3", "1 2 3"),
        ("@last", "6"),
        ("@failed", "3"),
        ("@queued", "4"),
        ("@scheduled @blocked", "5 6"),
        ("@cancelled", ""),
        ("backup", "4"),
        ("sync 1-2", "3 1 2"),
        ("1-6 --name backup --state succeeded", "1 2"),
        ("--name 'b*' --tag of=ana", "2 1"),
        ("--name '[!b]*'", "5 6 3"),
        ("--state failed --state queued", "3 4"),
        ("--tag of=ana --tag of=ben", "3"),
        ("--since 1h --state failed", "3"),
        ("--sort name --state succeeded --state failed", "1 2 3"),
        ("--sort id --reverse -a", "6 5 4 3 2 1"),
        ("-a -n 2", "5 6"),
        ("-a -n 9", "1 2 3 4 5 6"),
        ("--state succeeded -n 1", "2"),
        ("--sort id -n 2", "1 2"),
        ("--sort -id -n 2", "6 5"),
        ("--sort -id --reverse -n 2", "1 2"),
        ("--sort -id --name backup -n 2", "4 2"),
        ("--sort -id -n 2 1-4", "4 3"),
        ("--sort -exit_code -n 1", "3"),
        ("--sort exit_code --state failed --state succeeded", "1 2 3"),
        ("--sort -created -n 1", "6"),
        ("-n 0", ""),
    ],
)
def test_words_and_filters_say_which_jobs_are_listed(several: Site, words: str, found: str) -> None:
    assert ids(several, *shlex.split(words)) == found.split()


def test_the_longest_are_found_among_all_jobs_and_those_that_never_ran_come_last(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.submit("--", "true")
    for seconds in ("0.2", "0.4", "0"):
        site.fwl("run", "--", "sleep", seconds)
    for _ in range(11):  # more than the list shows of those that have ended
        site.fwl("run", "--", "true")
    assert ids(site, "--sort", "-duration", "-n", "2") == ["3", "2"]
    assert ids(site, "--sort", "-duration")[-1] == "1"
    assert ids(site, "--sort", "duration", "-n", "99")[-3:] == ["2", "3", "1"]


def test_ids_come_from_stdin(several: Site) -> None:
    assert ids(several, "-", "5", given=b"3 1-2\n@last\n") == ["3", "1", "2", "6", "5"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("status nosuch", 3, 'error: no job is named "nosuch"'),
        ("status 99", 3, "error: no job 99 (newest is 6)"),
        ("status 3-1", 2, 'error: "3-1" is not a range'),
        ("status @nosuch", 2, 'error: "@nosuch" is not a job'),
        ("status --fields id,nosuch", 2, 'error: --fields: there is no field "nosuch"'),
        ("status --sort nosuch", 2, 'error: --sort: there is no field "nosuch"'),
        ("status --until-done", 2, "error: --until-done goes with --watch"),
        ("status --watch", 2, "error: --watch needs a terminal"),
        ("show @succeeded", 2, "error: show takes one job, and @succeeded is 2: 1, 2\n"),
        ("why @cancelled", 3, "error: no job is cancelled\n"),
        ("retry @cancelled", 3, "error: no job is cancelled\n"),
        ("retry --name backup", 3, "error: no job that matches is failed or cancelled or expired\n"),
        ("rm --name nosuch", 3, "error: no job matches\n"),
        ("rm --since 1h --queue nosuch", 3, "error: no job matches\n"),
        ("cancel", 2, "error: which jobs? Give ids, @active, --queue Q or --all\n"),
        ("wait", 2, "error: which jobs? Give ids, @active, --queue Q or --all\n"),
        ("retry", 2, "error: which jobs? Give ids, @failed, --queue Q or --all\n"),
        ("rm", 2, "error: which jobs? Give ids, @failed, --queue Q or --all\n"),
        ("hold", 2, "error: which jobs? Give ids, @queued, --queue Q or --all\n"),
        ("release", 2, "error: which jobs? Give ids, --queue Q or --all\n"),
    ],
)
def test_what_names_no_job_is_told_with_its_own_exit_code(several: Site, words: str, code: int, message: str) -> None:
    result = several.fwl(*words.split())
    assert (result.returncode, result.stdout) == (code, b"")
    assert result.stderr.decode().startswith(message)


def test_fields_are_for_people_and_tsv_is_for_programs(several: Site) -> None:
    shown = several.told("status", "--fields", "id,state,exit_code", "3")
    assert shown.split() == ["ID", "STATE", "EXIT_CODE", "3", "failed(3)", "3"]
    assert several.told("status", "--tsv", "--fields", "id,state,exit_code,queue", "3") == "3\tfailed\t3\tdefault\n"


def test_a_tab_in_a_word_does_not_make_a_column(several: Site) -> None:
    [line] = several.told("status", "--tsv", "4").splitlines()
    assert line.count("\t") == 9 and "a\\tb" in line


@pytest.mark.parametrize(
    ("words", "count"), [("", 3), ("-a", 6), ("--state failed", 1), ("1-3", 3), ("backup", 1), ("--name backup", 3)]
)
def test_a_count_is_of_what_has_not_ended_or_of_what_is_named(several: Site, words: str, count: int) -> None:
    assert several.told("status", "--count", *words.split()) == f"{count}\n"
    assert several.json("status", "--count", *words.split()) == {"schema": "fwl.count/1", "count": count}


@pytest.mark.parametrize(("words", "code"), [("3", 1), ("1 2", 0), ("-a", 1), ("4-6", 0)])
def test_the_exit_code_says_whether_one_of_them_failed(several: Site, words: str, code: int) -> None:
    assert several.fwl("status", "--exit-code", *words.split()).returncode == code
    assert several.fwl("status", *words.split()).returncode == 0


def test_an_empty_list_is_not_said_to_be_an_empty_database(several: Site) -> None:
    result = several.fwl("status", "-n", "0")
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("words", "is_cut"), [([], True), (["--no-trunc"], False)])
def test_only_the_last_column_is_cut_and_only_on_a_terminal(several: Site, words: list[str], is_cut: bool) -> None:
    screen = Screen()
    screen.resize(24, 80)
    with several.start("status", "4", *words, stdout=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    lines = screen.rest().decode().splitlines()
    assert ("x" * 120 not in lines[1]) is is_cut
    assert lines[1].startswith("4   queued") and (max(map(len, lines)) <= 80) is is_cut
    assert "x" * 120 in several.told("status", "4")


def test_a_watched_list_ends_when_all_of_it_has(several: Site) -> None:
    screen = Screen()
    screen.resize(24, 80)
    words = ["status", "--watch", "--until-done", "--exit-code", "1-3"]
    with several.start(*words, stdin=screen.theirs, stdout=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"failed(3)" in screen.rest()


def test_a_watched_list_in_json_is_a_document_for_each_change(several: Site) -> None:
    result = several.fwl("status", "--watch", "--until-done", "--json", "1-3")
    assert result.returncode == 0 and result.stdout.count(b'"schema":"fwl.jobs/1"') == 1


def test_a_cancelled_job_that_ran_shows_how_long(several: Site, tmp_path: Path) -> None:
    site = Site(tmp_path)
    with site.start("run", "--", "sleep", "60") as process:
        for _ in range(500):
            if (tmp_path / "fwl.db").exists() and site.sql("SELECT 1 FROM job WHERE state = 'running'"):
                break
            time.sleep(0.01)
        site.fwl("cancel", "1", "--now")
        process.communicate(timeout=PATIENCE)
    state, _, _, age, taken = site.told("status", "1").splitlines()[1].split()[1:6]
    assert (state, age[-1], taken[-1]) == ("cancelled", "s", "s")
