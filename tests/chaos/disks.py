"""Faults of the disk and of the file on it: calls that fail, no room, a file that was damaged or is another one.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos import checker, failing, ledger
from tests.chaos.faults import Figure, _require, _wait_for_callbacks, figure
from tests.chaos.machine import ROOT, Machine, children, until
from tests.chaos.nemesis import _limit

_TOLD = re.compile(r"^submitter: (\w+): (.*)$", re.M)


def fail_calls(seed, calls=None):
    """R20: the n-th call of each process fails, in each of five ways; work goes on, and nothing is lost nor done twice."""
    rng, number = random.Random(seed), 0
    calls = calls or sorted(rng.sample(range(1, 151), 6))
    with Machine(workers=2) as machine:
        machine.prepare()
        for name, given in {"runner": (), "listener": (), "submitter": (str(seed), "0.005", "short")}.items():
            machine.start(name, name, *given)
        until(lambda: any(line.kind == "E" for line in machine.lines()), 20, "the first job")
        for kind in failing.KINDS:
            for call in calls:
                number += 1
                failing.arm(machine.folder, number, kind, call)
                _wait_for_failures(machine, number)
        failing.disarm(machine.folder)
        machine.start_again()
        machine.end("submitter")
        machine.drain()
        _wait_for_callbacks(machine)
        told = _TOLD.findall(Path(machine.folder, "stderr").read_text())
        traces = _tracebacks(machine)
        failures = Counter(line.fields[1] for line in _failures(machine))
        found = machine.finish()
    _require(found, len(failures) == len(failing.KINDS), f"only {dict(failures)} failed")
    unknown = {name for name, _ in told} - {"DatabaseGone", *failing.KINDS.values()}
    _require(found, not unknown, f"submitters were told {unknown}")
    for trace in traces:
        found.count("wrong", trace)
    text = (
        f"{number} rounds, {sum(failures.values()):,} injected faults of {len(failures)} kinds over {found.jobs:,} jobs: "
        f"{found.columns.lost} false acks, {found.columns.stuck} stuck, {found.columns.overlap} overlapping, "
        f"{len(told)} refusals told, {found.jobs - found.acknowledged} of them stored all the same"
    )
    return [figure("R20", text, found)]


def _tracebacks(machine):
    """What nobody has caught: the last lines of each."""
    said = Path(machine.folder, "stderr").read_text()
    found = re.findall(r"^Traceback \(most recent call last\):\n((?:[ \t].*\n)+)(.*)", said, re.M)
    return [" | ".join([*frames.strip().splitlines()[-8:], last]) for frames, last in found]


def _failures(machine):
    return [line for line in ledger.read(os.path.join(machine.folder, "seen")) if line.kind == "X"]


def _wait_for_failures(machine, number, patience=1.0):
    """Until the submitter and a worker have failed in this round, or had the time for it."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        machine.start_again()
        pids = {line.pid for line in _failures(machine) if line.fields[0] == str(number)}
        if machine.pid("submitter") in pids and len(pids - {machine.pid("runner"), machine.pid("submitter")}) > 0:
            return
        time.sleep(0.01)


# ---- no room


class _SmallDisk:
    """A place of 3 MB for the database of a run: a file system of its own, or, where none can be mounted, a limit of files."""

    def __init__(self, machine):
        self._machine = machine
        self.folder = os.path.join(machine.folder, "disk")

    def __enter__(self):
        os.mkdir(self.folder, 0o700)
        os.symlink(os.path.join(self.folder, "jobs.db"), self._machine.database)
        self._machine.database = os.path.join(self.folder, "jobs.db")
        self.is_mounted = self.mount("size=3m,mode=700")
        return self

    def mount(self, options):
        command = ["mount", "-t", "tmpfs", "-o", options, "none", self.folder]
        with contextlib.suppress(OSError):
            return subprocess.run(command, capture_output=True).returncode == 0
        return False

    def fill(self):
        """Nothing is to be done where there is but so much room."""
        if not self.is_mounted:
            self._limit(2**20)

    def make_room(self):
        if self.is_mounted:
            assert self.mount("remount,rw,size=64m,mode=700")
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size):
        for name in self._machine.actors:
            for pid in [self._machine.pid(name), *children(self._machine.pid(name))]:
                _limit(pid, size)

    def __exit__(self, *_):
        self._machine.kill_everything()
        if self.is_mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)


def fill_the_disk(seed):
    """R21: without room nothing is acknowledged, reads work, and with room again all goes on by itself."""
    with Machine(workers=2) as machine, _SmallDisk(machine) as disk:
        machine.prepare()
        machine.start("runner")
        machine.start("submitter", "submitter", str(seed), "0", "short")
        until(lambda: any(line.kind == "E" for line in machine.lines()), 20, "the first job")
        disk.fill()
        word = "StorageFull" if disk.is_mounted else "StorageError"
        until(lambda: word in Path(machine.folder, "stderr").read_text(), 30, f"a submitter told of {word}")
        acknowledged = _acknowledged(machine)
        time.sleep(1)
        looked = _fwl(machine, "status", "-q").returncode
        os.kill(machine.worker_pids()[0], signal.SIGKILL)  # another one is to begin where there is no room
        time.sleep(1)
        disk.make_room()
        began, before = time.monotonic(), _acknowledged(machine)
        ended = sum(line.kind == "E" for line in machine.lines())
        until(lambda: _acknowledged(machine) > before, 30, "the next acknowledgement")
        until(lambda: sum(line.kind == "E" for line in machine.lines()) > ended, 30, "the next job")
        seconds = time.monotonic() - began
        machine.end("submitter")
        machine.drain()
        until(lambda: len(machine.worker_pids()) >= 2, 10, "two workers")
        traces = _tracebacks(machine)
        found = machine.finish()
    _require(found, looked == 0, f"fwl status exits with {looked} on a full disk")
    for trace in traces:
        found.count("wrong", trace)
    stored = found.jobs - found.acknowledged
    _require(found, stored == 0, f"{stored} jobs were stored although it was said that they were not")
    text = (
        f"{'disk of 3 MB' if disk.is_mounted else 'files of 1 MB'} full at {acknowledged:,} acked: {found.columns.lost} lost, "
        f"{found.columns.lost} false acks, {stored} stored all the same; resumed in {seconds:.1f} s after there was room"
    )
    return [figure("R21", text, found)]


#: What is typed where nothing can be written.
_COMMANDS = ("status", "show 1", "submit -- true", "cancel 1", "drain", "worker", "db check")


def make_read_only(seed):
    """R23: on a file system that is read-only each command says so in one line and ends with 74; then all is as it was."""
    with Machine() as machine, _SmallDisk(machine) as disk:
        if not disk.is_mounted:
            return [Figure("R23", "no read-only file system: this user cannot mount one", checker.Columns(), [])]
        machine.prepare()
        with machine.client() as client:
            client.submit("chaos.work", seed, 0)
        disk.mount("remount,ro")
        ends = {words: _fwl(machine, *words.split()) for words in _COMMANDS}
        disk.make_room()
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    right = 0
    for words, done in ends.items():
        is_right = done.returncode == 74 and len(done.stderr.splitlines()) == 1
        _require(found, is_right, f"fwl {words} exits with {done.returncode}: {done.stderr[-300:]}")
        right += is_right
    return [
        figure(
            "R23",
            f"read-only: {right} of {len(ends)} commands exit with 74 and one line; jobs then {found.jobs}",
            found,
        )
    ]


def _acknowledged(machine):
    return sum(line.kind == "A" for line in machine.lines())


def _fwl(machine, *words):
    command = [sys.executable, "-m", "fastworker_lite", *words]
    environment = os.environ | {"FWL_DB": machine.database}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


# ---- another file, or none


def _delete(database):
    for end in ("", "-wal", "-shm"):
        os.unlink(database + end)


def _move(database):
    for end in ("-wal", ""):
        os.rename(database + end, database + ".old" + end)


def _replace_by_a_copy(database):
    shutil.copy(database, database + ".copy")
    os.rename(database + ".copy", database)


def _delete_the_log(database):
    os.unlink(database + "-wal")


def _replace_by_nothing(database):
    os.unlink(database)
    Path(database).touch()


LOSSES = (_delete, _move, _replace_by_a_copy, _delete_the_log, _replace_by_nothing)


def lose_the_file(seed, count=1):
    """R24: nothing is acknowledged once the file is another one, or none; the worker ends with 74 and makes no new one."""
    losses = random.Random(seed).sample(LOSSES, count)
    found, late, longest = [], 0, 0.0
    for harm in losses:
        one, seconds = _lose(seed, harm)
        found.append(one)
        longest = max(longest, seconds)
    columns = sum((one.columns for one in found), checker.Columns())
    late = sum("after" in line for one in found for line in one.details)
    names = ", ".join(harm.__name__.strip("_").replace("_", " ") for harm in losses)
    text = f"{count} files lost under load ({names}): acks after that {late}; the worker exits with 74 in max {longest:.1f} s"
    return [Figure("R24", text, columns, [line for one in found for line in one.details])]


def _lose(seed, harm):
    with Machine(workers=2) as machine:
        machine.prepare()
        worker = _start_worker(machine)
        machine.start("submitter", "submitter", str(seed), "0", "short")
        until(lambda: sum(line.kind == "E" for line in machine.lines()) > 20, 20, "the first jobs")
        harm(machine.database)
        harmed = time.monotonic()
        try:
            code = worker.wait(15)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - harmed
        was_there = os.path.exists(machine.database)
        until(lambda: "submitter: DatabaseGone" in Path(machine.folder, "stderr").read_text(), 10, "a DatabaseGone")
        late = [line for line in machine.lines() if line.kind == "A" and float(line.fields[3]) > harmed]
        said = Path(machine.folder, "stderr").read_text()
        machine.kill("submitter")
        acknowledged = {int(line.fields[0]) for line in machine.lines() if line.kind == "A"}
        moved = machine.database + ".old"
        there = (
            {row[0] for row in checker._read(moved, "SELECT id FROM job")} if os.path.exists(moved) else acknowledged
        )
        machine.kill_everything()
    found = checker.Found(checker.Columns(), 0, len(acknowledged), 0, 0, 0, 0, 0, [])
    what = harm.__name__.strip("_")
    _require(found, code == 74, f"{what}: the worker exits with {code}")
    _require(found, not late, f"{what}: {len(late)} jobs were acknowledged after that")
    _require(found, was_there == (harm not in (_delete, _move)), f"{what}: the file was made anew")
    _require(found, "Traceback" not in said, f"{what}: {said[-1000:]}")
    for job in acknowledged - there:
        found.count("lost", f"job {job} was acknowledged and is not in the file that was moved")
    return found, seconds


def _start_worker(machine):
    command = [sys.executable, "-m", "fastworker_lite", "worker", "--workers", "2", "--tasks", "tests.chaos.tasks"]
    environment = machine.environment | {"FWL_DB": machine.database}
    with open(os.path.join(machine.folder, "stderr"), "ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
