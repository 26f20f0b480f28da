"""The same kills for two others that keep their jobs in SQLite, with their defaults: `python -m tests.chaos --peers`.

What is compared is what the ledger says, which no side writes about itself: each job writes a line when it begins and one
when it ends, and holds a kernel lock in between; each submitter writes one when it was told that its job is stored.

Runs in: the testing process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from typing import NamedTuple

from tests.bench.__main__ import PEERS
from tests.chaos import ledger
from tests.chaos.machine import ROOT, Machine
from tests.chaos.nemesis import FAULTS, Nemesis

#: Seconds without an end after which nobody is waited for any more. One of them looks for dead workers' jobs after 60.
PATIENCE = 80.0
KILLS = {name: weight for name, weight in FAULTS.items() if name.startswith("kill") and "listener" not in name}


_MEANING = """lost: acknowledged, and neither run to an end nor said to have failed. given up: said to have failed, as a job that
has killed its worker too often. Begun again and ended twice are what "at least once" allows; lost is what "at most once"
allows. lapping: two executions of one job at a time. workers left: those that outlive a runner that is killed."""


class Side(NamedTuple):
    """One of those that are compared."""

    name: str
    promise: str
    #: In its own words, shortened.
    python: str


SIDES = (
    Side("ours", "runs at least once, never twice at a time; recovered at once", sys.executable),
    Side("huey", "at most once: a job is taken from the file before it runs", str(PEERS / "bin" / "python")),
    Side("potatoq", "at least once; a dead node's jobs are requeued after 60 s", str(PEERS / "bin" / "python")),
)


class Seen(NamedTuple):
    """What the ledger says of a run."""

    kills: int
    acknowledged: int
    lost: int
    #: Acknowledged, and neither run to an end nor said to have failed.
    given_up: int
    #: Not run to an end, and said to have failed: they had killed their worker too often.
    again: int
    #: Begun more than once,
    twice: int
    #: and run to an end more than once.
    overlaps: int
    orphans: int
    #: Worker processes that live on when the runner has been killed.
    seconds: float
    #: From the last kill until the last job's end.


class SideMachine(Machine):
    """A runner with two worker processes, and two submitters, of one side."""

    def __init__(self, side: Side) -> None:
        super().__init__()
        self._side = side
        self.environment["PYTHONPATH"] = str(ROOT)  # the others are not watched
        self.environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def start(self, name, role=None, *given, is_awaited=True):
        role = role or name
        command = [self._side.python, "-m", f"tests.chaos.sides.{self._side.name}_side", role, self.folder, *given]
        with open(os.path.join(self.folder, "stderr"), "ab") as stderr:
            actor = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr
            )  # fmt: skip
        self.actors[name] = (actor, role, given)
        return actor

    def unfinished(self):
        """The ids of the jobs that were acknowledged and have not run to an end."""
        lines = self.lines()
        ended = {line.fields[0] for line in lines if line.kind == "E"}
        return {line.fields[1] for line in lines if line.kind == "A" and line.fields[0] not in ended}

    def count_reported(self, ids):
        """How many of these jobs the side says have failed."""
        actor = self.start("report", "report", *sorted(ids))
        del self.actors["report"]
        return int(actor.communicate(timeout=60)[0])


def run(side: Side, seed: int, seconds: float) -> Seen:
    """Kill for so long, then see what becomes of the jobs."""
    with SideMachine(side) as machine:
        machine.start("runner")
        for number in range(2):
            machine.start(f"submitter {number}", "submitter", f"{seed}{number}")
        _until(lambda: any(line.kind == "E" for line in machine.lines()), 30)
        nemesis = Nemesis(machine, seed, faults=KILLS)
        nemesis.work(seconds)
        for name in [name for name in machine.actors if name.startswith("submitter")]:
            machine.kill(name)
            machine.actors.pop(name)[0].stdout.close()
        machine.start_again()
        seconds_left = _settle(machine)
        unfinished = machine.unfinished()
        given_up = machine.count_reported(unfinished)
        workers = set(machine.worker_pids())
        machine.kill("runner")
        time.sleep(1.0)
        orphans = len(workers.intersection(machine.everybody()))
        return _read(
            machine.lines(),
            kills=nemesis.kills,
            lost=len(unfinished) - given_up,
            given_up=given_up,
            orphans=orphans,
            seconds=seconds_left,
        )


def _settle(machine: SideMachine) -> float:
    """Wait for the jobs. Returns the seconds until the last one's end."""
    began = changed = time.monotonic()
    left = None
    while (now_left := len(machine.unfinished())) and time.monotonic() - changed < PATIENCE:
        if now_left != left:
            left, changed = now_left, time.monotonic()
        time.sleep(0.1)
        machine.start_again()
    return (changed if now_left else time.monotonic()) - began


def _until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"no job has ended within {seconds:g} s")
        time.sleep(0.05)


def _read(lines: list[ledger.Line], **known) -> Seen:
    begun, ended = (Counter(line.fields[0] for line in lines if line.kind == kind) for kind in "SE")
    return Seen(
        acknowledged=sum(line.kind == "A" for line in lines),
        again=sum(count > 1 for count in begun.values()),
        twice=sum(count > 1 for count in ended.values()),
        overlaps=sum(line.kind == "O" for line in lines),
        **known,
    )


def show(seed: int, seconds: float) -> bool:
    """Print a line for each side. False where the others are not installed."""
    if not PEERS.exists():
        print(f"the others are not installed: {os.path.basename(sys.executable)} -m tests.bench --peers")
        return False
    print(
        f"seed {seed}; two worker processes, two submitters, {seconds:g} s of kill -9 of workers, runners, submitters, all"
    )
    print(f"{'':9}kills  acked   lost  given  begun  ended  over-    workers  last end")
    print(f"{'':9}                     up     again  twice  lapping  left     after s   what it promises")
    for side in SIDES:
        one = run(side, seed, seconds)
        print(
            f"{side.name:9}{one.kills:5}{one.acknowledged:7}{one.lost:7}{one.given_up:7}{one.again:7}{one.twice:7}"
            f"{one.overlaps:9}{one.orphans:9}{one.seconds:10.1f}   {side.promise}",
            flush=True,
        )
    print(_MEANING)
    return True
