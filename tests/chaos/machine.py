"""Starts the processes of a run, starts those anew that were killed, and finds who belongs to it.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastworker_lite import SyncClient
from tests.chaos import checker, clock, failpoints, ledger

ROOT = Path(__file__).resolve().parents[2]


def until(condition, seconds, what):
    """Wait until *condition* gives something, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.005)
    return found


def children(pid):
    """The processes that a process has started and that are still alive."""
    found = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return [child for child in found if is_alive(child)]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Machine:
    """The processes of one run, in a folder of its own."""

    def __init__(self, *, workers=2, place=None):
        self.folder = tempfile.mkdtemp(prefix="fwl-chaos-")
        self.database = os.path.join(self.folder, "jobs.db")
        self.workers = workers
        self.actors = {}
        os.mkdir(os.path.join(self.folder, "alive"))
        os.mkdir(os.path.join(self.folder, "sockets"), 0o700)
        clock.create(self.folder)
        self.environment = os.environ | {
            ledger.FOLDER: self.folder,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "chaos" / "start")]),
            "XDG_RUNTIME_DIR": os.path.join(self.folder, "sockets"),
        }
        if place is not None:
            self.environment[failpoints.PLACE] = place
        self._seeds = 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill_everything()
        if kind is None and "FWL_CHAOS_KEEP" not in os.environ:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"the run is left in {self.folder}", flush=True)

    def client(self):
        """A client in this process, which only submits."""
        return SyncClient(self.database, runner="never")

    def prepare(self, durability="full"):
        checker.prepare(self.database, durability)

    # ---- processes

    def start(self, name, role=None, *given, is_awaited=True):
        """Start an actor, and wait until it is ready."""
        role = role or name
        if role == "runner":
            given = given or (str(self.workers),)
        command = [sys.executable, "-m", "tests.chaos.actors", role, self.database, *given]
        with open(os.path.join(self.folder, "stderr"), "ab") as stderr:
            actor = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self.actors[name] = (actor, role, given)
        if is_awaited:
            actor.stdout.readline()
        return actor

    def start_again(self):
        """Start those anew that are gone."""
        for name, (actor, role, given) in list(self.actors.items()):
            if actor.poll() is not None:
                actor.stdout.close()
                if role == "submitter":  # it would go on as it has begun
                    self._seeds += 1
                    given = (f"{given[0]}{self._seeds}", *given[1:])
                self.start(name, role, *given, is_awaited=False)

    def kill(self, name):
        """End one by force. Returns once it is gone."""
        actor = self.actors[name][0]
        actor.kill()
        actor.wait()

    def end(self, name, seconds=30):
        """End one in good order. Returns its status."""
        actor = self.actors.pop(name)[0]
        actor.terminate()
        try:
            return actor.wait(seconds)
        finally:
            actor.kill()
            actor.wait()
            actor.stdout.close()

    def pid(self, name):
        return self.actors[name][0].pid

    def worker_pids(self, runner="runner"):
        return children(self.pid(runner))

    def everybody(self):
        """Every process that has come from this run."""
        found, sign = [], f"{ledger.FOLDER}={self.folder}".encode()
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(entry)
                if sign in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and is_alive(pid):
                    found.append(pid)
        return found

    def kill_everything(self):
        for name in list(self.actors):
            actor = self.actors.pop(name)[0]
            actor.kill()
            actor.wait()
            actor.stdout.close()
        for pid in self.everybody():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---- what they come to

    def drain(self, patience=40):
        """Wait until every job has ended. Those are stuck that have not when none has ended for so many seconds."""
        left, since = -1, time.monotonic()
        while (now_left := checker.unfinished(self.database)) and time.monotonic() - since < patience:
            if now_left != left:
                left, since = now_left, time.monotonic()
            time.sleep(0.05)
            self.start_again()  # who was killed last may not have been gone when the others were started

    def told(self):
        return {line.fields[0] for line in self.lines() if line.kind == "T"}

    def lines(self):
        return ledger.read(os.path.join(self.folder, "ledger"))

    def finish(self, *, descriptors=0):
        """End everything in good order, and check."""
        for name in [name for name, (_, role, _) in self.actors.items() if role == "runner"]:
            self.end(name)
        for name in list(self.actors):
            self.kill(name)
            self.actors.pop(name)[0].stdout.close()
        with contextlib.suppress(AssertionError):
            until(lambda: not self.everybody(), 3, "the end of all processes")
        left = self.everybody()
        found = checker.check(self.folder)
        found.columns.orphans = len(left)
        found.columns.fds = max(0, descriptors)
        return found


def descriptors_of(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
