"""The processes of a run, but for the workers: `python -m tests.chaos.actors ROLE ...`.

Runs in: processes that tests.chaos starts.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

import tests.chaos.tasks  # noqa: F401  # the runner's workers know them by it
from fastworker_lite import FastWorkerError, SyncCallbackListener, SyncClient, building
from fastworker_lite.job import Command
from fastworker_lite.options import JobOptions
from tests.chaos import checker, ledger

#: Milliseconds that jobs take. The long ones are longer than any timeout that they could meet.
SHORT = [1, 2, 5, 5, 30]
DURATIONS = [1, 2, 5, 5, 30, 30, 30, 30, 150, 700]
LONG = [3_000, 11_000]


def run_runner(database, workers="2"):
    """Serve the file until TERM."""
    must_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: must_end.set())
    with SyncClient(database, workers=int(workers), runner="own", kill_grace=1.0) as client:
        print("ready", flush=True)
        while not (must_end.is_set() or client._runner.join(0.2)):
            pass


def run_submitter(database, seed, pause="0.1", has_long="yes"):
    """Submit jobs of all kinds, and note each one's id once it is acknowledged, until TERM.

    *has_long* is "yes", "no", or "short" for jobs that take no time to speak of.
    """
    rng = random.Random(int(seed))
    must_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: must_end.set())
    client = SyncClient(database, runner="never")
    print("ready", flush=True)
    while not must_end.is_set():
        try:
            submit_one(client, rng, float(pause), has_long)
        except FastWorkerError as error:
            print(f"submitter: {type(error).__name__}: {error}", file=sys.stderr)
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2 * float(pause)))


def submit_one(client, rng, pause, has_long):
    value, began = rng.randrange(10**9), time.monotonic()
    usual = [0] if not pause else SHORT if has_long == "short" else DURATIONS
    milliseconds = rng.choice(LONG if has_long == "yes" and rng.random() < 0.01 else usual)
    kind = rng.choices(["work", "nap", "command"], [8, 1, 1])[0] if pause else "work"
    given = {
        "priority": rng.choice([-5, 0, 0, 0, 10]),
        "on_lost": "fail" if rng.random() < 0.2 else None,
        "callback": os.path.join(ledger.folder(), "listener")
        if pause and (pause < 0.1 or rng.random() < 0.3)
        else None,
    }
    given = {name: option for name, option in given.items() if option is not None}
    if kind == "command":
        script = ledger.COMMAND.format(seconds=milliseconds / 1000)
        command = Command(argv=None, shell=script, cwd=ledger.folder())
        job = building.build_command(command, None, JobOptions.parse(given))
        number = client._store([job]).ids[0]
    else:
        number = client.options(**given).submit(f"chaos.{kind}", value, milliseconds).id
    ledger.note("A", number, value, kind, f"{began:.6f}")


def run_flood(database, seed):
    """Submit without a pause."""
    run_submitter(database, seed, "0", "no")


def run_asker(database, seed, durability):
    """Make the database; then submit, wait for the result and note it, again and again until TERM."""
    checker.prepare(database, durability)
    rng = random.Random(int(seed))
    must_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: must_end.set())
    with SyncClient(database, runner="never") as client:
        print("ready", flush=True)
        while not must_end.is_set():
            value, began = rng.randrange(10**9), time.monotonic()
            handle = client.submit("chaos.work", value, 0)
            ledger.note("A", handle.id, value, "work", f"{began:.6f}")
            handle.result()
            ledger.note("R", handle.id)


def run_listener(database):
    """Note each event before it is acknowledged."""
    with SyncCallbackListener(os.path.join(ledger.folder(), "listener")) as listener:
        print("ready", flush=True)
        for event in listener:
            ledger.note("T", event["task_id"], event["event_id"])


if __name__ == "__main__":
    _, role, *given = sys.argv
    ROLES = {
        "runner": run_runner,
        "submitter": run_submitter,
        "flood": run_flood,
        "asker": run_asker,
        "listener": run_listener,
    }
    try:
        ROLES[role](*given)
    except FastWorkerError as error:
        sys.exit(f"{role}: {type(error).__name__}: {error}")
