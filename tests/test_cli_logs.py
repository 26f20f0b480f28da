"""Following what several jobs print, from their start, and when each line came."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.test_cli_endings import PATIENCE, Screen, Site, start_on, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A folder that a runner with two workers serves."""
    site = Site(tmp_path_factory.mktemp("served"))
    with site.start("worker", "--workers", "2", stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(b"fastworker_lite")
        wait_until(lambda: site.sql("SELECT 1 FROM runner WHERE tasks IS NOT NULL"))
        yield site
        process.terminate()
        process.communicate(timeout=PATIENCE)


class Steps:
    """Files that the steps of a job wait for."""

    def __init__(self, site: Site) -> None:
        self._folder = site.folder / f"steps-{time.monotonic_ns()}"
        self._folder.mkdir()

    def until(self, step: str) -> str:
        return f"until [ -e {self._folder / step} ]; do sleep 0.02; done"

    def take(self, step: str) -> None:
        (self._folder / step).touch()


def test_lines_of_several_jobs_come_in_the_order_in_which_they_were_printed(served: Site) -> None:
    steps = Steps(served)
    one = served.submit("-c", f"echo a; {steps.until('one')}; echo c")
    two = served.submit("-c", f"{steps.until('two')}; echo b; {steps.until('end')}")
    with served.start("logs", "-f", one, two) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == f"{one}| a\n".encode()
        steps.take("two")
        assert following.stdout.readline() == f"{two}| b\n".encode()
        steps.take("one")
        assert following.stdout.readline() == f"{one}| c\n".encode()
        steps.take("end")
        assert following.communicate(timeout=PATIENCE) == (b"", b"")
    assert following.returncode == 0


def test_a_line_that_is_followed_has_the_time_at_which_it_came(served: Site) -> None:
    steps = Steps(served)
    job = served.submit("-c", f"echo before; {steps.until('go')}; echo after; echo err >&2")
    wait_until(lambda: served.log(job))
    with served.start("logs", "-f", "-t", "--json", job) as following:
        assert following.stdout is not None
        first = json.loads(following.stdout.readline())
        began = time.time()
        steps.take("go")
        out, _ = following.communicate(timeout=PATIENCE)
    assert (first["line"], first["ts"]) == ("before", None)
    later = [json.loads(line) for line in out.splitlines()]
    assert [(line["stream"], line["line"]) for line in later] == [("out", "after"), ("err", "err")]
    for line in later:
        at = datetime.fromisoformat(line["ts"].replace("Z", "+00:00")).astimezone(UTC).timestamp()
        assert began - 0.1 <= at <= time.time()


def test_a_person_reads_the_time_before_the_line(served: Site, tmp_path: Path) -> None:
    steps = Steps(served)
    job = served.submit("-c", f"echo before; {steps.until('go')}; echo after")
    wait_until(lambda: served.log(job))
    with served.start("logs", "-ft", job) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"- before\n"
        steps.take("go")
        out, _ = following.communicate(timeout=PATIENCE)
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z after\n", out)


def test_a_log_can_be_waited_for_until_its_job_begins(served: Site) -> None:
    job = served.submit("--in", "400ms", "-c", "echo begun; sleep 0.5; echo ended")
    result = served.fwl("logs", "--wait", "-f", job)
    assert (result.returncode, result.stdout) == (0, b"begun\nended\n")
    never = served.submit("--in", "1h", "--", "true")
    with served.start("logs", "--wait", never) as waiting:
        wait_until(lambda: served.sql("SELECT 1 FROM waiter WHERE job = ?", never))
        waiting.send_signal(signal.SIGINT)
        out, err = waiting.communicate(timeout=PATIENCE)
    assert (waiting.returncode, out) == (130, b"")
    assert err.decode() == f"detached; job {never} still scheduled (fwl cancel {never})\n"


def test_a_job_that_ends_without_a_start_has_an_empty_log(served: Site) -> None:
    job = served.submit("--in", "1h", "--", "true")
    with served.start("logs", "--wait", job) as waiting:
        wait_until(lambda: served.sql("SELECT 1 FROM waiter WHERE job = ?", job))
        served.call("cancel", job)
        assert waiting.communicate(timeout=PATIENCE) == (b"", b"")
    assert waiting.returncode == 0


@pytest.mark.parametrize(
    ("words", "said"), [("logs 1 -t", "-t goes with -f"), ("logs --wait", "--wait waits for a job that is named")]
)
def test_what_a_log_cannot_tell_is_refused(
    served: Site, capfdbinary: pytest.CaptureFixture[bytes], words: str, said: str
) -> None:
    assert served.call(*words.split()) == 2
    assert said in capfdbinary.readouterr().err.decode()


def test_following_ends_with_a_job_whose_record_is_removed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    job, _ = site.submit("--", "true"), site.submit("--", "true")
    with site.start("logs", "-f", job) as following:
        wait_until(lambda: site.sql("SELECT 1 FROM waiter WHERE job = ?", job))
        site.sql("DELETE FROM job WHERE id = ?", job)
        _, err = following.communicate(timeout=PATIENCE)
    assert following.returncode == 3
    assert err.endswith(f"error: no job {job}\n".encode())


def test_a_followed_line_that_grows_without_end_is_cut_between_characters(served: Site) -> None:
    """Two megabytes of three-byte characters: what is broken into lines is broken nowhere else."""
    job = served.submit("-c", "yes \u4e16\u4e16\u4e16 | tr -d '\\n' | head -c 2000001; echo; echo end")
    screen = Screen()
    with start_on(screen, served, "logs", "-f", job) as following:
        screen.until(b"end\r\n")
        following.wait(PATIENCE)
    text = screen.rest().decode().removesuffix("end\n")
    assert set(text) == {"\u4e16", "\n"}
    assert text.count("\u4e16") == 2000001 // 3
    assert len(text.splitlines()) == 2


def test_the_last_lines_of_a_log_are_whole_however_long_in_a_pipe(served: Site) -> None:
    job = served.submit("-c", "echo first; head -c 3000000 /dev/zero | tr '\\0' x; echo; echo last")
    served.call("-q", "wait", job)
    result = served.fwl("logs", "-n", "2", job)
    assert result.stdout == b"x" * 3_000_000 + b"\nlast\n"
