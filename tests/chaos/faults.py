"""One function for each fault: it makes it, and returns what to publish. Each prints nothing and leaves no process behind.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import time
from dataclasses import dataclass

from fastworker_lite import building, leases
from fastworker_lite.job import Command
from fastworker_lite.options import JobOptions
from fastworker_lite.paths import SidePaths
from fastworker_lite.store import runners
from fastworker_lite.store.connection import Connection
from tests.chaos import checker, failpoints, ledger, tasks
from tests.chaos.machine import Machine, descriptors_of, is_alive, until
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


def kill_everything_repeatedly(seed, seconds=20, workers=4, has_long="yes"):
    """R01, R12 and R28: the nemesis over submitters, a runner, its workers and a listener; then all jobs have to end."""
    with Machine(workers=workers) as machine:
        machine.prepare()
        machine.start("runner")
        machine.start("listener")
        for number in range(3):
            machine.start(f"submitter {number}", "submitter", f"{seed}{number}", "0.2", has_long)
        until(lambda: len(machine.told()) > 0, 20, "the first callback")
        baseline = _settled_descriptors(machine, workers)
        nemesis = Nemesis(machine, seed)
        nemesis.work(seconds)
        nemesis.rest()
        for name in [name for name in machine.actors if name.startswith("submitter")]:
            machine.kill(name)
            machine.actors.pop(name)[0].stdout.close()
        machine.drain()
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
        machine.start_again()
        time.sleep(0.1)


def _settled_descriptors(machine, workers):
    """How many descriptors the runner has when all of its workers are there, less the two that it has for each."""
    least = 10**6
    for _ in range(20):
        if (count := len(machine.worker_pids())) >= workers:
            least = min(least, descriptors_of(machine.pid("runner")) - 2 * count)
        time.sleep(0.05)
    return least


def kill_submitters(seed, count=10):
    """R03: what a killed submitter has acknowledged is there. Every other one is killed right after an acknowledgement."""
    rng = random.Random(seed)
    with Machine(place="after_submit") as machine:
        machine.prepare()
        for number in range(count):
            machine.start("flood", "flood", f"{seed}{number}")
            acknowledged = _count(machine, "A")
            until(lambda seen=acknowledged: _count(machine, "A") > seen, 20, "the first acknowledgement")
            time.sleep(rng.uniform(0, 0.06))
            if number % 2:
                machine.kill("flood")
            else:
                failpoints.arm(machine.folder)
                machine.actors["flood"][0].wait(20)
            machine.actors.pop("flood")[0].stdout.close()
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    return [figure("R03", f"{count} kills, {found.acknowledged:,} acked, {found.columns.lost} lost", found)]


def kill_workers_mid_task(seed, jobs=100):
    """R05: a job goes on elsewhere, the others are not disturbed, the slot is filled again."""
    rng = random.Random(seed)
    with Machine(workers=4) as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            handles = [client.submit("chaos.work", one, 60) for one in range(jobs)]
            killed, seconds = set(), []
            while checker.unfinished(machine.database):
                time.sleep(0.2)
                if pids := _working_pids(machine):
                    victim = rng.choice(pids)
                    _kill(victim)
                    killed.add(victim)
                    seconds.append(_until_full(machine, victim))
            done = sum(handle.status() == "succeeded" for handle in handles)
        found = machine.finish()
        lines = machine.lines()
    ended = {line.fields[:2] for line in lines if line.kind == "E"}
    disturbed = [line for line in lines if line.kind == "S" and line.fields[:2] not in ended and line.pid not in killed]
    _require(found, done + found.poison == jobs, f"{done} of {jobs} succeeded")
    _require(found, not disturbed, f"jobs of other workers were disturbed: {disturbed}")
    p95 = sorted(seconds)[int(len(seconds) * 0.95)] * 1000 if seconds else 0
    text = (
        f"{len(killed)} kills: {done}/{jobs} done, {found.poison} poison, respawn p95 {p95:.0f} ms, "
        f"jobs of other workers disturbed {len(disturbed)}"
    )
    return [figure("R05", text, found)]


def _until_full(machine, victim):
    began = time.monotonic()
    until(lambda: victim not in machine.worker_pids() and len(machine.worker_pids()) >= 4, 10, "another worker")
    return time.monotonic() - began


def kill_the_runner(seed, rounds=3):
    """R06: no worker outlives its runner, whether it is idle, asleep, or holds the interpreter's lock."""
    longest = 0.0
    with Machine() as machine:
        machine.prepare()
        for number in range(rounds):
            for task in (None, "chaos.work", "chaos.hold"):
                machine.start("runner")
                until(lambda: len(machine.worker_pids()) >= 2, 20, "the workers")
                begun = _count(machine, "S")
                if task is not None:
                    with machine.client() as client:
                        client.options(on_lost="fail").submit(task, number, 20_000)
                    until(lambda begun=begun: _count(machine, "S") > begun, 20, "the job's beginning")
                pids = machine.worker_pids()
                machine.kill("runner")
                killed = time.monotonic()
                until(lambda pids=pids: not any(map(is_alive, pids)), 5, "the end of the workers")
                longest = max(longest, time.monotonic() - killed)
                machine.actors.pop("runner")[0].stdout.close()
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    text = f"{3 * rounds} kills: {found.columns.orphans} orphans, gone in max {longest * 1000:.0f} ms"
    return [figure("R06", text, found)]


def stop_a_worker(seed, seconds=5.0):
    """R07: a job past its timeout is tried again only when the stopped worker is gone; one without goes on where it was."""
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            timed = client.options(timeout=1.0, retries=5, retry_on_timeout=True).submit("chaos.work", 1, 700)
            plain = client.submit("chaos.work", 2, 700)
            until(lambda: _count(machine, "S") == 2, 20, "the jobs' beginning")
            pids = {line.fields[0]: line.pid for line in machine.lines() if line.kind == "S"}
            for pid in pids.values():
                os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            was_killed = not is_alive(pids[timed.id])
            begun_again = _begun(machine, plain.id)
            for pid in pids.values():
                _kill(pid, signal.SIGCONT)
            values = timed.result(timeout=30)[0], plain.result(timeout=30)[0]
        found = machine.finish()
    _require(found, was_killed, "the worker of the job past its timeout was not killed")
    _require(found, begun_again == 1, f"the other job was begun {begun_again} times meanwhile")
    _require(found, values == (tasks.expected(1), tasks.expected(2)), f"the results are {values}")
    text = f"workers stopped for {seconds:g} s: overlap {found.columns.overlap}, killed for its timeout 1, went on where it was 1"
    return [figure("R07", text, found)]


def stop_the_leader(seed, seconds=3.0):
    """R08: a standby does not take over from who is only stopped, workers go on, and so do the leader's duties afterwards."""
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        machine.start("standby", "runner", "2")
        leader, other = _leader(machine), machine.pid("standby")
        with machine.client() as client:
            os.kill(leader, signal.SIGSTOP)
            handles = [client.submit("chaos.work", one, 30) for one in range(40)]
            handles.append(client.options(priority=10).submit("chaos.work", 40, 2_000))
            later = client.options(delay=0.3).submit("chaos.work", 41, 5)
            time.sleep(seconds)
            patient_until = time.monotonic() + 15
            while (done := sum(handle.status() == "succeeded" for handle in handles)) < 41:
                if time.monotonic() > patient_until:
                    break
                time.sleep(0.1)
            took_over = leases.LeaderLease(SidePaths.of(machine.database).leader).holder() == other
            os.kill(leader, signal.SIGCONT)
            later.result(timeout=20)
        machine.drain()
        found = machine.finish()
    _require(found, not took_over, "the standby took over from a leader that lives")
    _require(found, done == 41, f"{done} of 41 jobs were done while the leader was stopped")
    text = f"leader stopped for {seconds:g} s: double leaders {int(took_over)}, jobs run twice {found.again}, done meanwhile {done}/41"
    return [figure("R08", text, found)]


def fail_over(seed, rounds=5, within=1.0):
    """R09: when the leader is killed another one leads, with load; nothing is lost, no tick is doubled."""
    rng, seconds = random.Random(seed), []
    with Machine() as machine:
        machine.prepare()
        for name in ("runner", "standby"):
            machine.start(name, "runner", "2")
        machine.start("submitter", "submitter", str(seed), "0.1", "no")
        machine.start("listener")
        with machine.client() as client:
            client.schedule("ticks", "chaos.work", every=1, args=(0, 1))
        for _ in range(rounds):
            time.sleep(rng.uniform(0.3, 0.8))
            leader = _leader(machine)
            name = next(name for name in ("runner", "standby") if machine.pid(name) == leader)
            machine.kill(name)
            killed = time.monotonic()
            other = machine.pid("standby" if name == "runner" else "runner")
            until(lambda other=other: _leader(machine) == other, 10, "another leader")
            seconds.append(time.monotonic() - killed)
            machine.start_again()
            until(lambda: all(len(machine.worker_pids(one)) >= 2 for one in ("runner", "standby")), 20, "the workers")
        with machine.client() as client:
            client.unschedule("ticks")
        machine.kill("submitter")
        machine.actors.pop("submitter")[0].stdout.close()
        machine.drain()
        _wait_for_callbacks(machine)
        doubled = checker.ask(
            machine.database,
            "SELECT count(*) - count(DISTINCT scheduled_for) FROM job WHERE scheduled_for IS NOT NULL",
        )
        ticks = checker.ask(machine.database, "SELECT count(*) FROM job WHERE scheduled_for IS NOT NULL")
        found = machine.finish()
    _require(found, doubled == 0, f"{doubled} ticks were doubled")
    _require(found, max(seconds) < within, f"a takeover took {max(seconds):.2f} s")
    text = (
        f"{rounds} failovers, takeover p50 {statistics.median(seconds) * 1000:.0f} ms, max {max(seconds) * 1000:.0f} ms, "
        f"lost {found.columns.lost}, doubled ticks {doubled} of {ticks}"
    )
    return [figure("R09", text, found)]


def delete_the_gate_and_a_lease(seed):
    """R10: who finds the gate gone, or its own lease, stops before it acknowledges anything more."""
    with Machine() as machine:
        machine.prepare()
        machine.start("runner")
        machine.start("flood", "flood", str(seed))
        until(lambda: _count(machine, "E") > 20, 20, "the first jobs")
        paths = SidePaths.of(machine.database)
        lease = next(path for path in sorted(os.listdir(paths.leases)) if path.startswith("w-"))
        holder = next(pid for pid in machine.worker_pids() if leases.is_held_by(paths.lease(lease), pid))
        os.unlink(paths.lease(lease))
        deleted = time.monotonic()
        until(lambda: not is_alive(holder), 5, "the end of the worker without a lease")
        worker_seconds = time.monotonic() - deleted
        os.unlink(paths.gate)
        deleted = time.monotonic()
        time.sleep(1)
        late = [line for line in machine.lines() if line.kind == "A" and float(line.fields[3]) > deleted]
        machine.kill("flood")
        machine.actors.pop("flood")[0].stdout.close()
        machine.kill("runner")  # a worker that is idle has no reason to look, and acknowledges nothing
        machine.actors.pop("runner")[0].stdout.close()
        machine.start("runner")
        machine.drain()
        found = machine.finish()
    _require(found, not late, f"{len(late)} jobs submitted after the gate was deleted were acknowledged")
    text = f"gate and lease deleted: acks after deletion {len(late)}; the worker without a lease was gone in {worker_seconds:.2f} s"
    return [figure("R10", text, found)]


def reuse_a_pid(seed):
    """R11: another process with a dead worker's number is not taken for it, nor killed."""
    with Machine(workers=1) as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            handle = client.submit("chaos.work", 7, 3_000)
            until(lambda: _count(machine, "S") == 1, 20, "the job's beginning")
            (pid,) = machine.worker_pids()
            machine.kill_everything()
            innocent, is_real = _start_as(pid, machine)
            machine.start("runner")
            value = handle.result(timeout=30)[0]
            was_alive = innocent.poll() is None
        innocent.kill()
        innocent.wait()
        found = machine.finish()
    _require(found, was_alive, "the innocent process was killed")
    _require(found, value == tasks.expected(7), "the job was not recovered")
    how = "with its number" if is_real else "its number written into the row"
    return [figure("R11", f"innocent process ({how}) alive: {'yes' if was_alive else 'no'}; job recovered: yes", found)]


def _start_as(pid, machine):
    """A process with this number, if the kernel lets us choose; else the row is told the number of one."""
    for _ in range(50):
        try:
            with open("/proc/sys/kernel/ns_last_pid", "w") as file:
                file.write(str(pid - 1))
        except OSError:
            break
        innocent = subprocess.Popen(["sleep", "60"])
        if innocent.pid == pid:
            return innocent, True
        innocent.kill()
        innocent.wait()
    innocent = subprocess.Popen(["sleep", "60"])
    connection = Connection(machine.database)
    text = json.dumps([innocent.pid, *json.loads(connection.read(runners.workers)[0].process)[1:]])
    connection.write(lambda sql: sql.execute("UPDATE worker SET process = ?", (text,)) and None)
    connection.close()
    return innocent, False


def fork_and_leave(seed):
    """R50i: a child that a job has forked and left behind keeps neither its worker's lease nor its job."""
    with Machine(workers=1) as machine:
        machine.prepare()
        machine.start("runner")
        with machine.client() as client:
            client.submit("chaos.leave_child", 1, 30_000).result(timeout=20)
            paths = SidePaths.of(machine.database)
            (lease,) = [name for name in os.listdir(paths.leases) if name.startswith("w-")]
            handle = client.submit("chaos.work", 2, 2_000)
            until(lambda: _begun(machine, handle.id), 20, "the second job's beginning")
            (worker,) = machine.worker_pids()
            machine.kill("runner")
            machine.actors.pop("runner")[0].stdout.close()
            until(lambda: not is_alive(worker), 5, "the end of the worker")
            child = next(int(line.fields[0]) for line in machine.lines() if line.kind == "L")
            was_alive, is_free = is_alive(child), leases.is_free(paths.lease(lease))
            machine.start("runner")
            value = handle.result(timeout=20)[0]
        _kill(child)
        found = machine.finish()
    _require(found, was_alive, "the child had ended")
    _require(found, is_free, "the child keeps the lease")
    _require(found, value == tasks.expected(2), f"the result is {value}")
    return [figure("R50i", "a forked child outlives its worker: lease free at once, job recovered", found)]


# ---- R04


def kill_at_named_places(seed, rounds=1, places=tuple(failpoints.PLACES)):
    """R04: killed at each of the named places, the system goes on where it was."""
    kills, columns, details = 0, checker.Columns(), []
    for place in places:
        found = _kill_at(place, f"{seed}", rounds)
        kills += rounds
        columns = columns + found.columns
        details += [f"{place}: {line}" for line in found.details]
    broken = columns.total()
    text = f"{len(places)} failpoints x {rounds} kills: {kills}/{kills} recover, {broken} invariant violations"
    return [Figure("R04", text, columns, details)]


def _kill_at(place, seed, rounds):
    if place == "mid_migration":
        return _kill_while_creating(rounds)
    with Machine(place=place) as machine:
        machine.prepare()
        machine.start("listener")
        machine.start("runner")
        machine.start("submitter", "submitter", seed, "0.09" if place == "after_wake" else "0.02", "no")
        if place == "after_tick_insert":
            with machine.client() as client:
                client.schedule("ticks", "chaos.work", every=1, args=(0, 1))
        for number in range(rounds):
            until(lambda number=number: _count(machine, "E") > 4 * number, 20, "some jobs")
            failpoints.arm(machine.folder)
            if place == "after_recover":
                _kill(until(lambda: _working_pids(machine), 20, "a worker that has worked")[0])
            until(lambda number=number: _has_died(machine, number + 1), 20, f"a kill at {place}")
            until(lambda: _everybody_is_back(machine), 20, "everybody's return")
        machine.kill("submitter")
        machine.actors.pop("submitter")[0].stdout.close()
        unknown = checker.ask(machine.database, _WITHOUT_A_TICK)
        if place == "after_tick_insert":
            with machine.client() as client:
                client.unschedule("ticks")  # its ticks go with it
        machine.drain(20)
        _wait_for_callbacks(machine)
        found = machine.finish()
    _require(found, unknown == 0, f"{unknown} jobs of a schedule belong to no tick")
    return found


_WITHOUT_A_TICK = """
SELECT count(*)
  FROM job
 WHERE scheduled_for IS NOT NULL
   AND id NOT IN (SELECT job FROM tick WHERE job IS NOT NULL)
"""


def _has_died(machine, times):
    deaths = [line.pid for line in ledger.read(os.path.join(machine.folder, "seen")) if line.kind == "D"]
    if len(deaths) < times:
        return False
    actor = next((actor for actor, _, _ in machine.actors.values() if actor.pid == deaths[-1]), None)
    return not is_alive(deaths[-1]) if actor is None else actor.poll() is not None


def _everybody_is_back(machine):
    machine.start_again()
    return len(machine.worker_pids()) >= machine.workers


def kill_a_worker_as_it_starts_a_command(seed):
    """Killed between the command's start and the note of its group, while that command takes its time."""
    with Machine(workers=1, place="after_command_start") as machine:
        machine.prepare()
        machine.start("runner")
        failpoints.arm(machine.folder)
        command = Command(argv=None, shell=ledger.COMMAND.format(seconds=1.5), cwd=machine.folder)
        with machine.client() as client:
            client._store([building.build_command(command, None, JobOptions())])
        machine.drain()
        found = machine.finish()
    return [figure("R04", f"a command's worker killed as it starts: {found.columns.overlap} overlapping", found)]


def _kill_while_creating(rounds):
    with Machine(place="mid_migration") as machine:
        for _ in range(rounds):
            failpoints.arm(machine.folder)
            machine.start("runner").wait(20)
            machine.actors.pop("runner")[0].stdout.close()
        machine.start("runner")
        machine.end("runner")
        machine.prepare()
        machine.start("runner")
        machine.start("submitter", "submitter", "1", "0.02", "no")
        until(lambda: _count(machine, "E") > 4, 20, "some jobs")
        machine.kill("submitter")
        machine.actors.pop("submitter")[0].stdout.close()
        machine.start("listener")
        machine.drain(20)
        _wait_for_callbacks(machine)
        return machine.finish()


# ---- what they share


def _require(found, is_so, text):
    if not is_so:
        found.count("wrong", text)


def _count(machine, kind):
    return sum(line.kind == kind for line in machine.lines())


def _working_pids(machine):
    """Workers that have begun jobs, so that the file knows of them."""
    return sorted({line.pid for line in machine.lines() if line.kind == "S"} & set(machine.worker_pids()))


def _begun(machine, job):
    return sum(line.kind == "S" and line.fields[0] == job for line in machine.lines())


def _kill(pid, number=signal.SIGKILL):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _leader(machine):
    lease = leases.LeaderLease(SidePaths.of(machine.database).leader)
    return until(lambda: (pid := lease.holder()) and is_alive(pid) and pid, 10, "a leader")
