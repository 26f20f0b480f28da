"""How jobs end: tried again, timed out, cancelled, lost; and what one can see of it meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker_lite import (
    Client,
    JobCancelled,
    JobFailed,
    NotInJob,
    SyncClient,
    building,
    current_job,
)
from fastworker_lite.job import Command
from fastworker_lite.options import JobOptions
from tests import ending_tasks as tasks
from tests.test_crash import children_of, group_is_empty, is_gone, lines, start, until, workers_of

ROOT = Path(__file__).resolve().parent.parent


def submit_command(client, script, cwd="/", **options):
    job = building.build_command(Command(argv=None, shell=script, cwd=str(cwd)), None, JobOptions(**options))
    return client.handle(client._store([job]).ids[0])


# ---- tried again


def test_a_task_that_raises_retry_is_tried_again_and_each_attempt_is_kept(client):
    handle = client.submit(tasks.ready_at_attempt, 3)

    assert handle.result(timeout=20) == 3
    assert [(one.number, one.outcome, one.error_type) for one in handle.attempts()] == [
        (1, "failed", "Retry"),
        (2, "failed", "Retry"),
        (3, "succeeded", None),
    ]


def test_retries_are_the_limit_of_retry_too(client):
    handle = client.options(retries=1).submit(tasks.ready_at_attempt, 9)

    with pytest.raises(JobFailed, match="Retry"):
        handle.result(timeout=20)
    assert len(handle.attempts()) == 2


def test_a_task_that_raises_cancel_ends_as_cancelled_with_its_reason(client):
    handle = client.options(retries=5).submit(tasks.not_needed)

    with pytest.raises(JobCancelled, match="nothing to do"):
        handle.result(timeout=20)
    assert handle.status() == "cancelled" and len(handle.attempts()) == 1


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"retries": 2}, 3),
        ({"retries": 2, "retry_on": [LookupError]}, 3),  # a KeyError is one
        ({"retries": 2, "retry_on": "KeyError"}, 3),
        ({"retries": 2, "retry_on": [OSError]}, 1),
        ({"retries": 2, "give_up_on": [LookupError]}, 1),
        ({"retries": 2, "retry_on": [KeyError], "give_up_on": ["tests.ending_tasks.Own", "builtins.KeyError"]}, 1),
    ],
)
def test_only_the_exceptions_that_are_named_are_tried_again(client, options, attempts):
    handle = client.options(**options).submit(tasks.raises_key_error)

    assert handle.wait(timeout=20) and handle.status() == "failed"
    assert len(handle.attempts()) == attempts


def test_the_options_of_a_task_hold_for_those_who_submit_it_by_name_alone(database, tmp_path):
    log = tmp_path / "log"
    code = f"""
from fastworker_lite import SyncClient
with SyncClient({database!r}, runner="never") as client:
    print(client.submit("fails_twice", {str(log)!r}).id)
"""
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    with SyncClient(database, workers=1, runner="own") as client:
        assert client.handle(made.stdout.strip()).result(timeout=20) == "third time"
    assert len(lines(log)) == 3


def test_a_job_killed_on_its_second_attempt_shows_both_after_a_restart(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        handle = client.options(retries=2).submit(tasks.fails_then_waits, str(log))
        until(lambda: len(lines(log)) == 2)
        os.kill(int(lines(log)[1]), signal.SIGKILL)
        assert handle.result(timeout=20) == "done"
    with SyncClient(database, runner="never") as client:
        tries = client.handle(handle.id).attempts()
    assert [(one.number, one.outcome) for one in tries] == [(1, "failed"), (2, "lost"), (3, "succeeded")]
    assert tries[0].error_type == "ValueError" and "ValueError" in tries[0].traceback
    assert [one.worker_pid for one in tries] == [int(line) for line in lines(log)]
    assert all(one.started_at <= one.finished_at for one in tries)


def test_an_ended_job_is_queued_again_with_its_id_and_a_succeeded_one_is_not(client, tmp_path):
    flag = tmp_path / "flag"
    handle = client.submit(tasks.needs_file, str(flag))
    assert handle.wait(timeout=20) and handle.status() == "failed"
    flag.write_text("")

    assert handle.retry() and handle.result(timeout=20) == "found"
    assert [one.outcome for one in handle.attempts()] == ["failed", "succeeded"]
    assert not handle.retry() and handle.status() == "succeeded"


# ---- timed out


def test_a_command_and_all_it_has_started_are_gone_when_its_time_is_over(client, tmp_path):
    log = tmp_path / "log"
    handle = submit_command(client, f"echo $$ > {log}; sleep 100 & sleep 100", timeout=0.4, kill_grace=0.2)

    began = time.monotonic()
    assert handle.wait(timeout=10)
    taken = time.monotonic() - began

    job = handle._job()
    assert (str(job.state), job.reason) == ("failed", "timed out after 0.4s")
    assert group_is_empty(int(lines(log)[0])) and taken < 0.4 + 0.2 + 0.5


def test_a_command_that_ignores_term_is_killed_after_its_grace(client, tmp_path):
    log = tmp_path / "log"
    handle = submit_command(
        client, f"echo $$ > {log}; trap '' TERM; sleep 100 & sleep 100; sleep 100", timeout=0.3, kill_grace=0.4
    )

    began = time.monotonic()
    assert handle.wait(timeout=10)

    assert 0.7 <= time.monotonic() - began < 0.7 + 0.5 and handle._job().reason == "timed out after 0.3s"
    assert group_is_empty(int(lines(log)[0]))


@pytest.mark.parametrize("name", ["holds_the_interpreter", "starts_a_child_and_sleeps", "handles_term_and_goes_on"])
def test_a_function_is_gone_with_its_children_when_its_time_is_over(client, tmp_path, name):
    log = tmp_path / "log"
    handle = client.options(timeout=0.4, kill_grace=0.3).submit(getattr(tasks, name), str(log))

    began = time.monotonic()
    assert handle.wait(timeout=10)
    taken = time.monotonic() - began

    assert handle._job().reason == "timed out after 0.4s" and taken < 0.4 + 0.3 + 0.5
    until(lambda: all(is_gone(int(line)) for line in lines(log)), 2)
    assert client.submit(tasks.raises_key_error).wait(timeout=10)  # the next one runs


def test_a_timeout_is_tried_again_only_if_that_is_asked_for(client):
    once = client.options(timeout=0.1, retries=2).submit(time.sleep, 30)
    thrice = client.options(timeout=0.1, retries=2, retry_on_timeout=True).submit(time.sleep, 30)

    assert once.wait(timeout=20) and thrice.wait(timeout=20)
    assert len(once.attempts()) == 1
    assert [one.outcome for one in thrice.attempts()] == ["timed out"] * 3


def test_a_coroutine_past_its_time_is_cancelled_and_the_others_go_on(client, tmp_path):
    log = tmp_path / "log"
    others = [client.submit(tasks.coroutine, str(log), 1.0) for _ in range(5)]
    late = client.options(timeout=0.2).submit(tasks.coroutine, str(log), 60.0)

    assert late.wait(timeout=10) and late._job().reason == "timed out after 0.2s"
    assert [other.result(timeout=20) for other in others] == [1.0] * 5
    assert [len(other.attempts()) for other in others] == [1] * 5
    assert len(lines(log)) == 6, "one was run again"


def test_a_coroutine_that_does_not_stop_loses_its_worker_but_the_others_no_attempt(client, tmp_path):
    log = tmp_path / "log"
    others = [client.submit(tasks.coroutine, str(log), 1.5) for _ in range(3)]
    until(lambda: len(lines(log)) == 3)
    stuck = client.options(timeout=0.2, kill_grace=0.2).submit(tasks.blocks_the_loop, 60.0)

    assert stuck.wait(timeout=10) and stuck._job().reason == "timed out after 0.2s"
    assert [other.result(timeout=20) for other in others] == [1.5] * 3
    assert [other._job().attempt for other in others] == [1] * 3


def test_a_job_that_nobody_starts_in_time_expires(database):
    with SyncClient(database, runner="never") as client:
        late = client.options(expires=0.2).submit(tasks.raises_key_error)
        time.sleep(0.3)
        with SyncClient(database, workers=1, runner="own"), pytest.raises(JobCancelled, match="expired"):
            late.result(timeout=10)
        assert late.status() == "expired" and late.attempts() == []


def test_a_waiting_job_expires_when_its_time_comes_without_anybody_looking(client):
    busy = [client.submit(time.sleep, 1.5) for _ in range(2)]
    late = client.options(expires=0.3).submit(tasks.raises_key_error)

    began = time.monotonic()
    assert late.wait(timeout=10) and late.status() == "expired"
    assert time.monotonic() - began < 1.2
    assert all(one.wait(timeout=10) for one in busy)


# ---- cancelled


def test_a_running_function_is_gone_when_its_cancel_returns(client, tmp_path):
    log = tmp_path / "log"
    handle = client.submit(tasks.starts_a_child_and_sleeps, str(log))
    until(lambda: len(lines(log)) == 2)

    began = time.monotonic()
    assert handle.cancel() is True
    assert time.monotonic() - began < 1
    assert all(is_gone(int(line)) for line in lines(log))
    assert (handle.status(), handle._job().reason) == ("cancelled", "cancelled")
    assert handle.cancel() is False


def test_a_running_command_and_its_children_are_gone_when_its_cancel_returns(client, tmp_path):
    log = tmp_path / "log"
    handle = submit_command(client, f"echo $$ > {log}; sleep 100 & sleep 100")
    until(lambda: lines(log))

    assert handle.cancel() is True
    assert group_is_empty(int(lines(log)[0])) and handle.status() == "cancelled"


def test_a_coroutine_is_cancelled_and_can_clean_up(client, tmp_path):
    log = tmp_path / "log"
    handle = client.submit(tasks.cleans_up, str(log))
    until(lambda: lines(log))

    assert handle.cancel() is True
    assert lines(log) == ["begin", "cleaned up"] and handle.status() == "cancelled"


def test_a_task_that_looks_may_end_by_itself_and_its_late_result_is_dropped(client, tmp_path):
    log = tmp_path / "log"
    handle = client.submit(tasks.looks_whether_it_is_cancelled, str(log))
    until(lambda: lines(log))

    assert handle.cancel() is True
    assert lines(log) == ["begin", "stopped by itself"]
    with pytest.raises(JobCancelled):
        handle.result(timeout=5)


def test_ten_cancels_at_once_of_one_job_have_one_outcome(database, tmp_path):
    log = tmp_path / "log"

    async def main():
        async with Client(database, workers=1) as client:
            handle = await client.submit(tasks.starts_a_child_and_sleeps, str(log))
            await asyncio.to_thread(until, lambda: len(lines(log)) == 2)
            answers = await asyncio.gather(*(handle.cancel() for _ in range(10)))
            return answers, await handle.status(), len(await handle.attempts())

    answers, state, attempts = asyncio.run(asyncio.wait_for(main(), 30))
    assert (state, attempts) == ("cancelled", 1)
    assert True in answers  # those that came when it had ended already found an ended job


def test_a_job_that_waits_in_a_batch_can_be_cancelled(database):
    with SyncClient(database, workers=1, runner="own", durability="normal") as client:
        for handle in client.map(tasks.no_op, range(50)):
            handle.wait(timeout=10)
        first, *rest = client.map(tasks.no_op, [0.5, *range(40)])
        time.sleep(0.005)
        cancelled = [one.cancel() for one in rest[-5:]]
        assert first.wait(timeout=10) and all(one.wait(timeout=10) for one in rest)
        states = [one.status() for one in rest[-5:]]
    assert [state == "cancelled" for state in states] == cancelled


# ---- lost


def test_a_task_that_must_not_run_twice_is_not_even_if_its_submitter_did_not_know(database, tmp_path):
    log = tmp_path / "log"
    code = f"""
from fastworker_lite import SyncClient
with SyncClient({database!r}, runner="never") as client:
    print(client.submit("at_most_once", {str(log)!r}).id)
"""
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    with SyncClient(database, workers=1, runner="own") as client:
        handle = client.handle(made.stdout.strip())
        with pytest.raises(JobFailed, match="lost: worker died, signal 9"):
            handle.result(timeout=20)
    assert len(lines(log)) == 1


def test_a_pool_whose_workers_die_before_they_are_ready_stops_and_says_why(database, tmp_path):
    (tmp_path / "crashing.py").write_text(
        "import multiprocessing, os\nif multiprocessing.parent_process() is not None:\n    os._exit(3)\n"
    )
    command = [
        sys.executable,
        "-m",
        "fastworker_lite",
        "--db",
        database,
        "worker",
        "--workers",
        "2",
        "--tasks",
        "crashing",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 70
    assert "5 workers ended before they were ready, the last with status 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_workers_are_replaced_after_so_many_jobs_and_above_so_much_memory(database):
    with SyncClient(database, workers=1, runner="own", max_jobs_per_worker=5) as client:
        pids = [client.submit(os.getpid).result(timeout=20) for _ in range(12)]
        assert len(set(pids)) == 3 and pids == sorted(pids, key=pids.index)
    with SyncClient(database, workers=1, runner="own", max_memory_per_worker=150 * 2**20) as client:
        before = client.submit(os.getpid).result(timeout=20)
        client.submit(tasks.keeps_memory, 200 * 2**20).result(timeout=20)
        assert client.submit(os.getpid).result(timeout=20) != before


def test_a_worker_that_stood_still_past_its_timeout_is_killed_and_its_result_is_not_taken(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        handle = client.options(timeout=0.5, kill_grace=0.2, retries=1, retry_on_timeout=True).submit(
            tasks.begins_and_ends, str(log), 0.3
        )
        until(lambda: lines(log))
        os.kill(int(lines(log)[0].split()[1]), signal.SIGSTOP)
        assert handle.result(timeout=20) == "done"
        assert [one.outcome for one in handle.attempts()] == ["timed out", "succeeded"]
    assert [line.split()[0] for line in lines(log)] == ["begin", "begin", "end"]


def test_a_killed_runners_running_command_can_be_cancelled_by_the_next(database, tmp_path):
    log = tmp_path / "log"
    code = "import sys, threading\nfrom fastworker_lite import SyncClient\nc = SyncClient(sys.argv[1], workers=1, runner='own')\nc.start()\nprint('started', flush=True)\nthreading.Event().wait()"
    with start(code, database) as runner, SyncClient(database, runner="never") as client:
        assert runner.stdout.readline() == "started\n"
        handle = submit_command(client, f"echo $$ >> {log}; sleep 100")
        until(lambda: lines(log) and any(children_of(pid) for pid in workers_of(database)))
        runner.kill()
        runner.wait()
        with start(code, database) as again:
            until(lambda: len(lines(log)) == 2)
            assert handle.cancel() is True
            again.kill()
    assert all(group_is_empty(int(line)) for line in lines(log))


# ---- what can be seen meanwhile


def test_progress_is_seen_while_a_job_runs_and_the_last_word_stays(client, tmp_path):
    gate = tmp_path / "gate"
    handle = client.submit(tasks.reports_progress, str(gate))

    until(lambda: handle.progress() is not None)
    assert (handle.progress().done, handle.progress().total, handle.progress().note) == (1, 3, "begun")
    gate.write_text("")
    assert handle.result(timeout=10) == "done"
    assert (handle.progress().done, handle.progress().note) == (3, "all of it")


@pytest.mark.parametrize("name", ["counts_quickly", "counts_quickly_in_a_coroutine"])
def test_a_hundred_thousand_words_of_progress_take_less_than_half_a_second(client, name):
    handle = client.submit(getattr(tasks, name), 100_000)

    seconds = handle.result(timeout=20)
    print(f"100,000 progress calls: {seconds:.3f} s")
    assert seconds <= 0.5
    until(lambda: handle.progress().done == 100_000, 5)


def test_what_a_function_prints_and_logs_is_kept_for_each_attempt(client):
    talking = client.submit(tasks.talks, "one")
    silent = client.submit(os.getpid)
    again = client.options(retries=1).submit(tasks.talks_and_fails, "two")
    for handle in (talking, silent, again):
        assert handle.wait(timeout=20)

    printed = list(talking.logs())
    assert printed[0] == "print one" and "descriptor one" in printed and "stderr one" in printed
    assert any("INFO tests: log one" in line for line in printed)
    assert list(silent.logs()) == []
    paths = client._call(lambda connection: connection.paths)
    assert [Path(paths.log(again.number, attempt, "out")).read_text() for attempt in (1, 2)] == [
        "try 1 of two\n",
        "try 2 of two\n",
    ]


def test_what_coroutines_print_goes_to_each_ones_own_log(client):
    handles = [client.submit(tasks.talks_in_turns, f"job {number}") for number in range(20)]
    for number, handle in enumerate(handles):
        assert handle.result(timeout=20) is None
        assert list(handle.logs()) == [f"{part} job {number}" for part in range(5)]


def test_a_log_is_followed_while_its_job_runs(client, tmp_path):
    for name in ("prints_line_by_line", "prints_line_by_line_in_a_coroutine"):
        gate = tmp_path / name
        handle = client.submit(getattr(tasks, name), str(gate))
        seen = []
        for line in handle.logs(follow=True):
            seen.append(line)
            if line == "line 2":
                assert handle.status() == "running"
                gate.write_text("")
        assert seen == ["line 0", "line 1", "line 2", "line 3"]


def test_a_log_that_is_too_long_keeps_its_head_and_its_tail(database):
    with SyncClient(database, workers=1, runner="own", max_log=100_000) as client:
        handle = client.submit(tasks.prints_lines, 50_000)
        assert handle.wait(timeout=20)
        printed = list(handle.logs())
    assert printed[0] == "line 0" and printed[-1] == "line 49999"
    assert sum("bytes left out" in line for line in printed) == 1
    assert sum(len(line) + 1 for line in printed) < 101_000


def test_the_last_words_of_a_worker_that_died_are_its_jobs(client):
    handle = client.options(on_lost="fail").submit(tasks.says_a_word_and_dies)
    assert handle.wait(timeout=20)
    printed = list(handle.logs())
    assert printed[0] == "last words" and any("Segmentation fault" in line for line in printed)


def test_there_is_no_current_job_outside_of_one():
    with pytest.raises(NotInJob):
        current_job()
