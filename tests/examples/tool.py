"""A command-line tool with a runner of its own: `python tool.py jobs.db COMMAND`.

sum 1 2 3       what the program's own function makes of it, in a worker process
measure TEXT    what a module of the program makes of it
leave TEXT      leave that to whoever comes: nobody is started
hold            start workers, print their process ids, and stay
"""

from __future__ import annotations

from fastworker_lite import freeze_support

freeze_support()

import os
import sys
import time

from measuring import measure

from fastworker_lite import SyncClient, current_job, task

print("body", os.getpid(), flush=True)

FACTOR = 2


@task
def doubled(numbers: list[int]) -> tuple[int, int]:
    current_job().progress(len(numbers))
    return FACTOR * sum(numbers), os.getpid()


def work() -> None:
    time.sleep(600)


def run(client: SyncClient, command: str, words: list[str]) -> None:
    if command == "sum":
        total, pid = client.submit(doubled, [int(word) for word in words]).result(timeout=30)
        print("sum", total, "here" if pid == os.getpid() else "in a worker")
    elif command == "measure":
        length, _, can_import = client.submit(measure, words[0]).result(timeout=30)
        print("measured", length, can_import)
    elif command == "leave":
        print("left", client.submit(measure, words[0]).id)
    elif command == "hold":
        pids = {client.submit(doubled, []).result(timeout=30)[1] for _ in range(20)}
        client.submit(work)
        print("workers", *pids, flush=True)
        time.sleep(600)


def main() -> None:
    _, database, command, *words = sys.argv
    with SyncClient(database, workers=2, runner="never" if command == "leave" else "auto") as client:
        run(client, command, words)


if __name__ == "__main__":
    main()
