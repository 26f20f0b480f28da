"""Tasks that misbehave: each job has one right end, and the next one is fine."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import tests.hostile_tasks as hostile
from fastworker_lite import SyncClient
from fastworker_lite.job import State

#: Task, the state it ends in, and how its reason (or its result) begins.
TABLE = [
    ("raises_what_does_not_load", "failed", "TwoArguments"),
    ("raises_what_cannot_be_printed", "failed", "Unprintable"),
    ("raises_ten_megabytes", "failed", "ValueError"),
    ("exits", "failed", "SystemExit"),
    ("interrupts", "failed", "KeyboardInterrupt"),
    ("leaves_without_a_word", "failed", "poison: killed its worker 3 times"),
    ("segfaults", "failed", "poison: killed its worker 3 times"),
    ("kills_itself", "failed", "poison: killed its worker 3 times"),
    ("takes_all_memory", "failed", "MemoryError"),
    ("returns_too_much", "failed", "result cannot be stored"),
    ("returns_a_lock", "failed", "result cannot be stored"),
    ("returns_what_is_too_deep", "failed", "result cannot be stored"),
    ("forks_and_returns", "succeeded", None),
    ("forks_and_leaves_a_child", "succeeded", None),
    ("closes_its_standard_streams", "succeeded", None),
    ("closes_every_descriptor", "failed", "poison: killed its worker 3 times"),
    ("ignores_being_told_to_end", "failed", "timed out after 0.4s"),
    ("changes_its_surroundings", "succeeded", None),
    ("leaves_a_thread", "succeeded", None),
    ("breaks_pickle", "succeeded", None),
    ("holds_the_interpreter", "failed", "timed out after 0.4s"),
    ("writes_garbage_everywhere", None, None),
    ("never_ends", "failed", "timed out after 0.3s"),
    ("blocks_its_loop", "failed", "timed out after 0.3s"),
    ("generates", "failed", "result cannot be stored"),
]


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def zombies_of(pid):
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += fields[0] == "Z" and int(fields[1]) == pid
    return found


def test_hostile_tasks_among_good_ones_each_have_one_right_end(database, tmp_path):
    seed = int(os.environ.get("FWL_SEED", "0")) or random.randrange(2**32)
    names = [name for name, _, _ in TABLE] * 3 + ["good"] * 200
    random.Random(seed).shuffle(names)
    right = {name: (state, reason) for name, state, reason in TABLE} | {"good": ("succeeded", None)}
    with SyncClient(database, workers=2, runner="own", durability="normal") as client:
        client.submit(hostile.good, 1).result(timeout=10)
        client.submit(hostile.is_there).result(timeout=10)  # so that the worker for coroutines is there, too
        before, runner = descriptors(), client._runner
        handles = []
        for number, name in enumerate(names):
            args = {"good": (number,), "changes_its_surroundings": (str(tmp_path),)}.get(name, ())
            handles.append((name, number, client.submit(getattr(hostile, name), *args)))
        wrong = [problem for one in handles if (problem := _wrong(client, one, right)) is not None]
        after = client.submit(hostile.good, 21).result(timeout=20)
        deadline = time.monotonic() + 5
        while (zombies_of(os.getpid()) or descriptors() > before) and time.monotonic() < deadline:
            time.sleep(0.05)
        print(
            f"seed {seed}: {len(TABLE)} hostile tasks x 3: {3 * len(TABLE) - len(wrong)} right, 200 good; "
            f"zombies {zombies_of(os.getpid())}, descriptors {descriptors() - before:+}"
        )
        assert wrong == [] and after == 42
        assert runner.error is None and client._runner is runner
        assert zombies_of(os.getpid()) == 0 and descriptors() <= before


def _wrong(client, one, right):
    name, number, handle = one
    state, reason = right[name]
    if not handle.wait(timeout=90):
        return f"{name} did not end"
    job = handle._job()
    if name == "good" and handle.result() != number * 2:
        return f"good gave {handle.result()}"
    if state is not None and (job.state != State(state) or not (job.reason or "").startswith(reason or "")):
        return f"{name} ended {job.state}: {job.reason}"
    if job.error is not None and len(job.error) > 9000:
        return f"{name} stored {len(job.error)} characters of error"
    return None


def test_a_job_finds_its_surroundings_as_they_were(database, tmp_path):
    with SyncClient(database, workers=1) as client:
        before = client.submit(_surroundings).result(timeout=20)
        client.submit(hostile.changes_its_surroundings, str(tmp_path)).result(timeout=20)
        assert client.submit(_surroundings).result(timeout=20) == before


def _surroundings():
    import signal

    mask = os.umask(0o022)
    os.umask(mask)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return os.getcwd(), mask, "HOSTILE" in os.environ, signal.getsignal(signal.SIGTERM), sorted(blocked), os.getpid()
