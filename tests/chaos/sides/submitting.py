"""What each side's submitter and each side's job do. Imports nothing but Python.

Runs in: processes that tests.chaos.peers starts.
"""

from __future__ import annotations

import os
import random
import time

from tests.chaos import ledger

DURATIONS = [1, 2, 5, 5, 30, 30, 30, 30, 150, 700]


def submit_without_end(seed, submit):
    """Call `submit(value, milliseconds)` again and again, and note each value and the id that it gave, once it has returned."""
    rng = random.Random(int(seed))
    while True:
        value = f"{os.getpid()}.{time.monotonic_ns()}"
        number = submit(value, rng.choice(DURATIONS))
        ledger.note("A", value, number)
        time.sleep(rng.uniform(0, 0.2))


def work(value, milliseconds):
    with ledger.execution(value, f"{os.getpid()}.{time.monotonic_ns()}"):
        time.sleep(milliseconds / 1000)
    return value
