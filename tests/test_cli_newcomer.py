"""What a person who knows only `fwl --help` types on the way to being told how jobs end, and finds an answer to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastworker_lite.cli.topics import TOPICS
from tests.test_crash import until

ROOT = Path(__file__).resolve().parent.parent
Result = subprocess.CompletedProcess[str]
Fwl = Callable[..., Result]


def variables(folder: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FWL_", "XDG_"))}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder), "FWL_AUTOSTART": "0"}


@pytest.fixture
def fwl(tmp_path: Path) -> Fwl:
    """`fwl` typed in a new folder, without any variable that names a database."""

    def call(*words: str, code: int = 0, **changed: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "fastworker_lite", *words],
            capture_output=True, text=True, cwd=tmp_path, env=variables(tmp_path) | changed, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return call


def settings(folder: Path, text: str) -> None:
    (folder / "fastworker.toml").write_text(text)


# ---- where is it explained


@pytest.mark.parametrize(
    ("word", "topic"),
    [("hook", "hooks"), ("notifications", "hooks"), ("callbacks", "hooks"), ("webhook", "hooks"), ("Desktop", "hooks"),
     ("lock", "locks"), ("concurrency", "locks"), ("crontab", "schedules"), ("fastworker.toml", "settings"),
     ("exit status", "exit-codes"), ("env", "environment")],
)  # fmt: skip
def test_a_topic_is_found_under_the_words_that_people_look_for(fwl: Fwl, word: str, topic: str) -> None:
    assert fwl("help", *word.split()).stdout == TOPICS[topic].strip() + "\n"


def test_the_topics_are_listed_for_who_asks_for_them(fwl: Fwl) -> None:
    assert all(topic in fwl("help", "topics").stdout for topic in TOPICS)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("hooks", "Did you mean: fwl help hooks?"),
        ("notifications", "Did you mean: fwl notify test?"),
        ("webhook", "Did you mean: fwl help hooks?"),
        ("desktop", "Did you mean: fwl help hooks?"),
        ("locks", "Did you mean: fwl help locks?"),
        ("cron add nightly", "fwl help schedules"),
        ("cron remove nightly", "fwl help schedules"),
        ("cron disable nightly", "Did you mean: fwl cron pause nightly?"),
        ("cron status", "Did you mean: fwl cron list?"),
        ("config get workers", "Did you mean: fwl config show workers?"),
        ("config set workers 3", "fwl help settings"),
        ("listeners list", "Did you mean: fwl listeners?"),
        ("notify desktop", "fwl help hooks"),
        ("db restore x.db", "fwl db backup -h"),
        ("service start", "Did you mean: fwl service install?"),
        ("submit --on-failure x -- true", "fwl help hooks"),
        ("submit --ping https://example.com -- true", "fwl run --ping URL"),
        ("submit --notify desktop -- true", "fwl help hooks"),
        ("submit --notify mailto:ana@example.org -- true", "fwl help hooks"),
        ("listeners add app https://example.com", "fwl help hooks"),
        ("notify test desktop", "fwl help hooks"),
        ("events 99", "too many words: 99\n"),
        ("listeners add", "NAME is missing: what to call it"),
    ],
)
def test_what_does_not_exist_leads_to_what_does(fwl: Fwl, line: str, answer: str) -> None:
    assert answer in fwl(*line.split(), code=2).stderr


def test_where_nothing_is_yet_it_is_said_how_there_comes_to_be_something(fwl: Fwl) -> None:
    assert "fwl submit" in fwl("events").stderr
    assert "fwl help hooks" in fwl("listeners").stderr
    assert "fwl help hooks" in fwl("notify", "test", code=1).stderr
    assert "fwl worker" in fwl("workers").stderr
    for words in (["cron"], ["cron", "list"], ["cron", "next"]):
        assert "fwl help schedules" in fwl(*words).stderr
    for words in (["cron", "run", "x"], ["cron", "pause", "x"], ["cron", "history", "x"]):
        assert "fwl help schedules" in fwl(*words, code=3).stderr


def test_a_group_alone_shows_what_it_is_about(fwl: Fwl, tmp_path: Path) -> None:
    assert fwl("config").stdout == fwl("config", "show").stdout != ""
    assert fwl("db").stdout == fwl("db", "path").stdout != ""


# ---- settings


def test_what_init_says_to_type_next_works(fwl: Fwl, tmp_path: Path) -> None:
    fwl("init")

    assert fwl("submit", "--", "echo", "hello").stdout == "1\n"
    fwl("drain")
    assert fwl("logs", "1").stdout == "hello\n"
    assert (tmp_path / ".fastworker" / "fwl.db").exists()


def test_a_crontab_is_imported_below_what_init_has_written(fwl: Fwl, tmp_path: Path) -> None:
    fwl("init")
    (tmp_path / "crontab").write_text("0 3 * * * /bin/true\n")

    with (tmp_path / "fastworker.toml").open("a") as file:
        file.write(fwl("cron", "import", "crontab").stdout)

    assert fwl("config", "check").stdout == "no problems in fastworker.toml\n"
    assert len(fwl("cron", "list", "-q").stdout.split()) == 1


def test_one_setting_or_one_table_is_shown(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, "workers = 3\n[hooks]\ndesktop = true\n")

    assert fwl("config", "show", "workers").stdout == "workers = 3\n"
    assert fwl("config", "show", "hooks.desktop", "--sources").stdout == ("hooks.desktop = true  # fastworker.toml:3\n")
    assert {line.split(".")[0] for line in fwl("config", "show", "hooks").stdout.splitlines()} == {"hooks"}
    assert fwl("config", "show", "cron").stdout == ""
    assert 'Did you mean "workers"?' in fwl("config", "show", "wrokers", code=3).stderr


def test_a_queue_that_the_settings_name_needs_no_worker_to_be_made(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, "[queue]\nio = { workers = 2 }\n")

    assert fwl("submit", "--queue", "io", "--", "true").stdout == "1\n"
    fwl("drain", "-Q", "io")
    assert "no queue" in fwl("submit", "--queue", "oi", "--", "true", code=3).stderr


def test_a_schedule_that_cannot_be_is_not_passed_over_in_silence(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, '[cron.nightly]\nschedule = "30 25 * * *"\ncommand = ["true"]\n')

    for words in (["cron", "list"], ["cron", "next"]):
        assert "fwl cron check" in fwl(*words).stderr
    assert "fwl cron check" in fwl("cron", "run", "nightly", code=3).stderr
    assert json.loads(fwl("cron", "list", "--json").stdout)["schedules"] == []


def test_a_wrong_setting_has_the_same_line_wherever_it_is_said(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, '# mine\n[hooks]\ndesktop = true\non_success = "echo hi"\n')

    said = fwl("status", code=78).stderr
    assert said.startswith("error: fastworker.toml:4: hooks holds on_success, which must be a list of words")
    assert said.removeprefix("error: ") == fwl("config", "check", code=78).stdout
    settings(tmp_path, "\n[hook]\ndesktop = true\n")
    assert "fastworker.toml:2: there is no setting" in fwl("status", code=78).stderr
    assert "fastworker.toml:2: there is no setting" in fwl("config", "check", code=78).stdout


def test_a_file_that_a_variable_names_is_said_to_come_from_there(fwl: Fwl) -> None:
    assert "FWL_CONFIG" in fwl("status", code=78, FWL_CONFIG="none.toml").stderr
    assert "FWL_CONFIG" not in fwl("--config", "none.toml", "status", code=78).stderr


# ---- being told


def test_the_example_of_the_help_on_hooks_is_right_and_is_run(fwl: Fwl, tmp_path: Path) -> None:
    lines = TOPICS["hooks"].splitlines()
    table = lines[lines.index("  [hooks]") :]
    settings(tmp_path, "\n".join(line.strip() for line in table[: table.index("")] if "ping" not in line))
    (tmp_path / "notify-send").write_text("#!/bin/sh\n")

    assert fwl("config", "check").stdout == "no problems in fastworker.toml\n"
    fwl("submit", "--", "true")
    fwl("drain")
    assert (tmp_path / "done.txt").read_text() == "1\n"


def test_the_example_of_the_help_on_schedules_is_right(fwl: Fwl, tmp_path: Path) -> None:
    lines = TOPICS["schedules"].splitlines()
    table = lines[lines.index("  [cron.nightly]") :]
    settings(tmp_path, "\n".join(line.strip() for line in table[: table.index("")]))

    assert fwl("config", "check").stdout == "no problems in fastworker.toml\n"
    assert fwl("cron", "list", "-q").stdout == "nightly\n"


def test_run_without_a_worker_runs_the_hooks_once_and_keeps_the_code_of_its_job(fwl: Fwl, tmp_path: Path) -> None:
    settings(
        tmp_path,
        """[hooks]
on_success = ["sh", "-c", "echo $FWL_JOB_ID good >> told"]
on_failure = ["sh", "-c", "echo $FWL_JOB_ID bad >> told; exit 4"]
on_recovered = ["sh", "-c", "echo $FWL_JOB_ID again >> told"]
""",
    )

    fwl("run", "--", "true")
    assert "the hook of job 2: sh ended with 4" in fwl("run", "--", "sh", "-c", "exit 3", code=3).stderr
    fwl("run", "--", "sh", "-c", "true")
    fwl("drain")

    assert (tmp_path / "told").read_text() == "1 good\n2 bad\n3 good\n3 again\n"


def test_a_hook_that_is_tried_shows_what_it_says(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, '[hooks]\non_failure = ["sh", "-c", "echo no such chat >&2; exit 4"]\non_success = ["nosuch"]\n')

    said = fwl("notify", "test", code=1).stderr

    assert "no such chat\n" in said
    assert "error: nosuch did not start: No such file or directory\n" in said


def test_doctor_finds_hooks_whose_programs_are_not_there(fwl: Fwl, tmp_path: Path) -> None:
    settings(tmp_path, '[hooks]\non_failure = ["nosuch", "x"]\n')
    assert 'on_failure wants "nosuch"' in fwl("doctor", code=1).stdout
    settings(tmp_path, '[hooks]\non_failure = ["true"]\n')
    assert "ok       hooks: " in fwl("doctor").stdout


def test_ends_are_named_one_by_one_or_with_commas(fwl: Fwl, tmp_path: Path) -> None:
    fwl("listeners", "add", "app", "./app.sock", "--on", "failure,cancelled")

    assert json.loads(fwl("listeners", "--json").stdout)["listeners"][0]["on"] == ["failure", "cancelled"]
    assert '--on: "failed" is none of' in fwl("listen", "--on", "failed", code=2).stderr


# ---- Ctrl-C


def test_a_worker_that_is_interrupted_as_it_starts_says_so_and_shows_no_traceback(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "4"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables(tmp_path), start_new_session=True,
    ) as worker:  # fmt: skip
        assert worker.stdout is not None
        said = worker.stdout.readline()
        until(lambda: len(subprocess.run(["pgrep", "-P", str(worker.pid)], stdout=subprocess.PIPE).stdout.split()) >= 4)
        os.killpg(worker.pid, signal.SIGINT)
        said += worker.stdout.read()
    assert worker.returncode == 0
    assert "Traceback" not in said and said.endswith("stopped\n"), said
