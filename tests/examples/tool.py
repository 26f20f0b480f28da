"""A command-line tool with a runner of its own: `python tool.py jobs.db COMMAND`.

sum 1 2 3       what the program's own function makes of it, in a worker process
measure TEXT    what a module of the program makes of it
leave TEXT      leave that to whoever comes: nobody is started
own NUMBER      what a process makes of it that the program starts with multiprocessing
hold            have two workers work, and stay
"""

from __future__ import annotations

# Workers begin here, too, and come no further: what imports fastworker_lite first makes them what they are.
import multiprocessing
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


def show(number: str) -> None:
    print("own", FACTOR * int(number), flush=True)


def run(client: SyncClient, command: str, words: list[str]) -> None:
    if command == "sum":
        total, pid = client.submit(doubled, [int(word) for word in words]).result(timeout=30)
        print("sum", total, "here" if pid == os.getpid() else "in a worker")
    elif command == "measure":
        print("measured", *client.submit(measure, words[0]).result(timeout=30))
    elif command == "leave":
        print("left", client.submit(measure, words[0]).id)
    elif command == "own":
        process = multiprocessing.get_context("spawn").Process(target=show, args=words)
        process.start()
        process.join()
    elif command == "hold":
        client.map(time.sleep, [600, 600])
        time.sleep(600)


def main() -> None:
    _, database, command, *words = sys.argv
    with SyncClient(database, workers=2, runner="never" if command == "leave" else "auto") as client:
        run(client, command, words)


if __name__ == "__main__":
    multiprocessing.freeze_support()  # for `show`: workers have gone their way by now
    main()
