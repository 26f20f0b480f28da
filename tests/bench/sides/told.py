"""What every side needs: its arguments, a clock, and the line that it prints. Imports nothing of any competitor."""

import json
import sys
import time


def main(workloads):
    name, size, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    print(json.dumps(workloads[name](size, folder)))


def quantiles(seconds):
    """Milliseconds: the middle, and what one in a hundred takes longer than."""
    ordered = sorted(seconds)
    middle, late = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {"p50": middle * 1e3, "p99": late * 1e3, "max": ordered[-1] * 1e3}


def timed(call, count):
    """Seconds of each of *count* calls, after one that warms up."""
    call(0)
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    return seconds


def until(condition, patience=300.0, pause=0.01):
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the work was not done in time")
        time.sleep(pause)
