"""Tasks that do what tasks should not, one for each row of the table of hostile tasks."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import pickle
import resource
import signal
import stat
import sys
import threading
import time

from fastworker_lite import task


class TwoArguments(Exception):
    """Pickles, and raises TypeError when it is loaded."""

    def __init__(self, one, two):
        super().__init__(one)


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text for you")

    def __repr__(self):
        raise ValueError("no repr either")

    def __reduce__(self):
        raise TypeError("nor a pickle")


@task
def good(value):
    return value * 2


@task
def raises_what_does_not_load():
    raise TwoArguments("one", "two")


@task
def raises_what_cannot_be_printed():
    raise Unprintable


@task
def raises_ten_megabytes():
    raise ValueError("x\ud800" * 5_000_000)


@task
def exits():
    sys.exit(0)


@task
def interrupts():
    raise KeyboardInterrupt


@task
def leaves_without_a_word():
    os._exit(0)


@task
def segfaults():
    ctypes.string_at(0)


@task
def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


@task
def takes_all_memory():
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (600 * 2**20, hard))
    try:
        return len(b"x" * 2**31)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@task
def returns_too_much():
    return b"x" * (32 * 2**20)


@task
def returns_a_lock():
    return threading.Lock()


@task
def returns_what_is_too_deep():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@task
def forks_and_returns():
    if os.fork() == 0:
        return "child"
    return "parent"


@task
def forks_and_leaves_a_child():
    if os.fork() == 0:
        time.sleep(60)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    return "parent"


@task
def closes_its_standard_streams():
    print("before")
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    sys.stdout = None
    return "done"


@task
def closes_every_descriptor():
    os.closerange(3, 4096)
    return "done"


@task(timeout=0.4, kill_grace=0.3)
def ignores_being_told_to_end():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


@task
def changes_its_surroundings(folder):
    os.chdir(folder)
    os.umask(0)
    os.environ["HOSTILE"] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return "changed"


@task
def leaves_a_thread():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return "returned"


@task
def breaks_pickle():
    pickle.dumps = None
    sys.settrace(lambda *_: None)
    return "broken"


@task(timeout=0.4, kill_grace=0.3)
def holds_the_interpreter():
    ctypes.PyDLL(None).sleep(60)


@task
def writes_garbage_everywhere():
    """To its standard streams and to every pipe and socket; files are another matter: who can write those owns the data."""
    for descriptor in range(64):
        try:
            mode = os.fstat(descriptor).st_mode
            if descriptor < 3 or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                os.write(descriptor, b"\x00garbage")
        except OSError:
            continue
    return "written"


@task
async def is_there():
    return "here"


@task(timeout=0.3, kill_grace=0.3)
async def never_ends():
    await asyncio.sleep(60)


@task(timeout=0.3, kill_grace=0.3)
async def blocks_its_loop():
    time.sleep(60)


@task
async def generates():
    yield 1
