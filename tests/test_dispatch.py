"""Results and progress that arrive in an event loop: one descriptor, and functions called on the loop's own thread."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
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
from tests.examples.rendering import render
from tests.sample_tasks import add, divide, slow

EXAMPLES = Path(__file__).parent / "examples"


def dispatch_until(client, is_over, seconds=15.0):
    """What a loop does: wait until the descriptor is readable, dispatch. Returns how often it was."""
    turns, deadline = 0, time.monotonic() + seconds
    while not is_over():
        assert select.select([client], [], [], deadline - time.monotonic())[0], "nothing has come"
        client.dispatch()
        turns += 1
    return turns


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


def test_with_selectors(client):
    calls = []
    with selectors.DefaultSelector() as selector:
        selector.register(client, selectors.EVENT_READ, client.dispatch)
        for number in range(5):
            client.submit(add, number, 1).on_done(lambda job: calls.append(job.result()))
        while len(calls) < 5:
            ready = selector.select(10)
            assert ready
            for key, _ in ready:
                key.data()
        selector.unregister(client)
    assert sorted(calls) == [1, 2, 3, 4, 5]


def test_with_asyncio(client):
    async def main():
        loop = asyncio.get_running_loop()
        loop.add_reader(client.fileno(), client.dispatch)
        future = loop.create_future()
        client.submit(add, 1, 2).on_done(lambda job: future.set_result(job.result()))
        try:
            return await asyncio.wait_for(future, 10)
        finally:
            loop.remove_reader(client.fileno())

    assert asyncio.run(main()) == 3


def check_window(done, name):
    print(f"{name}: {done.stdout}")
    assert done.returncode == 0, done.stderr
    assert "result 50 frames on the main thread\n" in done.stdout and done.stderr == ""
    (seen,) = re.findall(r"^progress (.*)", done.stdout, re.M)
    shown = [float(word) for word in seen.split()]
    assert len(shown) >= 3 and shown == sorted(shown) and shown[-1] == 50
    (ticks, p99) = re.findall(r"timer: (\d+) ticks, p99 ([\d.]+) ms", done.stdout)[0]
    assert int(ticks) > 20 and float(p99) < 200


def run_example(name, database, **variables):
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), database],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_with_tk_a_window_shows_progress_and_stays_responsive(database, display):
    done = run_example("tk_window.py", database, DISPLAY=display)

    check_window(done, "Tk")
    assert "sum 42\n" in done.stdout and done.stdout.count("body") == 1


def test_with_qt_a_window_shows_progress_and_stays_responsive(database):
    if importlib.util.find_spec("PySide6") is None:
        pytest.skip("PySide6 is not installed (pip install PySide6-Essentials)")
    check_window(run_example("qt_window.py", database, QT_QPA_PLATFORM="offscreen"), "Qt")
