"""What is left when processes are killed: real processes, real signals."""

from __future__ import annotations

import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastworker_lite import SyncClient, building, leases
from fastworker_lite.events import follow_events
from fastworker_lite.job import Command
from fastworker_lite.options import JobOptions
from fastworker_lite.paths import SidePaths
from fastworker_lite.store import runners
from fastworker_lite.store.connection import Connection
from tests import sample_tasks

ROOT = Path(__file__).resolve().parent.parent

RUNNER = """
import sys, threading
import tests.sample_tasks
from fastworker_lite import SyncClient
client = SyncClient(sys.argv[1], workers=2, runner="own")
client.start()
print("started", flush=True)
threading.Event().wait()
"""

SUBMITTER = """
import sys
import threading
from fastworker_lite import SyncClient
client = SyncClient(sys.argv[1], runner="never")
while True:
    print(client.submit("add", 1, 2).id, flush=True)
"""

RUN_AND_DIE = """
import os, signal, sys
from fastworker_lite import execution
from fastworker_lite.cli import main
original = execution.start_command
def start_and_die(*args):
    original(*args)
    os.kill(os.getpid(), signal.SIGKILL)
execution.start_command = start_and_die
sys.argv = ["fwl", "run", "--db", sys.argv[1], "--", "/bin/sh", "-c", sys.argv[2]]
main.main()
"""


def start(code, database):
    return subprocess.Popen([sys.executable, "-c", code, database], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.01)


def workers_of(database):
    import json

    connection = Connection(database)
    try:
        return [json.loads(row.process)[0] for row in connection.read(runners.workers)]
    finally:
        connection.close()


def notes_of(database):
    connection = Connection(database)
    try:
        return [leases.read_note(connection.paths.lease(row.lease)) for row in connection.read(runners.workers)]
    finally:
        connection.close()


def is_gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def children_of(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def group_is_empty(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    members = [stat for stat in Path("/proc").glob("[0-9]*/stat") if _group_of(stat) == group]
    return all(is_gone(int(stat.parent.name)) for stat in members)


def _group_of(stat):
    try:
        return int(stat.read_text().rpartition(")")[2].split()[2])
    except OSError:
        return None


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_a_job_survives_its_worker_being_killed(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=2, runner="own") as client:
        handle = client.submit(sample_tasks.record, str(log), "v", 1.0)
        until(lambda: lines(log))
        os.kill(int(lines(log)[0].split()[2]), signal.SIGKILL)
        assert handle.result(timeout=15) == "v"
    assert [line.split()[0] for line in lines(log)] == ["begin", "begin", "end"]


def test_a_job_survives_its_runner_being_killed_and_no_process_is_left(database, tmp_path):
    log = tmp_path / "log"
    runner = start(RUNNER, database)
    assert runner.stdout.readline() == "started\n"
    with SyncClient(database, runner="never") as client:
        handle = client.submit(sample_tasks.record, str(log), "v", 1.0)
        until(lambda: lines(log))
        pids = workers_of(database)
        runner.kill()
        runner.wait()
        until(lambda: all(is_gone(pid) for pid in pids), 5)
        again = start(RUNNER, database)
        try:
            assert handle.result(timeout=20) == "v"
        finally:
            again.kill()
            again.wait()
            runner.stdout.close()
            again.stdout.close()
    assert [line.split()[0] for line in lines(log)] == ["begin", "begin", "end"]


def test_a_job_survives_its_worker_and_its_runner_being_killed_at_once(database, tmp_path):
    log = tmp_path / "log"
    with start(RUNNER, database) as runner, SyncClient(database, runner="never") as client:
        assert runner.stdout.readline() == "started\n"
        handle = client.submit(sample_tasks.record, str(log), "v", 1.0)
        until(lambda: lines(log))
        pids = workers_of(database)
        os.kill(int(lines(log)[0].split()[2]), signal.SIGKILL)
        runner.kill()
        runner.wait()
        until(lambda: all(is_gone(pid) for pid in pids), 5)
        with start(RUNNER, database) as again:
            try:
                assert handle.result(timeout=20) == "v"
            finally:
                again.kill()
    assert [line.split()[0] for line in lines(log)] == ["begin", "begin", "end"]


@pytest.mark.parametrize("killed", ["worker", "runner", "both"])
def test_a_commands_processes_are_gone_when_its_job_runs_again(database, tmp_path, killed):
    log = tmp_path / "log"
    # Each attempt writes its group and leaves a grandchild; the first one never ends by itself.
    script = f'echo $$ >> {log}; sleep 300 & [ "$FWL_ATTEMPT" = 2 ] || wait; kill $!'
    with start(RUNNER, database) as runner, SyncClient(database, runner="never") as client:
        assert runner.stdout.readline() == "started\n"
        job = building.build_command(Command(argv=None, shell=script, cwd=str(tmp_path)), None, JobOptions())
        (number,) = client._store([job]).ids
        until(lambda: lines(log))
        group = int(lines(log)[0])
        worker = next(pid for pid in workers_of(database) if children_of(pid))
        if killed != "runner":
            os.kill(worker, signal.SIGKILL)
        if killed != "worker":
            runner.kill()
            runner.wait()
        with start(RUNNER, database) as again:
            try:
                assert client.handle(number).wait(timeout=20) and client.handle(number).status() == "succeeded"
            finally:
                again.kill()
                runner.kill()
    assert len(lines(log)) == 2
    assert group_is_empty(group), "a process of the first attempt is left"


def test_a_run_killed_as_it_starts_its_command_leaves_nothing_beside_the_next_attempt(database, tmp_path):
    log = tmp_path / "log"
    script = f'echo $$ >> {log}; [ "$FWL_ATTEMPT" = 2 ] || exec env -i sleep 300'
    killed = subprocess.run([sys.executable, "-c", RUN_AND_DIE, database, script], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    with SyncClient(database, workers=1, runner="own") as client:
        assert client.handle(1).wait(timeout=20) and client.handle(1).status() == "succeeded"
    groups = [int(line) for line in lines(log)]
    assert len(groups) in (1, 2)  # the first may have been ended before it had written anything
    assert all(group_is_empty(group) for group in groups)


def test_a_command_that_is_still_being_started_can_be_cancelled(database, tmp_path):
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)  # nobody opens it to write, so that the start takes for ever
    with SyncClient(database, workers=1, runner="own", kill_grace=20) as client:
        command = Command(argv=["/bin/cat"], shell=None, cwd=str(tmp_path), stdin=fifo)
        handle = client.handle(client._store([building.build_command(command, None, JobOptions())]).ids[0])
        until(lambda: [note.group for note in notes_of(database)] == [leases.STARTING])
        worker = workers_of(database)
        handle.cancel()
        assert handle.wait(timeout=10) and handle.status() == "cancelled"
        assert client.submit(abs, -5).result(timeout=10) == 5
        assert workers_of(database) != worker  # it was ended, since nothing else could be


def test_every_id_a_killed_submitter_printed_exists(database):
    seed = int(os.environ.get("FWL_SEED", "0")) or random.randrange(2**32)
    rng = random.Random(seed)
    printed = []
    for _ in range(8):
        submitter = start(SUBMITTER, database)
        printed.append(submitter.stdout.readline())
        time.sleep(rng.uniform(0, 0.06))
        submitter.kill()
        printed += submitter.stdout.read().splitlines(keepends=True)
        submitter.wait()
        submitter.stdout.close()
    ids = [int(line) for line in printed if line.endswith("\n")]
    connection = Connection(database)
    stored = {row[0] for row in connection.read(lambda sql: sql.execute("SELECT id FROM job").fetchall())}
    connection.close()
    print(f"seed {seed}: 8 kills, {len(ids)} acknowledged, {len(set(ids) - stored)} lost")
    assert set(ids) <= stored and len(ids) >= 8


def test_a_job_that_kills_its_worker_three_times_is_not_tried_again(database):
    with SyncClient(database, workers=1, runner="own") as client:
        bad = client.submit(sample_tasks.die)
        assert bad.wait(timeout=20)
        assert bad._job().reason == "poison: killed its worker 3 times"
        assert client.submit(sample_tasks.add, 1, 2).result(timeout=10) == 3


def test_a_job_that_must_not_run_twice_is_lost_with_its_worker(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        handle = client.options(on_lost="fail").submit(sample_tasks.record, str(log), "v", 5.0)
        until(lambda: lines(log))
        os.kill(int(lines(log)[0].split()[2]), signal.SIGKILL)
        assert handle.wait(timeout=10)
        assert handle._job().reason == "lost: worker died, signal 9"
    assert len(lines(log)) == 1


def pass_as_of_another_boot(database, lease, innocent):
    """What a power cut may leave: the rows of who lived then, and an old note, with a number that is another's now."""
    connection = Connection(database)
    connection.write(
        lambda sql: sql.execute("UPDATE worker SET process = json_set(process, '$[2]', 'the boot before')")
    )
    note = leases.Note(job=0, group=innocent, began=1.0)
    Path(connection.paths.lease(lease)).write_bytes(leases._NOTE.pack(*note))
    connection.close()


def delete_the_lease(database, lease, innocent):
    os.unlink(SidePaths.of(database).lease(lease))


@pytest.mark.parametrize("harm", [pass_as_of_another_boot, delete_the_lease])
def test_a_job_that_must_not_run_twice_does_not_after_a_power_cut_that_took_its_workers_note(database, tmp_path, harm):
    log = tmp_path / "log"
    innocent = subprocess.Popen(["sleep", "60"], start_new_session=True)
    with start(RUNNER, database) as runner, SyncClient(database, runner="never") as client:
        assert runner.stdout.readline() == "started\n"
        once = client.options(on_lost="fail").submit(sample_tasks.record, str(log), "v", 5.0)
        until(lambda: lines(log))
        connection = Connection(database)
        lease = next(
            row.lease
            for row in connection.read(runners.workers)
            if leases.read_note(connection.paths.lease(row.lease)).job == int(once.id)
        )
        connection.close()
        runner.kill()
        runner.wait()
        until(lambda: is_gone(int(lines(log)[0].split()[2])), 5)
        harm(database, lease, innocent.pid)
        with SyncClient(database, workers=1, runner="own"):
            assert once.wait(timeout=20)
        reason = once._job().reason
    try:
        assert reason == "lost: worker died with its runner"
        assert len(lines(log)) == 1
        assert innocent.poll() is None, "a process was killed for the number it has"
    finally:
        innocent.kill()
        innocent.wait()


def test_a_standby_takes_over_when_the_runner_is_killed(database):
    runner = start(RUNNER, database)
    assert runner.stdout.readline() == "started\n"
    with SyncClient(database, workers=1) as standby:
        assert standby.submit(sample_tasks.add, 1, 2).result(timeout=10) == 3
        runner.kill()
        runner.wait()
        runner.stdout.close()
        assert standby.submit(sample_tasks.add, 2, 2).result(timeout=10) == 4


def test_a_look_of_the_runner_that_fails_is_repeated_though_nothing_else_happens(database, tmp_path, monkeypatch):
    plain, failed, due = sqlite3.connect, [], [float("inf")]

    class Failing(sqlite3.Connection):
        def execute(self, statement, *parameters):
            if statement == "BEGIN" and time.time() >= due[0] and not failed:
                failed.append(statement)
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return super().execute(statement, *parameters)

    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: plain(*args, factory=Failing, **options))
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        client.options(delay=1.0).submit(sample_tasks.record, str(log), "v", 0.0)
        due[0] = time.time() + 0.8
        until(lambda: lines(log), 10)
    assert failed


def test_an_idle_runner_and_its_workers_do_not_wake_up(database):
    others = {*Path("/proc/self/task").iterdir()}
    with SyncClient(database, workers=2, runner="own") as client:
        assert client.submit(sample_tasks.add, 1, 2).result(timeout=10) == 3
        until(lambda: len(workers_of(database)) == 2)
        until(lambda: Path(f"{database}-wal").stat().st_size == 0)  # put away after two seconds without a write
        time.sleep(1.5)
        tasks = [path for path in Path("/proc/self/task").iterdir() if path not in others]
        for pid in _children(os.getpid()):
            tasks += Path(f"/proc/{pid}/task").iterdir()
        before = {path: _switches(path) for path in tasks if path.name != str(os.getpid())}
        time.sleep(3)
        woken = {str(path): _switches(path) - count for path, count in before.items() if _switches(path) != count}
    print(f"voluntary switches of {len(before)} threads in 3 s idle: {sum(woken.values())}")
    assert sum(woken.values()) == 0, woken


def test_a_runner_leaves_the_work_to_its_workers(database):
    """Its process looks now and then while jobs are waiting, and not without end."""
    with SyncClient(database, runner="never", durability="normal") as submitter:
        last = submitter.map(abs, range(20_000))[-1]
        with SyncClient(database, workers=2, runner="own"):
            began = time.process_time()
            assert last.wait(timeout=40)
            used = time.process_time() - began
    print(f"CPU of the runner's process while 20,000 jobs ran: {used:.2f} s")
    assert used < 0.3


def _children(pid):
    return [
        int(child) for path in Path(f"/proc/{pid}/task").iterdir() for child in (path / "children").read_text().split()
    ]


def _switches(path):
    for line in (path / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    return 0


def test_the_runner_drains_when_it_is_closed(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        first = client.submit(sample_tasks.record, str(log), "first", 0.5)
        client.submit(sample_tasks.record, str(log), "second", 0.5)
        until(lambda: lines(log))
    assert [line.split()[:2] for line in lines(log)] == [["begin", "first"], ["end", "first"]]
    with SyncClient(database, runner="never") as client:
        assert client.handle(first.id).status() == "succeeded" and client.handle(2).status() == "queued"


def test_a_runner_that_has_ended_leaves_no_descriptor_and_no_thread_behind(tmp_path):
    def use(number):
        with SyncClient(tmp_path / f"{number}.db", workers=2, runner="own") as client:
            assert client.submit(abs, -1).result(timeout=10) == 1
            assert list(client._call(lambda connection: list(follow_events(connection, is_followed=False)))) == []

    use(0)
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), {*threading.enumerate()}
    for number in range(1, 4):
        use(number)
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert (len(os.listdir("/proc/self/fd")) <= descriptors, left) == (True, [])
