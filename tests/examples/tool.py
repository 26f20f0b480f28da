"""A command-line tool with a runner of its own: `python tool.py jobs.db COMMAND`.

sum 1 2 3       what the program's own function makes of it, in a worker process
hold            start workers, print their process ids, and stay
"""

from __future__ import annotations

import os
import sys
import time

from fastworker_lite import SyncClient  # before anything else is done: in a frozen program, workers begin and end here

print("body", os.getpid(), flush=True)

FACTOR = 2


def doubled(numbers: list[int]) -> tuple[int, int]:
    return FACTOR * sum(numbers), os.getpid()


def work() -> None:
    time.sleep(600)


def main() -> None:
    _, database, command, *words = sys.argv
    with SyncClient(database, workers=2) as client:
        if command == "sum":
            total, pid = client.submit(doubled, [int(word) for word in words]).result(timeout=30)
            print("sum", total, "here" if pid == os.getpid() else "in a worker")
        elif command == "hold":
            pids = {client.submit(doubled, []).result(timeout=30)[1] for _ in range(20)}
            client.submit(work)
            print("workers", *pids, flush=True)
            time.sleep(600)


if __name__ == "__main__":
    main()
