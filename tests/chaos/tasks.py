"""What the jobs of a run do: say so in the ledger, take their time, and give a value that shows who it is from.

Runs in: worker processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time

from fastworker_lite import current_job, task
from tests.chaos import ledger


def expected(value):
    """What a job makes of its argument."""
    return value * 3 + 1


@task("chaos.work")
def work(value, milliseconds):
    job = current_job()
    with ledger.execution(job.id, job.attempt):
        time.sleep(milliseconds / 1000)
    return [expected(value), job.attempt]


@task("chaos.nap")
async def nap(value, milliseconds):
    job = current_job()
    with ledger.execution(job.id, job.attempt):
        await asyncio.sleep(milliseconds / 1000)
    return [expected(value), job.attempt]


@task("chaos.hold")
def hold(value, milliseconds):
    """Let no other thread of the process run meanwhile."""
    job = current_job()
    with ledger.execution(job.id, job.attempt):
        ctypes.PyDLL(None).usleep(milliseconds * 1000)
    return [expected(value), job.attempt]


@task("chaos.leave_child")
def leave_child(value, milliseconds):
    """Leave a process behind that no signal to this one's group reaches."""
    job = current_job()
    with ledger.execution(job.id, job.attempt):
        child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(milliseconds / 1000)
        os._exit(0)
    ledger.note("L", child)
    return [expected(value), job.attempt]
