"""Tasks of test_callbacks.py.

Runs in: worker processes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from fastworker_lite import Cancel, current_job, task


@task("process_data")
def process_data(data):
    return {"processed": True, "data": data}


@task("divide_by_zero")
def divide_by_zero():
    return 1 / 0


def returns(value):
    return value


def no_op():
    pass


def fails(text):
    raise ValueError(text)


def succeeds_at_attempt(number):
    if current_job().attempt < number:
        raise ValueError("not yet")
    return number


def cancels_itself():
    raise Cancel("nothing to do")


def sleeps(seconds):
    time.sleep(seconds)


def writes_and_sleeps(path, seconds):
    with open(path, "w") as file:
        file.write("begun\n")
    time.sleep(seconds)


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def waits_for(log, gate, value):
    Path(log).write_text("begun\n")
    while not Path(gate).exists():
        time.sleep(0.01)
    return value


async def waits_for_in_a_coroutine(log, gate, value):
    Path(log).write_text("begun\n")
    while not Path(gate).exists():
        await asyncio.sleep(0.01)
    return value


class Loud:
    def __repr__(self):
        raise RuntimeError("not for your eyes")


def returns_what_json_cannot_hold(what):
    circle = []
    circle.append(circle)
    return {
        "set": {1},
        "bytes": b"\xff",
        "nan": float("nan"),
        "key": {(1, 2): 3},
        "number": 10**5000,
        "circle": circle,
        "loud": Loud(),
        "long": "x" * 600_000,
    }[what]
