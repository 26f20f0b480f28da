"""What `fwl submit` and `fwl run` are told by their options: programs, inputs, variables, tags, many lines, pings."""

from __future__ import annotations

import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.test_cli_endings import PATIENCE, Screen, Site, wait_until


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def given(site: Site, text: bytes, *words: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """`fwl WORD…`, with *text* on its stdin."""
    command = [sys.executable, "-m", "fastworker_lite", *words]
    return subprocess.run(
        command,
        input=text, capture_output=True, cwd=site.folder, env=site.variables | variables, timeout=PATIENCE, check=False,
    )  # fmt: skip


# ---- what to run


def test_a_script_is_run_as_it_was_when_it_was_submitted(site: Site) -> None:
    script = site.folder / "job.sh"
    script.write_text('#!/bin/sh\necho "one $1"\n')
    job = site.submit("--script", "job.sh", "a b")
    script.write_text("#!/bin/sh\necho two\n")
    site.fwl("drain")
    assert site.log(job) == b"one a b\n"


def test_a_script_comes_from_stdin(site: Site) -> None:
    assert given(site, b"#!/bin/sh\necho from stdin\n", "run", "--script", "-").stdout == b"from stdin\n"


def test_a_job_reads_the_file_it_is_given_or_what_was_on_stdin(site: Site) -> None:
    (site.folder / "file").write_bytes(b"\xffof a file\n")
    assert site.fwl("run", "--stdin", "file", "--", "cat").stdout == b"\xffof a file\n"
    assert given(site, b"of\0stdin\xff", "submit", "--stdin", "-", "--", "cat").stdout == b"2\n"
    site.fwl("drain")
    assert site.log("2") == b"of\0stdin\xff"


def test_a_job_without_stdin_reads_nothing(site: Site) -> None:
    assert given(site, b"not for the job", "run", "--", "cat").stdout == b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--script", "nosuch"], "error: --script: nosuch: No such file or directory"),
        (["--stdin", "nosuch", "--", "cat"], "error: --stdin: cannot read nosuch"),
        (["--env-file", "nosuch", "--", "true"], "error: --env-file: nosuch: No such file or directory"),
        (["--env-file", "bad.env", "--", "true"], "error: --env-file: bad.env: line 2 is not NAME=value"),
        (["--env", "NOT_SET_HERE", "--", "true"], "error: --env: NOT_SET_HERE is not set here"),
        (["--script", "-", "--stdin", "-"], "error: only one of --from, --script and --stdin can read stdin"),
        (["--tag", "home", "--", "true"], 'error: --tag: cannot read "home". Use NAME=VALUE.'),
        (["--wait", "--follow", "--", "true"], "error: --follow waits, too: give one of --wait and --follow"),
        (["--from", "empty", "--", "true"], "error: nothing to run: empty is empty"),
        (["--from", "empty", "-c", "ls {}"], "error: --from takes -- CMD [ARG...] or --task NAME"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_stored(site: Site, words: list[str], message: str) -> None:
    (site.folder / "empty").touch()
    (site.folder / "bad.env").write_text("# fine\nno\n")
    result = site.fwl("submit", *words)
    assert result.stderr.decode().startswith(message)
    assert result.returncode == (125 if "--follow" in words else 2)
    assert site.fwl("status", "--count", "-a").stdout == b"0\n"


@pytest.mark.parametrize(
    ("program", "advice"),
    [
        ("tool.sh", "Did you mean ./tool.sh?"),
        ("./text.sh", "It may not be executed. Allow it: chmod +x ./text.sh   Or: fwl submit --script ./text.sh"),
        ("text.sh", "It may not be executed. Allow it: chmod +x ./text.sh   Or: fwl submit --script ./text.sh"),
        ("folder", "That is a folder. To run a command in it: --cwd DIR"),
        ("slepe", "Did you mean sleep?  Queue it anyway: --no-check"),
        ("cd", "The shell does that itself. Use:  fwl submit -c 'cd ...'   To run it in a folder: --cwd DIR"),
        ("ls -l | wc -l", "That is a shell line. Use:  fwl submit -c 'ls -l | wc -l'"),
        ("./qqqqqqqq", "Queue it anyway: --no-check"),
    ],
)
def test_who_names_a_program_that_is_not_there_is_told_what_to_type(site: Site, program: str, advice: str) -> None:
    (site.folder / "folder").mkdir()
    (site.folder / "text.sh").write_text("echo text\n")
    (site.folder / "tool.sh").write_text("#!/bin/sh\n")
    (site.folder / "tool.sh").chmod(0o755)
    result = site.fwl("submit", "--", program)
    assert (result.returncode, result.stderr.decode().splitlines()[1:]) == (2, [f"  {advice}"])


@pytest.mark.parametrize(("verb", "code"), [("submit", 2), ("run", 125)])
def test_nothing_to_run_is_said_in_the_words_of_the_command(site: Site, verb: str, code: int) -> None:
    result = site.fwl(verb)
    said = f"error: nothing to run. Usage: fwl {verb} [options] -- CMD [ARG...]\n"
    assert (result.returncode, result.stderr.decode()) == (code, said)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--on-conflict foo --unique k", '--on-conflict must be "keep", "fail" or "replace"'),
        ("--grace 1s --rate 5", "--rate must be a number and a unit"),
        ("--retries -1", "--retries must be a whole number"),
        ("--tag a=", "--tag must be a text"),
        ("--debounce 5s", "--debounce and --on-conflict go with --unique KEY"),
        ("--debounce 5s --unique k --in 5s", "--debounce says when the job begins: give neither --in nor --at"),
    ],
)
def test_an_option_is_called_in_an_error_as_it_is_typed(site: Site, words: str, message: str) -> None:
    result = site.fwl("submit", *words.split(), "--", "true")
    assert result.returncode == 2 and result.stderr.decode().startswith(f"error: {message}")


def test_what_took_too_long_is_told_its_time_once(site: Site) -> None:
    site.submit("--timeout", "200ms", "--", "sleep", "60")
    assert site.fwl("drain").stderr == b"job 1 failed: timed out after 0.2s\n"


# ---- variables, tags, hold


def test_variables_come_from_a_file_from_here_and_from_the_line_and_the_last_one_counts(site: Site) -> None:
    (site.folder / "of.env").write_text("# a remark\nexport A='of the file'\nB=\"b b\"\n\nC=file\n")
    words = ["run", "--clean-env", "--env-file", "of.env", "--env", "C=line", "--env", "KEPT"]
    result = given(site, b"", *words, "-c", 'echo "$A|$B|$C|$KEPT|$DROPPED"', KEPT="kept", DROPPED="dropped")
    assert result.stdout == b"of the file|b b|line|kept|\n"


def test_tags_are_kept_and_the_last_of_a_name_counts(site: Site) -> None:
    job = site.submit("--tag", "of=ana", "--tag", "n=1", "--tag", "n=a=b", "--", "true")
    assert site.job(job)["tags"] == {"of": "ana", "n": "a=b"}


def test_a_dry_run_prints_the_commands_and_stores_nothing(site: Site) -> None:
    (site.folder / "lines").write_text("a\nb c\n")
    result = site.fwl("submit", "--dry-run", "--from", "lines", "--", "echo", "{}")
    assert result.stdout == b"echo a\necho 'b c'\n"
    assert site.fwl("submit", "-n", "--", "no such program").returncode == 2
    assert site.fwl("status", "--count", "-a").stdout == b"0\n"


# ---- many


@pytest.mark.parametrize(
    ("line", "filled"),
    [
        ("in/a.tar.gz", "in/a.tar.gz|in/a.tar|a.tar.gz|in|a.tar"),
        ("a b", "a b|a b|a b|.|a b"),
        ("x.d/none", "x.d/none|x.d/none|none|x.d|none"),
        ("/top", "/top|/top|top|/|top"),
    ],
)
def test_parts_of_a_line_stand_where_their_marks_do(site: Site, line: str, filled: str) -> None:
    marks = "{}|{.}|{/}|{//}|{/.}"
    given(site, line.encode(), "submit", "--from", "-", "--", "echo", marks)
    assert site.job("1")["argv"] == ["echo", filled]


def test_marks_that_stand_in_the_line_itself_are_left_as_they_are(site: Site) -> None:
    given(site, b"{.}{}\n", "submit", "--from", "-", "--", "echo", "{}", "{x}")
    assert site.job("1")["argv"] == ["echo", "{.}{}", "{x}"]


def test_names_tags_and_keys_are_filled_as_the_command_is(site: Site) -> None:
    words = ["--name", "cut {/.}", "--tag", 'of={//} "{}"', "--unique", "{}", "--lock", "{//}"]
    given(site, b"in/a.mp4\nin/b b.mp4\n", "submit", "--from", "-", *words, "--", "echo", "{}")
    jobs = [site.job(job) for job in ("1", "2")]
    assert [job["name"] for job in jobs] == ["cut a", "cut b b"]
    assert [job["tags"] for job in jobs] == [{"of": f'in "in/{name}"'} for name in ("a.mp4", "b b.mp4")]
    assert [job["unique_key"] for job in jobs] == ["in/a.mp4", "in/b b.mp4"]
    assert [job["lock"] for job in jobs] == ["in", "in"]


def test_a_line_that_makes_no_name_is_refused_and_nothing_is_stored(site: Site) -> None:
    result = given(site, b"good\n" + b"x" * 201 + b"\n", "submit", "--from", "-", "--name", "{}", "--", "echo")
    assert result.returncode == 2 and result.stderr.startswith(b"error: --name must be a text of 1 to 200 characters")
    assert site.fwl("status", "--count", "-a").stdout == b"0\n"


# ---- after others


@pytest.mark.parametrize(
    ("words", "parents"),
    [
        (["--after", "my build"], [2]),
        (["--after", "1,my build"], [1, 2]),
        (["--after", "1 2"], [1, 2]),
        (["--after", "1\n2"], [1, 2]),
        (["--after", "1-3"], [1, 2, 3]),
        (["--after-any", "@last"], [3]),
        (["--after-fail", "@active"], [1, 2, 3]),
    ],
)
def test_the_jobs_to_come_after_are_named_as_in_other_commands(
    site: Site, words: list[str], parents: list[int]
) -> None:
    for name in ("a", "my build", "my build 2"):
        site.submit("--name", name, "--", "true")
    assert sorted(site.job(site.submit(*words, "--", "true"))["after"]) == parents


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--after", "biuld"], 3, 'error: --after: no job is named "biuld". Did you mean "build"?\n'),
        (["--after-any", "zzz"], 3, 'error: --after-any: no job is named "zzz"; jobs are ids (45)'),
        (["--after", "99"], 3, "error: --after 99: no such job (newest is 1)\n"),
        (["--after", "@failed"], 3, "error: --after @failed: there is no such job\n"),
        (["--after", ""], 2, "error: --after: which jobs? Give ids (46,47), a range (40-45), a name or @last\n"),
        (["--after", "-"], 2, "error: --after: which jobs?"),
        (["--after", "4x"], 2, 'error: --after: "4x" is not a job; give ids (45)'),
    ],
)
def test_who_is_to_come_after_what_is_not_there_is_told_what_to_type(
    site: Site, words: list[str], code: int, message: str
) -> None:
    site.submit("--name", "build", "--", "true")
    result = site.fwl("submit", *words, "--", "true")
    assert (result.returncode, result.stdout) == (code, b"")
    assert result.stderr.decode().startswith(message)
    assert site.fwl("run", *words, "--", "true").returncode == 125


def test_a_job_that_will_not_run_for_what_it_is_to_come_after_is_told_so_at_once(site: Site) -> None:
    site.fwl("run", "--", "false")
    result = site.fwl("submit", "--after", "1", "--", "true")
    assert (result.returncode, result.stdout) == (0, b"2\n")
    assert result.stderr == b"job 2 will not run: cancelled, 1 failed; see: fwl why 2\n"
    assert site.fwl("submit", "--wait", "--after", "1", "--", "true").returncode != 0


def test_lines_that_end_in_nul_may_have_newlines(site: Site) -> None:
    given(site, b"a\nb\0c\0", "submit", "--from", "-", "--format", "nul", "--", "echo")
    assert [site.job(job)["argv"] for job in ("1", "2")] == [["echo", "a\nb"], ["echo", "c"]]


@pytest.fixture
def served(site: Site) -> Iterator[Site]:
    with site.start("worker", "--workers", "1", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_waiting_for_several_is_0_when_all_succeeded_and_1_when_one_did_not(served: Site) -> None:
    assert given(served, b"0\n0\n", "submit", "--wait", "--from", "-", "--", "sh", "-c", "exit {}").returncode == 0
    assert given(served, b"0\n7\n", "submit", "--wait", "--from", "-", "--", "sh", "-c", "exit {}").returncode == 1
    assert given(served, b"7\n", "submit", "--wait", "--from", "-", "--", "sh", "-c", "exit {}").returncode == 7


def test_stdin_that_is_a_terminal_is_not_waited_for(site: Site) -> None:
    screen = Screen()
    with site.start("submit", "--from", "-", "--", "echo", stdin=screen.theirs) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err.partition(b",")[0]) == (2, b"error: --from - reads stdin")
    screen.rest()


# ---- what a person is told


def told(site: Site, *words: str) -> str:
    """What a command says to a person at a terminal that is its stderr."""
    screen = Screen()
    screen.resize(24, 120)
    with site.start(*words, stderr=screen.theirs) as process:
        process.communicate(timeout=PATIENCE)
    return screen.rest().decode()


def test_a_person_is_told_when_a_job_begins_and_what_to_type_next(served: Site) -> None:
    assert told(served, "submit", "--", "true") == 'queued in "default" (0 ahead) - follow: fwl logs -f 1\n'
    assert re.fullmatch(
        r"starts in (1h0m|59m59s), at \S+ \S+ \S+ - follow: fwl logs -f 2\n",
        told(served, "submit", "--in", "1h", "--", "true"),
    )
    assert told(served, "submit", "--after", "2", "--", "true") == "begins later (after 2) - follow: fwl logs -f 3\n"
    assert told(served, "submit", "--hold", "--", "true") == "held - let it go on: fwl release 4\n"
    served.fwl("pause", "--all")
    said = 'queue "default" is paused - let it go on: fwl resume --queue default\n'
    assert told(served, "submit", "--", "true") == said


def test_a_queue_that_no_worker_serves_is_noted_and_is_why_its_jobs_do_not_begin(site: Site) -> None:
    site.fwl("queue", "add", "io")
    with site.start("worker", "-Q", "io", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        process.stderr.readline()
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        result = site.fwl("submit", "--", "true")
        why = site.json("why", result.stdout.decode().strip())
        process.terminate()
        process.communicate(timeout=PATIENCE)
    note = 'note: no running worker serves queue "default". Start one: fwl worker --queue default\n'
    assert result.stderr.decode() == note
    assert (why["code"], why["text"]) == ("no_runner", 'no worker serves queue "default"')
    assert why["hint"] == "Start one: fwl worker --queue default"


# ---- pings


class Pinged(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.heard.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Any]:
    with http.server.HTTPServer(("127.0.0.1", 0), Pinged) as server:
        server.heard = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_run_pings_its_start_and_its_code_with_what_was_printed(site: Site, server: Any) -> None:
    url = f"http://127.0.0.1:{server.server_port}/id"
    result = site.fwl("run", "--ping", url, "-c", "echo out; echo err >&2; exit 3")
    assert result.returncode == 3
    assert server.heard == [("/id/start", b""), ("/id/3", b"out\nerr\n")]


def test_a_ping_to_nobody_is_told_and_changes_no_exit_code(site: Site) -> None:
    result = site.fwl("run", "--ping", "http://127.0.0.1:9/id", "--", "true")
    assert result.returncode == 0 and b"the ping was not heard: " in result.stderr
    assert site.fwl("run", "--ping", "hc-ping.com/id", "--", "true").returncode == 125
