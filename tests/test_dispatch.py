"""Results and progress that arrive in an event loop: one descriptor, and functions called on the loop's own thread."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import select
import selectors
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastworker_lite import ForkedError, JobFailed, JobNotFound
from tests.examples.lateness import Lateness
from tests.examples.rendering import render, shrink
from tests.examples.windows import check_window
from tests.sample_tasks import add, divide, slow

EXAMPLES = Path(__file__).parent / "examples"
#: So many jobs are run while a loop goes on.
MANY = 2000


def dispatch_until(client, is_over, seconds=15.0):
    """What a loop does: wait until the descriptor is readable, dispatch. Returns how often it was."""
    turns, deadline = 0, time.monotonic() + seconds
    while not is_over():
        assert select.select([client], [], [], deadline - time.monotonic())[0], "nothing has come"
        client.dispatch()
        turns += 1
    return turns


def submit_many(client, take):
    for handle in client.map(shrink, range(MANY)):
        handle.on_done(take)


def is_readable(client, seconds=0.0):
    return bool(select.select([client], [], [], seconds)[0])


# ---- what is guaranteed


def test_a_function_is_called_once_on_the_thread_that_dispatches(client):
    calls = []
    handle = client.submit(add, 1, 2)
    handle.on_done(lambda job: calls.append((job.result(), threading.current_thread())))

    assert calls == []
    dispatch_until(client, lambda: calls)
    assert not is_readable(client) and client.dispatch() == 0
    assert calls == [(3, threading.current_thread())]


def test_functions_may_be_given_from_any_thread_and_wake_a_loop_that_waits(client):
    calls = []
    assert not is_readable(client)
    other = threading.Thread(target=lambda: client.submit(add, 1, 2).on_done(calls.append))
    other.start()

    dispatch_until(client, lambda: calls)
    other.join()
    assert calls[0].result() == 3


def test_a_job_that_had_ended_before_is_told_at_once(client):
    handle, calls = client.submit(add, 1, 2), []
    handle.wait(10)
    handle.on_done(calls.append)
    handle.on_done(calls.append)

    assert client.dispatch() == 2 and calls == [handle, handle]


def test_a_failed_and_a_cancelled_job_are_told_too(client):
    failed, calls = client.submit(divide, 1, 0), []
    cancelled = client.options(delay=60).submit(add, 1, 2)
    for handle in (failed, cancelled):
        handle.on_done(calls.append)
    client.dispatch()
    cancelled.cancel()

    dispatch_until(client, lambda: len(calls) == 2)
    assert sorted(job.status() for job in calls) == ["cancelled", "failed"]
    with pytest.raises(JobFailed):
        failed.result()


def test_a_job_whose_record_is_gone_has_ended(client):
    handle, calls = client.submit(add, 1, 2), []
    handle.wait(10)
    client.options(delay=60).submit(add, 3, 4)  # the newest stays
    handle.on_done(calls.append)
    with sqlite3.connect(client.database) as other:
        assert other.execute("DELETE FROM job WHERE state = 'succeeded'").rowcount == 1
    other.close()

    dispatch_until(client, lambda: calls)
    with pytest.raises(JobNotFound):
        handle.result()


def test_progress_comes_before_the_end_and_the_last_of_it_always(client):
    seen = []
    handle = client.submit(render, 10, 0.1)
    handle.on_done(lambda job: seen.append("done"))
    handle.on_progress(lambda job, progress: seen.append(progress.done))

    dispatch_until(client, lambda: "done" in seen)
    assert seen[-2:] == [10.0, "done"] and 3 <= len(seen) <= 11
    assert seen[:-1] == sorted(set(seen[:-1]))


def test_an_exception_leaves_dispatch_and_the_others_are_called_next_time(client):
    handle, calls = client.submit(add, 1, 2), []
    handle.wait(10)
    for name in ("first", "second", "third"):
        handle.on_done(lambda job, name=name: calls.append(name) or (1 / 0 if name == "second" else None))

    with pytest.raises(ZeroDivisionError):
        client.dispatch()
    assert calls == ["first", "second"] and is_readable(client)
    assert client.dispatch() == 1 and calls == ["first", "second", "third"]


def test_a_function_may_run_the_loop_itself_as_a_dialog_does(client):
    handles, calls = client.map(abs, [-1, -2, -3]), []
    for handle in handles:
        handle.wait(10)

    def dialog(job):
        calls.append(job.result())
        client.dispatch()

    for handle in handles:
        handle.on_done(dialog)
    client.dispatch()
    assert calls == [1, 2, 3]


def test_many_ends_at_once_leave_the_loop_its_time(client):
    handles, calls, longest = client.map(abs, range(300)), [], 0.0
    for handle in handles:
        handle.on_done(lambda job: calls.append(job.result()) or time.sleep(0.001))
    deadline = time.monotonic() + 20
    while len(calls) < 300 and time.monotonic() < deadline:
        assert is_readable(client, 10)
        began = time.monotonic()
        count = client.dispatch()
        longest = max(longest, (time.monotonic() - began) if count else 0.0)
    print(f"longest dispatch {longest * 1000:.1f} ms")
    assert sorted(calls) == list(range(300)) and longest < 0.2


def test_of_thousands_that_are_waited_for_one_dispatch_looks_at_some_and_the_next_at_others(client):
    handles, calls, counts = client.map(abs, range(2500)), [], []
    for handle in handles:
        handle.on_done(calls.append)
    handles[-1].wait(10)
    while len(calls) < 2500:
        assert is_readable(client, 10)
        counts.append(client.dispatch())
    assert max(counts) <= 1000 and len(set(calls)) == 2500


def test_nothing_is_called_after_close_and_nothing_is_left(client):
    handle, calls = client.submit(add, 1, 2), []
    handle.wait(10)
    handle.on_done(calls.append)
    before = client.fileno()
    client.close()

    assert client.dispatch() == 0 and calls == []
    with pytest.raises(OSError):
        os.fstat(before)
    with sqlite3.connect(client.database) as file:
        assert file.execute("SELECT count(*) FROM waiter").fetchone() == (0,)
    file.close()


def test_a_function_may_close_the_client(client):
    handles, calls = client.map(abs, [1, 2]), []
    for handle in handles:
        handle.wait(10)
        handle.on_done(lambda job: calls.append(job) or client.close())

    assert client.dispatch() == 1 and len(calls) == 1


def test_an_end_that_nobody_was_told_of_is_found_within_a_second(client):
    calls = []
    handle = client.submit(slow, 0.3, "late")
    handle.on_done(calls.append)
    client.dispatch()
    with sqlite3.connect(client.database, timeout=10) as file:
        file.execute("DELETE FROM waiter")  # as when a worker is killed between its commit and its datagram
    file.close()

    began = time.monotonic()
    dispatch_until(client, lambda: calls)
    assert time.monotonic() - began < 3


def test_an_idle_loop_is_not_woken(client):
    handle, calls = client.submit(add, 1, 2), []
    handle.on_done(calls.append)
    dispatch_until(client, lambda: calls)

    assert not is_readable(client, 1.5)


def test_a_forked_child_cannot_dispatch(client):
    client.fileno()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.fileno()
        except ForkedError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert not is_readable(client)


# ---- in event loops


def check_many(name, lateness, threads, results):
    """Thousands of jobs have ended, each was told once, here, and the loop went on meanwhile."""
    print(f"{name}: {lateness.report()}")
    assert sorted(results) == list(range(MANY)) and threads == {threading.current_thread()}
    assert lateness.count() > 20 and lateness.p99() < 0.2


def test_with_selectors_thousands_of_jobs_leave_the_loop_its_time(client):
    results, threads, lateness = [], set(), Lateness()

    def take(job):
        threads.add(threading.current_thread())
        results.append(job.result())

    submit_many(client, take)
    lateness.begin()
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, client.dispatch)
        while len(results) < MANY:
            for key, _ in selector.select(lateness.left()):
                key.data()
            if not lateness.left():
                lateness.tick()
        selector.unregister(client)
    check_many("selectors", lateness, threads, results)


def test_with_asyncio_thousands_of_jobs_leave_the_loop_its_time(client):
    results, threads, lateness = [], set(), Lateness()

    async def main():
        loop, all_told = asyncio.get_running_loop(), asyncio.Event()

        def take(job):
            threads.add(threading.current_thread())
            results.append(job.result())
            if len(results) == MANY:
                all_told.set()

        async def tick():
            while not all_told.is_set():
                await asyncio.sleep(lateness.left())
                lateness.tick()

        submit_many(client, take)
        lateness.begin()
        loop.add_reader(client, client.dispatch)
        ticking = loop.create_task(tick())
        await all_told.wait()
        loop.remove_reader(client)
        await ticking

    asyncio.run(main())
    check_many("asyncio", lateness, threads, results)


def run_window(name, database, **variables):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), database],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )
    check_window(name, done.stdout, done.stderr)
    return done.stdout


def test_with_tk_a_window_shows_progress_and_stays_responsive(database, display):
    said = run_window("tk_window.py", database, DISPLAY=display)

    assert "sum 42 " in said and said.count("body") == 1


def test_with_qt_a_window_shows_progress_and_stays_responsive(database):
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("PySide6 is not installed (pip install PySide6-Essentials)")
    run_window("qt_window.py", database, QT_QPA_PLATFORM="offscreen")
