"""What the benchmark runs.

Runs in: worker processes.
"""

import asyncio
import time


def noop(value=None):
    return value


def burn(seconds):
    """Use so much CPU time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


async def nap(seconds):
    await asyncio.sleep(seconds)
