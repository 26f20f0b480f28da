"""One function for each fault: it makes it, and returns what to publish. Each prints nothing and leaves no process behind.

Runs in: the testing process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.chaos import checker
from tests.chaos.machine import Machine, descriptors_of, until
from tests.chaos.nemesis import Nemesis


@dataclass(slots=True)
class Figure:
    """A line of the table."""

    name: str
    sentence: str
    columns: checker.Columns
    details: list[str]

    @property
    def is_good(self):
        return self.columns.total() == 0


def figure(name, sentence, found):
    return Figure(name, sentence, found.columns, found.details)


def kill_everything_repeatedly(seed, seconds=20, workers=4):
    """R01, R12 and R28: the nemesis over submitters, a runner, its workers and a listener; then all jobs have to end."""
    with Machine(workers=workers) as machine:
        machine.prepare()
        machine.start("runner")
        machine.start("listener")
        for number in range(3):
            machine.start(f"submitter {number}", "submitter", f"{seed}{number}")
        until(lambda: len(machine.told()) > 0, 20, "the first callback")
        baseline = _settled_descriptors(machine, workers)
        nemesis = Nemesis(machine, seed)
        nemesis.work(seconds)
        nemesis.rest()
        for name in [name for name in machine.actors if name.startswith("submitter")]:
            machine.kill(name)
            machine.actors.pop(name)[0].stdout.close()
        machine.drain(90)
        _wait_for_callbacks(machine)
        grown = _settled_descriptors(machine, workers) - baseline
        found = machine.finish(descriptors=grown)
    sentences = [
        f"{nemesis.kills} kill -9 over {found.jobs:,} jobs ({nemesis.counts['stop a process']} stopped processes, "
        f"{nemesis.counts['put the clock']} clock steps, {nemesis.counts['fill the disk']} full disks): "
        f"{found.columns.lost} lost, {found.columns.stuck} stuck, {found.columns.dup_terminal} duplicate terminal states, "
        f"{found.columns.overlap} overlapping executions, {found.again} re-executions, {found.poison} given up as poison",
        f"{found.at_most_once:,} at-most-once jobs, {nemesis.kills} kills: {found.columns.twice} started twice, "
        f"{found.lost_at_most_once} reported lost",
        f"{found.checkpoints:,} checkpoints, {found.columns.forbidden} outside the gate or PASSIVE",
    ]
    return [figure(name, text, found) for name, text in zip(("R01", "R12", "R28"), sentences, strict=True)]


def _wait_for_callbacks(machine):
    end = time.monotonic() + 65
    while checker.waiting_callbacks(machine.database) and time.monotonic() < end:
        time.sleep(0.1)


def _settled_descriptors(machine, workers):
    """How many descriptors the runner has when all of its workers are there."""
    least = 10**6
    for _ in range(20):
        if len(machine.worker_pids()) >= workers:
            least = min(least, descriptors_of(machine.pid("runner")))
        time.sleep(0.05)
    return least
