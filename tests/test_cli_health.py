"""`fwl health`, `fwl workers` and `fwl stop`, as real processes on a real file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker_lite import SyncClient, leases
from fastworker_lite.store import runners, situation
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.runners import Addresses
from tests.test_crash import until

ROOT = Path(__file__).resolve().parent.parent


def command(database, *words):
    return [sys.executable, "-m", "fastworker_lite", "--db", database, *words]


def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FWL_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def fwl(database, *words, code=0):
    done = subprocess.run(
        command(database, *words), capture_output=True, text=True, timeout=30, env=environment(), cwd=ROOT, check=False
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def read(database, *words, code=0):
    return json.loads(fwl(database, *words, "--json", code=code).stdout)


@contextlib.contextmanager
def serving(database, *words):
    """A running `fwl worker` that has said so."""
    with subprocess.Popen(
        command(database, "worker", "--workers", "1", *words),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    ) as process:
        process.stderr.readline()
        try:
            yield process
        finally:
            process.kill()


def workers_of(database):
    return [worker for runner in read(database, "workers")["runners"] for worker in runner["workers"]]


def rows(database, work):
    connection = Connection(database)
    try:
        return connection.read(work)
    finally:
        connection.close()


@pytest.fixture
def stale(database):
    """A file with the row of a runner that was killed, under the number of a process that lives: this one."""
    connection = Connection(database)
    where = Addresses("/nowhere/w", "/nowhere/a", "/nowhere/c", "/nowhere/o")
    connection.write(runners.add_runner, "r-gone", "0", where, os.getpid(), time.time(), "worker")
    connection.close()
    return database


# ---- workers


def test_workers_lists_who_runs_what_and_for_how_long(database):
    with serving(database) as process:
        fwl(database, "submit", "--name", "nap", "--", "sleep", "60")
        until(lambda: any(worker["jobs"] for worker in workers_of(database)))
        [runner] = read(database, "workers")["runners"]
        table = fwl(database, "workers").stdout.splitlines()

        assert (runner["pid"], runner["role"], runner["queues"]) == (process.pid, "worker", None)
        [job] = runner["workers"][0]["jobs"]
        assert (job["id"], job["name"], job["queue"]) == (1, "nap", "default")
        assert 0 <= job["running_s"] < 30
        assert [line.split()[0] for line in table] == ["PID", str(process.pid), str(runner["workers"][0]["pid"])]
        assert "1 nap for " in table[2]
        assert fwl(database, "workers", "-q").stdout == f"{process.pid}\n"
        fwl(database, "stop", "--now")


def test_workers_says_which_queues_are_served(database):
    with serving(database, "--queue", "io", "--new-queue"):
        assert [runner["queues"] for runner in read(database, "workers")["runners"]] == [["io"]]


def test_a_runner_in_a_program_is_listed_as_what_it_is(database):
    with SyncClient(database, workers=1, runner="own"):
        assert [(one["pid"], one["role"]) for one in read(database, "workers")["runners"]] == [
            (os.getpid(), "embedded")
        ]


def test_a_command_that_runs_here_is_listed_beside_the_runners(database):
    with subprocess.Popen(command(database, "run", "--", "sleep", "60"), env=environment(), cwd=ROOT) as process:
        until(lambda: any(worker["jobs"] for worker in read(database, "workers")["alone"]))
        document = read(database, "workers")
        process.terminate()

    assert [(worker["pid"], worker["role"]) for worker in document["alone"]] == [(process.pid, "fwl run")]
    assert document["runners"] == []


def test_a_stale_row_is_counted_and_not_listed(stale):
    document = read(stale, "workers")

    assert (document["runners"], document["stale"]) == ([], 1)
    assert fwl(stale, "workers").stdout == ""


@pytest.mark.parametrize("verb", ["workers", "health", "stop"])
def test_looking_makes_no_database(tmp_path, verb):
    subprocess.run(
        command(str(tmp_path / "a.db"), verb), capture_output=True, env=environment(), timeout=30, check=False
    )

    assert os.listdir(tmp_path) == []


# ---- stop


def test_stop_lets_the_running_job_end_and_returns_when_the_worker_is_gone(database, tmp_path):
    with serving(database) as process:
        fwl(database, "submit", "-c", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo done")
        until(lambda: any(worker["jobs"] for worker in workers_of(database)))
        stopping = subprocess.Popen(command(database, "stop", "--json"), stdout=subprocess.PIPE, env=environment())
        process.stderr.readline()  # that it is stopping
        assert stopping.poll() is None
        (tmp_path / "go").touch()
        said = json.loads(stopping.communicate(timeout=30)[0])

        assert said == {"schema": "fwl.stop/1", "stopped": [process.pid], "is_gone": True, "left": []}
        assert process.wait(10) == 0
    assert read(database, "status", "1")["jobs"][0]["state"] == "succeeded"


def test_stop_now_ends_what_runs(database):
    with serving(database) as process:
        fwl(database, "submit", "--", "sleep", "600")
        until(lambda: any(worker["jobs"] for worker in workers_of(database)))
        begun = time.monotonic()
        fwl(database, "stop", "--now")

        assert time.monotonic() - begun < 15
        assert process.wait(10) == 0


def test_two_signals_that_come_at_once_are_both_heard(database):
    for _ in range(3):
        with serving(database) as process:
            fwl(database, "submit", "--", "sleep", "600")
            until(lambda: any(worker["jobs"] for worker in workers_of(database)))
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)

            assert process.wait(15) == 0


def test_stop_without_waiting_returns_while_the_worker_still_runs(database):
    with serving(database) as process:
        fwl(database, "submit", "--", "sleep", "600")
        until(lambda: any(worker["jobs"] for worker in workers_of(database)))
        fwl(database, "stop", "--no-wait")

        assert "stopping" in process.stderr.readline()
        assert process.poll() is None


def test_stop_with_a_number_stops_that_one_and_no_other(database):
    with serving(database) as one, serving(database) as other:
        assert "fwl workers" in fwl(database, "stop", "--pid", "1", code=3).stderr
        fwl(database, "stop", "--pid", str(other.pid))

        assert other.wait(10) == 0
        assert one.poll() is None


def test_a_runner_in_a_program_is_named_and_left(database):
    with SyncClient(database, workers=1, runner="own") as client:
        refused = fwl(database, "stop", code=69)

        assert f"process {os.getpid()} is a program that runs jobs itself" in refused.stderr
        assert client.submit(len, "xy").result(timeout=10) == 2


def test_a_runner_in_a_program_is_left_while_the_worker_beside_it_is_stopped(database):
    with SyncClient(database, workers=1, runner="own"), serving(database) as process:
        document = read(database, "stop")

        assert (document["stopped"], document["left"]) == ([process.pid], [{"pid": os.getpid(), "role": "embedded"}])


def test_a_number_that_has_another_owner_by_now_is_not_signalled(stale):
    """The row is of a worker with the number of this process, which the signal would end."""
    assert fwl(stale, "stop", code=69).stderr.startswith("error: no fwl worker serves this file\n")


def test_a_lease_that_another_process_holds_is_no_reason_to_signal(stale):
    """As it is where the holder lives in another container: its number is that of somebody else here."""
    holder = """
import sys, time
from fastworker_lite.leases import Lease
lease = Lease(sys.argv[1]); print(flush=True); time.sleep(60)
"""
    path = f"{stale}.d/leases/r-gone"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with subprocess.Popen([sys.executable, "-c", holder, path], stdout=subprocess.PIPE, env=environment()) as process:
        process.stdout.readline()
        refused = fwl(stale, "stop", code=69)

        assert "could not be told" in refused.stderr
        assert (leases.is_held_by(path, process.pid), leases.is_held_by(path, os.getpid())) == (True, False)
        process.kill()


# ---- health


def test_health_is_69_without_a_runner_0_with_one_and_never_silent_about_why(database):
    assert fwl(database, "health", code=69).stdout == (
        "unhealthy: no runner serves this file (start one: fwl worker)\n"
    )
    with serving(database):
        until(lambda: workers_of(database))

        assert fwl(database, "health").stdout == "healthy: 1 runner, 1 worker, nothing waits\n"
        assert read(database, "health")["healthy"] is True
    assert fwl(database, "health", code=69).stdout.startswith("unhealthy: ")


def test_a_stopped_worker_whose_queue_ages_is_unhealthy(database):
    """It lives and holds its lease; only the queue tells."""
    with serving(database) as process:
        until(lambda: workers_of(database))
        group = [process.pid, *(worker["pid"] for worker in workers_of(database))]
        for pid in group:
            os.kill(pid, signal.SIGSTOP)
        try:
            fwl(database, "submit", "--", "true")
            until(lambda: read(database, "health")["oldest_s"] > 0.2)

            late = fwl(database, "health", "--max-queue-age", "100ms", code=1)
            assert late.stdout.startswith("unhealthy: job 1 has waited ")
            fwl(database, "health", "--max-queue-age", "1h")
        finally:
            for pid in group:
                os.kill(pid, signal.SIGCONT)


def test_a_job_that_is_to_wait_does_not_wait_for_a_worker(database):
    fwl(database, "submit", "--in", "1h", "--", "true")
    fwl(database, "submit", "-Q", "shut", "--new-queue", "--", "true")
    fwl(database, "queue", "pause", "shut")
    assert read(database, "health", code=69)["oldest_job"] is None

    fwl(database, "queue", "resume", "shut")
    assert read(database, "health", code=69)["oldest_job"] == 2


def test_what_waits_behind_newer_jobs_of_a_higher_priority_is_seen(database):
    for priority in ("-5", "3", "3"):
        fwl(database, "submit", "--priority", priority, "--", "true")

    assert rows(database, lambda sql: situation.oldest_waiting(sql, time.time())).id == 1


def test_more_failures_than_allowed_are_unhealthy(database):
    fwl(database, "run", "--", "false", code=1)
    fwl(database, "run", "--", "false", code=1)
    with serving(database):
        assert (
            "2 jobs failed in the last 24h, more than 1" in fwl(database, "health", "--max-failed", "1", code=1).stdout
        )
        assert fwl(database, "health", "--max-failed", "2").stdout.endswith(", 2 failed in 24h\n")
        assert fwl(database, "health", "--max-failed", "0", "--since", "1ms").stdout.endswith(", 0 failed in 1ms\n")


def test_since_alone_is_a_slip(database):
    assert "--max-failed" in fwl(database, "health", "--since", "1h", code=2).stderr


def fill(database, count):
    """Jobs in every state, most of them queued and failed."""
    Connection(database).close()
    values = {
        "state": "CASE n % 3 WHEN 0 THEN 'queued' WHEN 1 THEN 'failed' ELSE 'succeeded' END",
        "queue": "'default'", "kind": "'call'", "task": "'t'", "priority": "n % 3", "lane": "0", "park": "0",
        "checksum": "0", "payload": "zeroblob(200)", "created_at": "1e9 + n", "attempt": "n % 2",
        "finished_at": "CASE n % 3 WHEN 0 THEN NULL ELSE 1e9 + n END",
    }  # fmt: skip
    sql = sqlite3.connect(database)
    sql.execute("INSERT OR IGNORE INTO queue (name) VALUES ('default')")
    sql.execute(
        f"WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count}) "
        f"INSERT INTO job ({', '.join(values)}) SELECT {', '.join(values.values())} FROM c"
    )
    sql.commit()
    sql.close()


def steps(database, work):
    """How many steps of SQLite's machine a question takes, to the next hundred: as a clock, without its noise."""
    counted = 0

    def count():
        nonlocal counted
        counted += 1

    connection = Connection(database)
    connection.sql.set_progress_handler(count, 100)
    try:
        connection.read(work)
    finally:
        connection.close()
    return counted


def test_what_health_asks_costs_no_more_with_a_hundred_thousand_jobs(tmp_path):
    small, large = str(tmp_path / "small.db"), str(tmp_path / "large.db")
    fill(small, 300)
    fill(large, 100_000)

    for work in (
        lambda sql: situation.oldest_waiting(sql, time.time()),
        lambda sql: situation.count_failed(sql, 0.0, 50),
        situation.running,
    ):
        assert steps(large, work) <= steps(small, work) * 1.5 + 1
