"""Faults that are no kills: signals to end in any order, clocks that jump, many writers, no descriptors left.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos import checker, clock
from tests.chaos.faults import _begun, _count, _require, figure
from tests.chaos.machine import Machine, descriptors_of, is_alive, until


def stop_in_good_order(seed):
    """R35: what runs comes to its end, nothing more is begun, and nothing is left but the database."""
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            for number in range(2):
                client.submit("chaos.work", number, 1_000)
            for number in range(50):
                client.options(priority=-5).submit("chaos.work", number, 1)
        until(lambda: _count(machine, "S") == 2, 20, "both jobs' beginning")
        began = time.monotonic()
        status = machine.end("runner")
        seconds = time.monotonic() - began
        left = machine.everybody()
        states = Counter(row[0] for row in checker._read(machine.database, "SELECT state FROM job"))
        log = os.path.getsize(machine.database + "-wal") if os.path.exists(machine.database + "-wal") else 0
        sockets = os.listdir(machine.database + ".d/sockets")
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    _require(found, (status, left, sockets) == (0, [], []), f"exit {status}, left: {left}, {sockets}")
    _require(found, states == {"succeeded": 2, "queued": 50}, f"the jobs are {dict(states)}")
    _require(found, log == 0, f"the log holds {log} bytes")
    text = (
        f"exit {status} in {seconds:.1f} s; running after {states['running']}; ready kept {states['queued']}; "
        f"processes left {len(left)}; -wal {log} B"
    )
    return [figure("R35", text, found)]


def send_signals_in_any_order(seed, count=3):
    """R36: `fwl worker` ends by whatever it is sent, whenever: also while it starts. It leaves nobody behind."""
    rng = random.Random(seed)
    slowest, wrong = 0.0, []
    with Machine() as machine:
        machine.prepare()
        environment = machine.environment | {"FWL_DB": machine.database}
        with machine.client() as client:
            for number in range(6 * count):
                client.submit("chaos.work", number, 200)
        for _ in range(count):
            command = [
                sys.executable,
                "-m",
                "fastworker_lite",
                "worker",
                "--workers",
                "2",
                "--tasks",
                "tests.chaos.tasks",
            ]
            process = subprocess.Popen(
                command, env=environment, cwd=machine.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            time.sleep(rng.uniform(0.0, 1.2))
            numbers = rng.choices([signal.SIGTERM, signal.SIGINT], k=rng.randint(1, 5))
            began = time.monotonic()
            for number in numbers:
                process.send_signal(number)
                time.sleep(rng.choice([0.0, 0.01, 0.1]))
            try:
                said = process.communicate(timeout=10)[1].decode()
            except subprocess.TimeoutExpired:
                process.kill()
                said = f"it did not end: {process.communicate()[1].decode()}"
            slowest = max(slowest, time.monotonic() - began)
            with contextlib.suppress(AssertionError):
                until(lambda: not machine.everybody(), 2, "the end of all processes")
            is_ours = "Traceback" in said and ", in main\n" in said  # else Python itself was still starting
            if is_ours or "did not end" in said or machine.everybody():
                wrong.append(f"{[one.name for one in numbers]}: {machine.everybody()} {said[-500:]}")
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    _require(found, not wrong, f"{wrong}")
    text = (
        f"{count} sequences: {count - len(wrong)} good exits, the slowest in {slowest:.1f} s, 0 tracebacks, 0 orphans"
    )
    return [figure("R36", text, found)]


def step_the_clock(seed, steps=(3600.0, -3600.0)):
    """R33: a timeout is as long as it is, whatever the clock says meanwhile; and what is due is run."""
    early, late = 0, 0.0
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            for number, step in enumerate(steps):
                timed = client.options(timeout=1.5, on_lost="fail").submit("chaos.work", 2 * number, 20_000)
                plain = client.options(timeout=10).submit("chaos.work", 2 * number + 1, 1_000)
                until(lambda one=plain: _begun(machine, one.id), 20, "the job's beginning")
                began = time.monotonic()
                clock.put(machine.folder, step)
                plain.wait(timeout=20)
                early += plain.status() != "succeeded"
                timed.wait(timeout=20)
                late = max(late, time.monotonic() - began - 1.5)
                early += time.monotonic() - began < 1.0
                clock.put(machine.folder, 0.0)
            client.options(delay=0.3).submit("chaos.work", 99, 1).result(timeout=20)
        found = machine.finish()
    found.columns.wrong = max(0, found.columns.wrong - len(steps))  # those were to take too long
    _require(found, early == 0, f"{early} timeouts were early")
    _require(found, late < 3, f"a timeout was late by {late:.1f} s")
    return [
        figure("R33", f"{len(steps)} steps: timeouts early 0, at most {max(0.0, late):.1f} s late, jobs lost 0", found)
    ]


def write_from_many(seed, seconds=8.0, count=8):
    """R40: of many that submit without a pause each has its share, and none is told that the database is locked."""
    with Machine() as machine:
        machine.prepare()
        for number in range(count):
            machine.start(f"flood {number}", "flood", f"{seed}{number}")
        began = time.monotonic()
        time.sleep(seconds)
        for number in range(count):
            machine.kill(f"flood {number}")
            machine.actors.pop(f"flood {number}")[0].stdout.close()
        lines = [line for line in machine.lines() if line.kind == "A" and began < line.at < began + seconds]
        shares = Counter(line.pid for line in lines).values()
        longest = max(line.at - float(line.fields[3]) for line in lines)
        refused = Path(machine.folder, "stderr").read_text().count("DatabaseBusy")
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    _require(found, min(shares) > max(shares) / 10 and len(shares) == count, f"the shares are {sorted(shares)}")
    _require(found, refused == 0, f"{refused} submits were refused")
    text = f"{count} submitters: min/max {min(shares) / max(shares):.2f}, longest wait {longest * 1000:.0f} ms, {refused} busy"
    return [figure("R40", text, found)]


def run_out_of_descriptors(seed, seconds=2.0):
    """R43: a runner that can open nothing more burns no CPU, its jobs go on, and it has all its workers when it can again."""
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        runner = machine.pid("runner")
        until(lambda: len(machine.worker_pids()) == 2, 20, "the workers")
        with machine.client() as client:
            client.submit("chaos.work", 0, 1).result(timeout=20)
            before = resource.prlimit(runner, resource.RLIMIT_NOFILE)
            resource.prlimit(runner, resource.RLIMIT_NOFILE, (4, before[1]))
            victim = sorted(machine.worker_pids())[0]
            os.kill(victim, signal.SIGKILL)
            until(lambda: not is_alive(victim), 5, "the worker's end")
            used, began = _cpu(runner), time.monotonic()
            handles = [client.submit("chaos.work", number, 5) for number in range(100)]
            handles[-1].wait(timeout=20)
            done = sum(handle.wait(timeout=1) for handle in handles)
            time.sleep(max(0.0, seconds - (time.monotonic() - began)))
            share = (_cpu(runner) - used) / (time.monotonic() - began)
            is_there = is_alive(runner)
            if is_there:
                resource.prlimit(runner, resource.RLIMIT_NOFILE, before)
            with contextlib.suppress(AssertionError):
                until(lambda: len(machine.worker_pids()) == 2, 15, "another worker")
            workers, opened = len(machine.worker_pids()), descriptors_of(runner) if is_there else 0
        machine.start_again()
        machine.drain()
        found = machine.finish()
    _require(
        found, is_there and workers == 2, f"the runner is {'there' if is_there else 'gone'}, with {workers} workers"
    )
    _require(found, share < 0.5, f"it took {share:.0%} of a core")
    text = f"no descriptor left: CPU {share:.0%}, jobs done {done}/100, workers after {workers}, descriptors {opened}"
    return [figure("R43", text, found)]


def _cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
