"""So many at a time, so many in a span, one holder of a lock; and queues with settings of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from fastworker_lite import Client, ConfigError, QueueFull, SyncClient, building
from fastworker_lite.job import Command, Lane, Outcome
from fastworker_lite.limits import group_of
from fastworker_lite.options import JobOptions
from fastworker_lite.store import jobs, limits, queries, runners, settling
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.jobs import Wanted
from tests import limit_tasks as tasks
from tests.test_crash import ROOT, lines, until


@pytest.fixture
def client(database):
    with SyncClient(database, workers=4, runner="own", durability="normal") as client:
        yield client


def peak(log):
    """The most that were between their begin and their end at one time."""
    steps = sorted((float(line.split()[1]), line.startswith("begin")) for line in lines(log))
    running = most = 0
    for _, is_begin in steps:
        running += 1 if is_begin else -1
        most = max(most, running)
    return most


def reason_of(client, handle):
    return client._call(Connection.read, queries.get, handle.number).reason


# ---- concurrency


def test_no_more_jobs_of_one_key_run_at_a_time_than_its_task_allows(client, tmp_path):
    log = tmp_path / "log"
    handles = [client.submit(tasks.visit, "one", str(log)) for _ in range(12)]

    assert [handle.result(timeout=20) for handle in handles] == ["one"] * 12
    assert peak(log) == 3


def test_a_job_that_waits_for_its_key_says_so_and_lets_another_key_pass(client, tmp_path):
    log = tmp_path / "log"
    waiting = [client.submit(tasks.visit, "one", str(log), 1.0) for _ in range(5)]
    other = client.submit(tasks.visit, "two", str(tmp_path / "other"), 0.0)

    assert other.result(timeout=20) == "two"
    assert [handle.status() for handle in waiting].count("running") == 3
    until(lambda: waiting[4].status() == "blocked")
    assert reason_of(client, waiting[4]) == "waits for concurrency visit[one]"


def test_coroutines_are_limited_as_functions_are(client, tmp_path):
    log = tmp_path / "log"
    handles = [client.submit(tasks.wait_a_little, str(log)) for _ in range(8)]

    assert all(handle.wait(timeout=20) for handle in handles)
    assert peak(log) == 2


def test_a_lock_is_held_by_one_job_of_whatever_task(client, tmp_path):
    log = tmp_path / "log"
    handles = [client.submit(one, str(log)) for one in (tasks.back_up, tasks.restore) * 5]

    assert all(handle.wait(timeout=20) for handle in handles)
    assert (peak(log), len(lines(log))) == (1, 20)


def test_a_lock_is_free_again_when_its_holder_is_killed(client, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    holder = client.options(lock="l", on_lost="fail").submit(tasks.hold, str(first), 30.0)
    next_one = client.options(lock="l").submit(tasks.record, str(second))
    until(lambda: lines(first) and next_one.status() == "blocked")

    os.kill(int(lines(first)[0].split()[2]), signal.SIGKILL)

    assert next_one.wait(timeout=10) and holder.status() == "failed"


@pytest.mark.parametrize("way", ["cancelled", "timed out", "failed"])
def test_however_a_job_ends_the_next_one_of_its_lock_begins(client, tmp_path, way):
    holder = client.options(lock="l", timeout=0.3 if way == "timed out" else None, kill_grace=0.1)
    first = holder.submit(tasks.fail) if way == "failed" else holder.submit(tasks.hold, str(tmp_path / "log"), 30.0)
    second = client.options(lock="l").submit(tasks.record, str(tmp_path / "second"))
    if way == "cancelled":
        until(lambda: first.status() == "running")
        first.cancel()

    assert second.wait(timeout=10) and second.status() == "succeeded"


def test_one_that_was_let_through_and_cancelled_before_it_began_lets_the_next_one_through(
    submitter, database, tmp_path
):
    holder, second, third = (submitter.options(lock="l").submit(tasks.record, str(tmp_path / "log")) for _ in range(3))
    connection = Connection(database)
    claim = Wanted(1, Lane.SYNC, 5, list)
    [first] = connection.write(jobs.claim, claim, time.time())
    assert connection.write(jobs.claim, claim, time.time()) == []
    connection.write(settling.settle, [Outcome(first, 1.0, 2.0)])
    assert (holder.status(), second.status(), third.status()) == ("succeeded", "queued", "blocked")

    second.cancel()

    assert third.status() == "queued"
    connection.close()


def test_a_place_that_one_queue_cannot_use_goes_to_another(submitter, client, tmp_path):
    """The first in turn waits in a queue that is paused: it must not keep the lock from the others."""
    log = tmp_path / "log"
    client.pause_queue("held")
    holder = client.options(lock="l").submit(tasks.hold, str(log), 0.3)
    held = client.options(lock="l", queue="held", priority="high").submit(tasks.record, str(log))
    free = client.options(lock="l").submit(tasks.record, str(log))

    assert holder.wait(timeout=10) and free.wait(timeout=10)
    assert held.status() in ("queued", "blocked")
    client.resume_queue("held")
    assert held.wait(timeout=10)


def test_the_limits_of_a_task_hold_where_its_submitter_did_not_know_it(client, database, tmp_path):
    """By its bare name, from a process that has not the task: the worker learns of the limit at the claim."""
    log = tmp_path / "log"
    script = (
        "import sys; from fastworker_lite import SyncClient\nwith SyncClient(sys.argv[1], runner='never') as c:\n"
        "  c.map('visit', [])\n  [c.submit('visit', 'x', sys.argv[2]) for _ in range(9)]"
    )
    subprocess.run([sys.executable, "-c", script, database, str(log)], check=True, cwd=ROOT)

    until(lambda: len(lines(log)) == 18)
    assert peak(log) == 3


def test_the_limits_of_a_task_hold_in_a_queue_that_has_its_own(client, tmp_path):
    """Also where the submitter did not know the task: the queue's limit does not hide the task's."""
    log = tmp_path / "log"
    client.set_queue("io", workers=4)
    handles = [
        client.handle(number)
        for number in client._store(
            [
                building.build_json_call("tests.limit_tasks:back_up", [str(log)], {}, JobOptions.parse({"queue": "io"}))
                for _ in range(8)
            ]
        ).ids
    ]

    assert all(handle.wait(timeout=20) for handle in handles)
    assert {handle.status() for handle in handles} == {"succeeded"}
    assert peak(log) == 1


def test_fifty_kills_take_no_place_away_and_give_none_too_many(database, tmp_path):
    """Concurrency 3 under kill -9: never more than 3 at once, and never fewer than possible for longer than 0.5 s."""
    seed = random.SystemRandom().randrange(1_000_000)
    chance = random.Random(seed)
    log, deaths = tmp_path / "log", []
    with SyncClient(database, workers=5, runner="own", durability="normal") as client:
        client.map(tasks.hold_a_moment, [str(log)] * 1000)  # more than can be done meanwhile
        until(lambda: len(ready_workers(client)) == 5)
        began = time.monotonic()
        for _ in range(50):
            until(lambda: len(ready_workers(client)) >= 4)  # else fewer are possible
            time.sleep(chance.uniform(0.0, 0.03))
            victim = chance.choice(ready_workers(client))
            deaths.append((kill_now(victim), victim))
        ended = time.monotonic()
        client.pause_queue("default")
    most, longest = occupancy(log, deaths, began, ended)
    print(
        f"seed {seed}: 50 kills, {len(lines(log))} lines: at most {most} at once, fewer than 3 for at most {longest:.3f} s"
    )
    assert most <= 3
    assert longest <= 0.5


def ready_workers(client):
    """The processes that run functions."""
    rows = client._call(Connection.read, runners.workers)
    processes = [json.loads(row.process)[0] for row in rows if row.lane == Lane.SYNC]
    return [process for process in processes if state_of(process) not in ("Z", "X", "")]


def kill_now(victim):
    """Kill a worker. Returns the moment from which on it ran no more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: state_of(victim) in ("Z", "X", ""))
    return killed


def state_of(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def occupancy(log, deaths, began, ended):
    """The most at once, and the longest time with fewer than three, by what the jobs wrote and when workers died."""
    died = {victim: moment for moment, victim in deaths}
    spans, open_since = [], {}
    for word, at, process in (line.split()[:3] for line in lines(log)):
        if word == "begin":
            open_since[process] = float(at)
        else:
            spans.append((open_since.pop(process), float(at)))
    spans += [(begin, died.get(int(process), ended)) for process, begin in open_since.items()]
    steps = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    longest, short_since = 0.0, None
    for at, step in steps:
        running += step
        most = max(most, running)
        if running < 3 and short_since is None:
            short_since = at
        elif running >= 3 and short_since is not None:
            longest, short_since = max(longest, at - max(short_since, began)), None
    return most, longest


# ---- rates


def test_a_rate_lets_one_span_at_once_and_the_rest_in_step(client):
    client.map(abs, range(40))[-1].wait(timeout=20)  # the workers are there
    began = time.time()
    moments = sorted(handle.result(timeout=20) - began for handle in [client.submit(tasks.quick, n) for n in range(50)])

    assert moments[19] < 0.9, "a span without any lets as many begin at once"
    assert moments[49] > 1.4, "20 of 50 at once, 30 more at 20 a second"
    assert moments[49] < 3.0
    per_second = [sum(1 for moment in moments if at <= moment < at + 1.0) for at in moments]
    assert max(per_second) <= 41  # what a token bucket lets through: what it holds, and what flows in meanwhile


def test_a_bucket_fills_up_with_time_and_not_beyond_what_it_holds(submitter, database):
    many = submitter.options(rate="10/m").map(abs, range(40))
    connection = Connection(database)
    claim = Wanted(1, Lane.SYNC, 1, list)

    def begun(now):
        count = 0
        while connection.write(jobs.claim, claim, now):
            count += 1
        return count

    assert begun(1000.0) == 10
    assert begun(1000.1) == 0
    assert connection.read(limits.next_release) == pytest.approx(1006.0, abs=0.2)
    connection.write(limits.release_by_time, 1006.1)
    assert begun(1006.1) == 1
    connection.write(limits.release_by_time, 1000000.0)
    assert begun(1000000.0) == 10
    connection.write(limits.release_by_time, 999.0)  # the clock went back
    assert begun(999.0) == 0
    assert sum(one.status() == "running" for one in many) == 21
    connection.close()


# ---- queues


def test_a_paused_queue_begins_nothing_and_stays_paused_over_a_restart(database, tmp_path):
    log = tmp_path / "log"
    with SyncClient(database, workers=1, runner="own") as client:
        client.pause_queue("io")
        held = client.options(queue="io").submit(tasks.record, str(log))
        assert client.submit(abs, -1).result(timeout=20) == 1
    with SyncClient(database, workers=1, runner="own") as client:
        assert client.submit(abs, -2).result(timeout=20) == 2
        assert client.handle(held.id).status() == "queued" and lines(log) == []
        client.resume_queue("io")
        assert client.handle(held.id).wait(timeout=5)


def test_a_queue_runs_no_more_of_its_jobs_at_a_time_than_its_workers(client, tmp_path):
    log = tmp_path / "log"
    client.set_queue("io", workers=2)
    handles = [client.options(queue="io").submit(tasks.hold, str(log), 0.05) for _ in range(10)]
    other = client.submit(abs, -1)

    assert other.result(timeout=5) == 1
    assert all(handle.wait(timeout=20) for handle in handles)
    assert peak(log) == 2


def test_a_queue_that_is_full_refuses_all_or_nothing_and_others_take_no_harm(submitter):
    submitter.set_queue("io", max_length=3)
    io = submitter.options(queue="io")
    io.map(abs, [1, 2])

    with pytest.raises(QueueFull, match='queue "io" may hold 3 jobs'):
        io.map(abs, [3, 4])

    assert io.submit(abs, 3).number == 3
    assert submitter.submit(abs, 5).number == 4
    [row] = [row for row in submitter.queues() if row.name == "io"]
    assert (row.queued, row.max_length) == (3, 3)


def test_of_submits_that_share_a_commit_only_the_refused_one_fails(database):
    async def submit():
        async with Client(database, runner="never", durability="normal") as client:
            await client.set_queue("io", max_length=5)
            io = client.options(queue="io")
            return await asyncio.gather(*(io.submit(abs, n) for n in range(20)), return_exceptions=True)

    found = asyncio.run(submit())

    assert sum(isinstance(one, QueueFull) for one in found) == 15
    assert len({one.number for one in found if not isinstance(one, QueueFull)}) == 5


def test_a_queue_has_a_rate_of_its_own(client):
    client.set_queue("mail", rate="10/s")
    client.map(abs, range(40))[-1].wait(timeout=20)  # the workers are there
    began = time.time()
    handles = client.options(queue="mail").map(moment, range(25))

    moments = sorted(handle.result(timeout=20) - began for handle in handles)
    assert moments[9] < 0.9 and 1.2 < moments[24] < 3.0


def moment(_):
    return time.time()


def test_a_queue_is_forgotten_only_when_nothing_is_left_in_it(submitter):
    handle = submitter.options(queue="io").submit(abs, 1)

    assert submitter.remove_queue("io") is False
    handle.cancel()
    assert submitter.remove_queue("io") is True
    assert submitter.remove_queue("io") is False


def test_two_thousand_jobs_of_four_processes_begin_by_priority_and_then_in_their_order(database):
    """All are queued before the one worker starts: not one inversion."""
    script = textwrap.dedent("""
        import random, sys
        from fastworker_lite import SyncClient
        with SyncClient(sys.argv[1], runner="never", durability="normal") as client:
            chance = random.Random(int(sys.argv[2]))
            for number in range(500):
                client.options(priority=chance.choice([-30, -1, 0, 1, 5, 400])).submit(abs, number)
    """)
    submitters = [subprocess.Popen([sys.executable, "-c", script, database, str(n)], cwd=ROOT) for n in range(4)]
    assert [process.wait(timeout=60) for process in submitters] == [0] * 4

    with SyncClient(database, workers=1, runner="own") as client:
        until(
            lambda: (
                client._call(
                    Connection.read,
                    lambda sql: sql.execute("SELECT count(*) FROM job WHERE finished_at IS NULL").fetchone()[0],
                )
                == 0
            ),
            40,
        )
        rows = client._call(
            Connection.read,
            lambda sql: sql.execute("SELECT priority, id FROM job ORDER BY started_at, finished_at").fetchall(),
        )
    inversions = sum((-a[0], a[1]) > (-b[0], b[1]) for a, b in itertools.pairwise(rows))
    print(f"{len(rows)} jobs, 6 priorities, 4 submitting processes: {inversions} inversions")
    assert (len(rows), inversions) == (2000, 0)


# ---- what a claim costs

_FILL = """
WITH RECURSIVE number(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM number WHERE value < :count)
INSERT INTO job (state, queue, lane, priority, created_at, due_at, finished_at, kind, task, park, checksum, payload,
                 waits_for, limits)
SELECT :state, 'default', 0, :priority, 0, :due_at, :finished_at, 'call', 't', 1, 0, x'00', :waits_for, :limits
  FROM number
"""


def filled(path, count, states):
    connection = Connection(path, durability="normal", is_worker=True)
    connection.write(lambda sql: sql.execute("INSERT OR IGNORE INTO queue (name) VALUES ('default')"))
    for state, more in states.items():
        row = dict.fromkeys(("due_at", "finished_at", "waits_for", "limits")) | {"priority": 0} | more
        connection.write(lambda sql, row=row, state=state: sql.execute(_FILL, row | {"count": count, "state": state}))
    connection.checkpoint()
    return connection


def cost_of_claims(connection, count=150):
    """The median of the seconds of a worker's transaction: one job settled, the next one claimed."""
    wanted, claimed, seconds = Wanted(1, Lane.SYNC, 1, list), [], []

    def transact(sql):
        settling.settle(sql, [Outcome(job, 1.0, 2.0) for job in claimed])
        return jobs.claim(sql, wanted, time.time())

    for _ in range(count):
        began = time.perf_counter()
        claimed = connection.write(transact)
        seconds.append(time.perf_counter() - began)
        assert len(claimed) == 1
    return statistics.median(seconds)


def compared(small, large, rounds=7):
    ratios = sorted(cost_of_claims(large) / cost_of_claims(small) for _ in range(rounds))
    return ratios[len(ratios) // 2]


def test_a_claim_costs_no_more_in_a_file_of_three_million_jobs(tmp_path):
    states = {
        "scheduled": {"due_at": 4e9, "priority": 100},
        "succeeded": {"finished_at": 1.0},
        "queued": {},
    }
    small, large = filled(tmp_path / "s.db", 2_000, states), filled(tmp_path / "l.db", 1_000_000, states)

    ratio = compared(small, large)
    print(f"a claim beside 1,000,000 queued, scheduled and finished: {ratio:.3f} of what it costs beside 2,000")
    assert ratio <= 1.25
    small.close()
    large.close()


def test_a_job_that_waits_for_a_limit_makes_the_claims_of_others_no_dearer(tmp_path):
    waiting = {"blocked": {"waits_for": "lock l", "limits": '[["lock l", 1, null]]', "priority": 50}}
    small, large = (
        filled(tmp_path / "s.db", 20_000, {"queued": {}}),
        filled(tmp_path / "l.db", 20_000, {"queued": {}} | waiting),
    )

    ratio = compared(small, large)
    print(f"a claim beside 20,000 jobs that wait for a lock: {ratio:.3f} of what it costs without them")
    assert ratio <= 1.1
    small.close()
    large.close()


# ---- bad input


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": "2"},
        {"rate": "10"},
        {"rate": "0/s"},
        {"rate": "10/y"},
        {"rate": 10},
        {"lock": ""},
        {"lock": 5},
        {"key": ""},
        {"key": 7},
        {"unique": " "},
        {"on_conflict": "keep"},
        {"unique": "k", "on_conflict": "ignore"},
        {"debounce": 2.0},
        {"unique": "k", "debounce": -1},
        {"unique": "k", "debounce": 1, "delay": 1},
        {"idempotency_key": b"k"},
        {"after": "x"},
        {"after": [0]},
        {"after": 1.5},
        {"after_any": [True]},
        {"after_failure": [None]},
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_stored(submitter, options):
    with pytest.raises(ConfigError):
        submitter.options(**options)


def test_a_time_that_no_clock_shows_is_refused(submitter):
    with pytest.raises(ConfigError, match="eta 2031-03-30 02:30 does not exist in Europe/Berlin"):
        submitter.options(eta=datetime(2031, 3, 30, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")))
    submitter.options(eta=datetime(2031, 10, 26, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))).submit(abs, 1)


def test_a_key_that_names_an_argument_the_call_does_not_have_is_refused(submitter):
    with pytest.raises(ConfigError, match="names hots, but the call has first, second"):
        submitter.options(concurrency=1, key="{hots}").submit(tasks.add, 1)
    with pytest.raises(ConfigError, match="does not know"):
        submitter.options(concurrency=1, key="{host}").submit("a task of somebody else's", 1)
    with pytest.raises(ConfigError, match="key's function failed: ZeroDivisionError"):
        submitter.options(concurrency=1, key=lambda first: first / 0).submit(tasks.add, 1)
    assert submitter.queues() == []


def test_a_key_is_filled_in_from_the_arguments_defaults_included():
    assert group_of("{first}-{second}", tasks.add, (5,), {}) == "5-1"
    assert group_of(lambda first, second: second, tasks.add, (5, 6), {}) == "6"
    assert group_of("as it is", None, (), {}) == "as it is"


@pytest.mark.parametrize("settings", [{"workers": 0}, {"max_length": "5"}, {"rate": "x"}, {"worker": 1}])
def test_a_wrong_setting_of_a_queue_is_refused(submitter, settings):
    with pytest.raises(ConfigError):
        submitter.set_queue("io", **settings)
    assert submitter.queues() == []


def test_a_command_is_limited_too(client, tmp_path):
    log = tmp_path / "log"
    script = f"echo begin $(date +%s.%N) $$ >> {log}; sleep 0.1; echo end $(date +%s.%N) $$ >> {log}"
    options = JobOptions.parse({"lock": "l"})
    built = [building.build_command(Command(argv=None, shell=script, cwd="/"), None, options) for _ in range(5)]
    handles = [client.handle(number) for number in client._store(built).ids]

    assert all(handle.wait(timeout=20) for handle in handles)
    assert peak(log) == 1
