"""Power cuts: the disk as cuts at many moments of a run leave it, opened, looked at, and served again.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastworker_lite import FastWorkerError
from fastworker_lite.store import checking
from fastworker_lite.store.connection import Connection
from tests.chaos import checker
from tests.chaos.faults import Figure
from tests.chaos.machine import Machine, until
from tests.chaos.recording import NO_COMPILER, SOURCE, Disk, Record, compile_library, find_compiler, read_records

# ---- what must be on it


@dataclass(slots=True)
class Promised:
    """What was acknowledged, seen and begun up to a moment: ids of jobs."""

    acknowledged: set[int] = field(default_factory=set)
    ended: set[int] = field(default_factory=set)
    told: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)

    def hear(self, line):
        self.lines.append(line)
        kind, job, *_ = line.split()
        if kind == "A":
            self.acknowledged.add(int(job))
        elif kind == "R":
            self.ended.add(int(job))
        elif kind == "T":
            self.ended.add(int(job))
            self.told.add(int(job))
        elif kind == "S":
            self.begun.add(int(job))


_JOBS = "SELECT id, state, task, payload, checksum, on_lost, callback, result, result_checksum FROM job"


class Row(NamedTuple):
    """What is compared of a job."""

    id: int
    state: str
    task: str
    payload: bytes
    checksum: int
    on_lost: str | None
    callback: str | None
    result: bytes | None
    result_checksum: int | None


@dataclass(slots=True)
class Recorded:
    """A run that is over: its folder, its records, how its jobs ended, and what the checker found."""

    machine: Machine
    records: list[Record]
    jobs: dict[int, Row]
    found: checker.Found


@contextlib.contextmanager
def recorded_run(seed, durability, seconds):
    """Submitters, an asker, a listener and a runner, which is ended once and starts again, with small checkpoints.

    Nobody is killed: what was done and not yet recorded would be missing.
    """
    with Machine(workers=3, place="mid_checkpoint") as machine:
        machine.environment["LD_PRELOAD"] = compile_library(SOURCE, machine.folder)
        machine.start("asker", "asker", str(seed), durability)
        machine.start("runner")
        machine.start("listener")
        machine.start("submitter", "submitter", str(seed), "0.02", "short")
        for number in range(2):
            until(lambda: any(line.kind == "R" for line in machine.lines()), 20, "the first result")
            time.sleep(seconds / 2)
            if number == 0:
                machine.end("runner")
                machine.start("runner")
        machine.end("submitter")
        machine.end("asker")
        machine.drain()
        until(lambda: not checker.waiting_callbacks(machine.database), 20, "all callbacks")
        machine.end("listener")
        found = machine.finish()
        del machine.environment["LD_PRELOAD"]
        jobs = {row.id: row for row in _rows(machine.database)}
        records = read_records(os.path.join(machine.folder, "record"))
        yield Recorded(machine, records, jobs, found)


def _rows(database):
    connection = Connection(database)
    try:
        return connection.read(lambda sql: [Row(*row) for row in sql.execute(_JOBS)])
    finally:
        connection.close()


# ---- cuts


def cut(recorded, seed, count, served=0):
    """Open the disk as *count* cuts leave it, and serve so many of them. Returns what was found on all."""
    rng = random.Random(seed)
    cuts = Counter(rng.randrange(len(recorded.records)) for _ in range(count))
    lively = set(rng.sample(sorted(cuts), min(served, len(cuts))))
    disk, promised, found = Disk(), Promised(), Cut()
    with tempfile.TemporaryDirectory(prefix="fwl-cut-") as folder:
        for at, record in enumerate(recorded.records):
            if record.kind == "l":
                promised.hear(record.data.decode())
            else:
                disk.do(record)
            for number in range(cuts[at]):
                image = disk.image(rng)
                if rng.random() < 0.3:
                    image["jobs.db-shm"] = rng.randbytes(32768)
                look(found, _write(image, os.path.join(folder, "disk")), promised, recorded.jobs)
                if at in lively and number == 0:
                    serve(found, image, promised, recorded.machine)
    return found


@dataclass(slots=True)
class Cut:
    """What many cuts came to."""

    columns: checker.Columns = field(default_factory=checker.Columns)
    images: int = 0
    with_losses: int = 0
    worst: int = 0
    #: The most acknowledged jobs that one image has lost.
    promised: int = 0
    #: Acknowledged jobs that were looked for, over all images.
    served: int = 0
    details: list[str] = field(default_factory=list)

    def count(self, name, text):
        setattr(self.columns, name, getattr(self.columns, name) + 1)
        self.details.append(f"{name}: image {self.images}: {text}")


def _write(image, folder):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "jobs.db.d"), 0o700)
    for name, data in image.items():
        Path(folder, name).write_bytes(data)
    return os.path.join(folder, "jobs.db")


def look(found, database, promised, jobs):
    """Open an image. *jobs* are those of the whole run, as they ended."""
    found.images += 1
    found.promised += len(promised.acknowledged)
    try:
        connection = Connection(database)
        try:
            faults = connection.read(checking.faults)
            rows = connection.read(lambda sql: {row[0]: Row(*row) for row in sql.execute(_JOBS)})
            audit, outbox = connection.read(_history)
        finally:
            connection.close()
    except FastWorkerError as error:
        found.count("integrity", f"{type(error).__name__}: {error}")
        return
    for text in faults:
        found.count("integrity", text)
    before = found.columns.lost
    _compare(found, rows, promised, jobs)
    lost = found.columns.lost - before
    found.with_losses += lost > 0
    found.worst = max(found.worst, lost)
    for job, times in Counter(job for job, state in audit if state in checker.ENDED).items():
        if times > 1:
            found.count("dup_terminal", f"job {job} ended {times} times")
    for row in rows.values():
        if row.callback and row.state in checker.ENDED and row.id not in outbox and row.id not in promised.told:
            found.count("untold", f"job {row.id}")


def _history(sql):
    """Who changed to what, and of whom a callback waits."""
    if not sql.execute("SELECT 1 FROM sqlite_schema WHERE name = 'chaos_audit'").fetchone():
        return [], set()
    audit = sql.execute("SELECT job, new FROM chaos_audit").fetchall()
    return audit, {row[0] for row in sql.execute("SELECT job FROM outbox")}


def _compare(found, rows, promised, jobs):
    """What was acknowledged is there with its bytes, what was seen to end has ended so, and no sooner than it was submitted."""
    for job in promised.acknowledged - rows.keys():
        found.count("lost", f"job {job} was acknowledged")
    for job, row in rows.items():
        if _asked(row) != _asked(jobs[job]):
            found.count("wrong", f"job {job} is another one")
        if row.state in checker.ENDED and row != jobs[job]:
            found.count("wrong", f"job {job} has ended otherwise: {row.state}")
        if job in promised.ended and row.state not in checker.ENDED:
            found.count("lost", f"job {job} was seen to end and is {row.state}")
        if job in promised.begun and row.on_lost == "fail" and row.state not in ("running", *checker.ENDED):
            found.count("twice", f"job {job} has begun, must not begin twice and is {row.state}")


def _asked(row):
    return row.task, row.payload, row.checksum, row.on_lost, row.callback


def serve(found, image, promised, machine):
    """Serve an image where the run was: every job ends, none for a second time, and none begins again that must not."""
    found.served += 1
    for name in os.listdir(machine.folder):
        if name.startswith(("jobs.db", "seen")):
            path = os.path.join(machine.folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    Path(machine.folder, "ledger").write_text("".join(promised.lines))
    os.mkdir(os.path.join(machine.folder, "jobs.db.d"), 0o700)
    for name, data in image.items():
        Path(machine.folder, name).write_bytes(data)
    machine.prepare()
    machine.start("listener")
    machine.start("runner")
    machine.drain()
    until(lambda: not checker.waiting_callbacks(machine.database), 20, "all callbacks")
    went = machine.finish()
    found.columns += went.columns
    found.details += went.details


# ---- the figure


def cut_the_power(seed, images=40, served=1, seconds=1.5):
    """R02 and R12: with durability "full" no cut loses what was acknowledged; with "normal" the same look finds losses."""
    if find_compiler() is None:
        return [Figure("R02", NO_COMPILER, checker.Columns(), [])]
    with recorded_run(seed, "full", seconds) as recorded:
        full = cut(recorded, seed, images, served)
        full.columns += recorded.found.columns
        full.details += recorded.found.details
        once = sum(row.on_lost == "fail" for row in recorded.jobs.values())
    with recorded_run(seed, "normal", seconds) as recorded:
        normal = cut(recorded, seed, images)
    columns, details = full.columns + dataclasses.replace(normal.columns, lost=0), full.details
    if not normal.with_losses:
        columns.wrong += 1
        details.append("the look finds no loss with durability normal, where there must be some")
    sentences = [
        f"{full.images:,} power cuts, {full.served} of them served again: {full.columns.integrity} files damaged, "
        f"{full.with_losses} lost any of what was acknowledged ({full.promised:,} looked for), {full.columns.wrong} ended otherwise, "
        f"{full.columns.dup_terminal} twice; control with durability normal: {normal.with_losses} of {normal.images:,} cuts "
        f"lose up to {normal.worst}, {normal.columns.integrity} files damaged",
        f"{once} at-most-once jobs, {full.images:,} power cuts: {full.columns.twice} started twice",
    ]
    return [Figure(name, text, columns, details) for name, text in zip(("R02", "R12"), sentences, strict=True)]
