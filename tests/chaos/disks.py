"""Faults of the disk and of the file on it: calls that fail, no room, a file that was damaged or is another one.

Runs in: the testing process.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from pathlib import Path

from tests.chaos import failing, ledger
from tests.chaos.faults import _require, _wait_for_callbacks, figure
from tests.chaos.machine import Machine, until

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
        traces = Path(machine.folder, "stderr").read_text().count("Traceback (most recent call last)")
        failures = Counter(line.fields[1] for line in _failures(machine))
        found = machine.finish()
    _require(found, len(failures) == len(failing.KINDS), f"only {dict(failures)} failed")
    unknown = {name for name, _ in told} - {"DatabaseGone", *failing.KINDS.values()}
    _require(found, not unknown, f"submitters were told {unknown}")
    _require(found, traces == 0, f"{traces} tracebacks")
    text = (
        f"{number} rounds, {sum(failures.values()):,} injected faults of {len(failures)} kinds over {found.jobs:,} jobs: "
        f"{found.columns.lost} false acks, {found.columns.stuck} stuck, {found.columns.overlap} overlapping, "
        f"{len(told)} refusals told, {found.jobs - found.acknowledged} of them stored all the same"
    )
    return [figure("R20", text, found)]


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
