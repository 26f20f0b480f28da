"""Tasks of test_limits.py and test_dependencies.py."""

from __future__ import annotations

import os
import time

from fastworker_lite import current_job, task


def note(log, word, *more):
    """One line in one write, so that lines of several processes do not mix."""
    line = " ".join([word, str(time.monotonic()), str(os.getpid()), *map(str, more)]) + "\n"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)


@task(concurrency=3, key="{host}")
def visit(host, log, seconds=0.05):
    note(log, "begin", host)
    time.sleep(seconds)
    note(log, "end", host)
    return host


@task(concurrency=2)
async def wait_a_little(log, seconds=0.05):
    import asyncio

    note(log, "begin")
    await asyncio.sleep(seconds)
    note(log, "end")


@task(lock="backup")
def back_up(log):
    note(log, "begin")
    time.sleep(0.03)
    note(log, "end")


@task(lock="backup")
def restore(log):
    back_up(log)


@task(rate="20/s")
def quick(_number):
    return time.time()


def record(log, value=None):
    note(log, "begin", value)
    note(log, "end", value)
    return value


def hold(log, seconds):
    note(log, "begin")
    time.sleep(seconds)
    note(log, "end")


@task(concurrency=3)
def hold_a_moment(log):
    hold(log, 0.1)


def add(first, second=1):
    return first + second


async def add_later(first, second=1):
    return first + second


def square(number, seconds=0.0):
    time.sleep(seconds)
    return number * number


def gather(results, log):
    note(log, "gathered", current_job().id)
    return results


def fail():
    raise ValueError("on purpose")
