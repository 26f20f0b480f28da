"""Tasks that the tests run in worker processes.

Runs in: worker processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

from fastworker_lite import task


@task("add")
def add(a, b):
    return a + b


@task("slow")
def slow(seconds, value):
    time.sleep(seconds)
    return value


@task("divide")
def divide(a, b):
    return a / b


@task("record")
def record(path, value, seconds=0.0):
    """Append a line before and after, so that a test can count executions."""
    with open(path, "a") as file:
        file.write(f"begin {value} {os.getpid()}\n")
    time.sleep(seconds)
    with open(path, "a") as file:
        file.write(f"end {value} {os.getpid()}\n")
    return value


@task("nap")
async def nap(seconds, value):
    await asyncio.sleep(seconds)
    return value


@task("die")
def die():
    os.kill(os.getpid(), signal.SIGKILL)


@task("flaky", retries=2)
def flaky(path):
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise ValueError("not yet")
    return os.path.getsize(path)


@task("overslept", timeout=0.3)
def overslept():
    time.sleep(30)


def plain(a, b=2):
    return a * b


def make_lock():
    return open(os.devnull)
