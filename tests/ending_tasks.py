"""Tasks of test_endings.py."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fastworker_lite import Cancel, Retry, current_job, task


class Own(Exception):
    pass


def write(log, *words):
    with open(log, "a") as file:
        file.write(" ".join(map(str, words)) + "\n")


def wait_for(path):
    while not Path(path).exists():
        time.sleep(0.01)


def no_op(value):
    if value == 0.5:
        time.sleep(0.5)


def ready_at_attempt(number):
    if current_job().attempt < number:
        raise Retry(after=0.02)
    return current_job().attempt


def not_needed():
    raise Cancel("nothing to do")


def raises_key_error():
    raise KeyError("k")


@task(retries=3, retry_delay=0.02)
def fails_twice(log):
    write(log, "try")
    if len(Path(log).read_text().splitlines()) < 3:
        raise ValueError
    return "third time"


def fails_then_waits(log):
    write(log, os.getpid())
    match current_job().attempt:
        case 1:
            raise ValueError("first")
        case 2:
            time.sleep(60)
    return "done"


def needs_file(path):
    if not Path(path).exists():
        raise FileNotFoundError(path)
    return "found"


def holds_the_interpreter(log):
    write(log, os.getpid())
    ctypes.PyDLL(None).sleep(60)


def starts_a_child_and_sleeps(log):
    child = subprocess.Popen(["sleep", "100"])
    write(log, os.getpid())
    write(log, child.pid)
    time.sleep(100)


def handles_term_and_goes_on(log):
    signal.signal(signal.SIGTERM, lambda *_: None)
    write(log, os.getpid())
    for _ in range(100):
        time.sleep(1)


async def coroutine(log, seconds):
    write(log, "begin")
    await asyncio.sleep(seconds)
    return seconds


async def blocks_the_loop(seconds):
    time.sleep(seconds)


async def cleans_up(log):
    write(log, "begin")
    try:
        await asyncio.sleep(100)
    finally:
        write(log, "cleaned up")


def looks_whether_it_is_cancelled(log):
    write(log, "begin") if not current_job().cancelled else None
    while not current_job().cancelled:
        time.sleep(0.01)
    write(log, "stopped by itself")
    return "late result"


@task(on_lost="fail")
def at_most_once(log):
    write(log, "begin")
    os.kill(os.getpid(), signal.SIGKILL)


_kept = []


def keeps_memory(size):
    _kept.append(b"x" * size)


def begins_and_ends(log, seconds):
    write(log, "begin", os.getpid())
    time.sleep(seconds)
    write(log, "end", os.getpid())
    return "done"


def reports_progress(gate):
    current_job().progress(1, 3, "begun")
    wait_for(gate)
    current_job().progress(2, 3)
    current_job().progress(3, 3, "all of it")
    return "done"


def counts_quickly(count):
    job = current_job()
    began = time.perf_counter()
    for number in range(count):
        job.progress(number + 1, count, "counting")
    return time.perf_counter() - began


async def counts_quickly_in_a_coroutine(count):
    return counts_quickly(count)


def talks(word):
    print("print", word)
    print("stderr", word, file=sys.stderr)
    logging.getLogger("tests").info("log %s", word)
    sys.stdout.flush()
    os.write(1, f"descriptor {word}\n".encode())


def talks_and_fails(word):
    print("try", current_job().attempt, "of", word)
    raise ValueError(word)


async def talks_in_turns(word):
    for part in range(5):
        print(part, word)
        await asyncio.sleep(0.001)


def prints_line_by_line(gate):
    for number in range(3):
        print("line", number)
    wait_for(gate)
    print("line", 3)


async def prints_line_by_line_in_a_coroutine(gate):
    for number in range(3):
        print("line", number)
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    print("line", 3)


def prints_lines(count):
    for number in range(count):
        print("line", number)


def says_a_word_and_dies():
    print("last words")
    ctypes.string_at(0)
