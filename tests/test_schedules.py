"""Schedules in the file: one job for each tick, whatever runners and clocks do. Real SQLite, real processes."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fastworker_lite import ConfigError, SyncClient
from fastworker_lite import scheduler as scheduler_module
from fastworker_lite.declarations import declared_here, from_config, read_config
from fastworker_lite.firing import Firing, fire_some
from fastworker_lite.scheduler import Scheduler
from fastworker_lite.schedules import Timetable, put, register, set_paused
from fastworker_lite.settings import Config, CronSetting
from fastworker_lite.sockets import Waker
from fastworker_lite.store import cancelling, jobs, queries, schedules, settling, ticks
from fastworker_lite.store.connection import Connection
from fastworker_lite.tasks.registry import TaskRegistry
from tests.test_crash import until
from tests.test_store import claim, failed, succeeded

ROOT = Path(__file__).resolve().parent.parent
#: A Tuesday, 00:00 UTC.
START = datetime(2026, 11, 24, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def connection(database):
    opened = Connection(database)
    yield opened
    opened.close()


def setting(name="s", **given):
    when = {} if {"schedule", "every"} & given.keys() else {"every": "1h"}
    return CronSetting(name, {"command": ["true"], "timezone": "UTC"} | when | given)


def declared(*settings):
    return from_config(Config(cron=settings, path="/etc/fastworker.toml"))


def store(connection, now=START, **given):
    (new,) = declared(setting(**given))
    connection.write(put, new, now)
    return new


def fire(connection, now):
    connection.write(fire_some, now)


def fire_all(connection, now):
    """As a runner does: until nothing is due."""
    timetable = Timetable(lambda: ([], set()), Waker(), lambda: now)
    return timetable.step(connection)


def made(connection, name="s"):
    """Every tick that was seen to: hours from the start, and what became of it."""
    past = connection.read(ticks.history, name, 10_000)
    return [((one.at - START) / HOUR, one.outcome) for one in reversed(past)]


def outcomes(connection, name="s"):
    return [outcome for _, outcome in made(connection, name)]


def job_states(connection):
    return connection.read(lambda sql: [row[0] for row in sql.execute("SELECT state FROM job ORDER BY id")])


def next_at(connection, name="s"):
    return connection.read(schedules.get, name).next_at


def run_next(connection, end=succeeded):
    """Have the oldest queued job begin and end."""
    (running,) = claim(connection)
    connection.write(settling.settle, [end(running)])
    return running


# ---- one tick


def test_a_tick_makes_one_job_that_knows_its_time_and_the_schedule_goes_on(connection):
    store(connection, schedule="0 1 * * *")

    fire(connection, START + HOUR - 1)
    assert made(connection) == []
    fire(connection, START + HOUR + 0.1)
    fire(connection, START + HOUR + 0.2)

    assert made(connection) == [(1.0, "queued")] and next_at(connection) == START + HOUR + DAY
    assert run_next(connection).scheduled_for == START + HOUR


def test_a_tick_makes_the_job_that_was_declared(connection):
    store(
        connection,
        queue="io",
        priority=7,
        timeout="2m",
        retries=2,
        retry_delay="5s",
        expires="1h",
        retry_on=["OSError"],
    )

    fire(connection, START + HOUR)

    job = connection.read(queries.get, 1)
    assert (job.name, job.queue, job.priority, job.timeout, job.retries) == ("s", "io", 7, 120, 2)
    assert job.expires_at == START + 2 * HOUR
    assert run_next(connection).policy == '{"retry_on": ["OSError"]}'


def test_jitter_delays_the_job_and_not_the_time_it_is_for(connection):
    store(connection, schedule="0 1 * * *", jitter="10m")
    at = next_at(connection)

    fire(connection, at - 0.1)
    assert made(connection) == []
    fire(connection, at)

    assert made(connection) == [(1.0, "queued")] and 0 < at - START - HOUR < 600
    assert next_at(connection) == at + DAY


def test_a_schedule_ends_after_so_many_jobs_or_at_its_last_moment(connection):
    store(connection, name="count", repeat_count=3, overlap="allow")
    store(connection, name="until", repeat_until=datetime(2026, 11, 24, 2), overlap="allow")

    for hour in range(1, 8):
        fire_all(connection, START + hour * HOUR)

    assert outcomes(connection, "count") == ["queued"] * 3 and outcomes(connection, "until") == ["queued"] * 2
    assert next_at(connection, "count") is next_at(connection, "until") is None


def test_a_disabled_schedule_is_kept_and_makes_nothing(connection):
    store(connection, enabled=False)

    fire_all(connection, START + 5 * HOUR)

    assert made(connection) == [] and connection.read(schedules.names) == ["s"]


def test_a_paused_schedule_makes_nothing_and_goes_on_with_its_next_tick(connection):
    store(connection, overlap="allow", catch_up="all")
    connection.write(set_paused, "s", True, START)
    fire_all(connection, START + 5 * HOUR)
    connection.write(set_paused, "s", False, START + 5.5 * HOUR)
    fire_all(connection, START + 6 * HOUR)

    assert made(connection) == [(6.0, "queued")]


# ---- nobody was there


@pytest.mark.parametrize(
    ("catch_up", "window", "queued", "missed"),
    [
        ("latest", "24h", 1, 71),
        ("all", "24h", 24, 48),
        ("all", "7d", 72, 0),
        ("none", "24h", 0, 72),
        ("latest", "0s", 0, 72),
    ],
)
def test_three_days_of_sleep_are_made_up_for_as_the_schedule_says(connection, catch_up, window, queued, missed):
    store(connection, catch_up=catch_up, catch_up_window=window)

    fire_all(connection, START + 3 * DAY + 30 * 60)

    found = outcomes(connection)
    print(f"catch_up = {catch_up}, window {window}, asleep for 3 days, hourly: {found.count('queued')} jobs, "
          f"{found.count('missed')} missed")  # fmt: skip
    assert (found.count("queued"), found.count("missed")) == (queued, missed)
    assert next_at(connection) == START + 3 * DAY + HOUR


def test_what_is_made_up_for_is_the_newest_and_says_how_late_it_is(connection):
    store(connection)

    fire_all(connection, START + 3.5 * HOUR)

    late = connection.read(ticks.history, "s", 1)[0]
    assert (late.at, late.outcome, late.reason) == (START + 3 * HOUR, "queued", "catch-up, 30m late")


def test_a_tick_is_missed_a_second_after_its_time(connection):
    store(connection, catch_up="none", overlap="allow")

    fire_all(connection, START + HOUR + 1.0)
    fire_all(connection, START + 2 * HOUR + 1.1)

    assert outcomes(connection) == ["queued", "missed"]


def test_years_of_absence_take_moments(connection):
    store(connection, schedule="* * * * *")
    begin = time.monotonic()

    fire_all(connection, START + 3 * 365 * DAY)

    print(f"three years of minutes: {time.monotonic() - begin:.2f} s")
    assert outcomes(connection).count("queued") == 1 and time.monotonic() - begin < 5


@contextmanager
def scheduler_with(database, clock):
    """A runner whose wall clock is the test's, on a thread of its own."""
    loops = []
    scheduler = Scheduler(database, Config(workers=1), clock=clock)
    thread = threading.Thread(
        target=lambda: asyncio.run(scheduler.run(lambda: loops.append(asyncio.get_running_loop())))
    )
    thread.start()
    try:
        until(lambda: loops)
        yield
    finally:
        loops[0].call_soon_threadsafe(scheduler.stop)
        thread.join(20)


def test_a_runner_that_wakes_from_three_days_of_sleep_makes_one_job_and_ends_none(database, connection):
    jump = [0.0]
    store(connection, now=time.time(), every="1h", queue="nobody")
    with (
        scheduler_with(database, lambda: time.time() + jump[0]),
        SyncClient(database, runner="never") as client,
    ):
        running = client.options(timeout=60).submit(time.sleep, 50)
        until(lambda: running.status() == "running")
        jump[0] = 3 * DAY
        client.options(queue="nobody").submit(abs, -1)  # it looks at the file
        until(lambda: outcomes(connection))
        client.options(queue="nobody").submit(abs, -1)
        time.sleep(0.2)  # long enough to end what is 3 days late

        found = outcomes(connection)
        print(f"a runner after 3 days of sleep: {found.count('queued')} job, the running one is {running.status()}")
        assert (found.count("queued"), found.count("missed"), running.status()) == (1, 71, "running")
        running.cancel()


def test_a_runner_notices_a_sleep_that_nothing_tells_it_of(database, connection, monkeypatch):
    assert scheduler_module.LONGEST_SLEEP <= 30
    monkeypatch.setattr(scheduler_module, "LONGEST_SLEEP", 0.2)
    jump = [0.0]
    store(connection, now=time.time(), every="100d", queue="nobody")
    with scheduler_with(database, lambda: time.time() + jump[0]):
        time.sleep(2.5)  # until the log is written into the database, and nothing is left to do
        jump[0] = 100 * DAY
        until(lambda: outcomes(connection), 5)


# ---- clocks


def test_a_clock_that_is_put_back_makes_no_second_job_of_a_tick(connection):
    clock = [START]
    timetable = Timetable(lambda: ([], set()), Waker(), lambda: clock[0])
    store(connection, every="1m", overlap="allow")
    for minute in [*range(1, 61), *range(30, 91)]:
        clock[0] = START + minute * 60
        timetable.step(connection)

    per_tick = [at for at, outcome in made(connection) if outcome == "queued"]
    assert len(per_tick) == len(set(per_tick)) == 90
    assert len(job_states(connection)) == 90


def test_a_clock_that_jumped_ahead_and_came_back_does_not_end_a_schedule(connection):
    clock = [START]
    timetable = Timetable(lambda: ([], set()), Waker(), lambda: clock[0])
    store(connection, overlap="allow")
    for moment in (START + 100 * DAY, START + HOUR, START + 2 * HOUR):
        clock[0] = moment
        timetable.step(connection)

    queued = [at for at, outcome in made(connection) if outcome == "queued"]
    assert queued[-1] == 2400.0 and next_at(connection) < START + 100 * DAY


def test_a_tick_that_was_missed_in_a_jump_is_made_when_its_time_comes(connection):
    clock = [START]
    timetable = Timetable(lambda: ([], set()), Waker(), lambda: clock[0])
    store(connection, overlap="allow", catch_up="none")
    for moment in (START + 5.5 * HOUR, START + 1.5 * HOUR, START + 2 * HOUR):
        clock[0] = moment
        timetable.step(connection)

    assert dict(made(connection)) == {1: "missed", 2: "queued", 3: "missed", 4: "missed", 5: "missed"}


# ---- earlier jobs that have not ended


@pytest.mark.parametrize(
    ("overlap", "expected", "states"),
    [
        ("skip", ["queued", "skipped", "skipped"], ["running"]),
        ("queue_one", ["queued", "queued", "skipped"], ["running", "blocked"]),
        ("queue_all", ["queued", "queued", "queued"], ["running", "blocked", "blocked"]),
        ("allow", ["queued", "queued", "queued"], ["running", "queued", "queued"]),
        ("replace", ["queued", "queued", "queued"], ["running", "cancelled", "blocked"]),
    ],
)
def test_a_tick_while_an_earlier_job_runs(connection, overlap, expected, states):
    store(connection, overlap=overlap)

    fire(connection, START + HOUR)
    (running,) = claim(connection)
    fire(connection, START + 2 * HOUR)
    fire(connection, START + 3 * HOUR)

    assert outcomes(connection) == expected and job_states(connection) == states
    connection.write(settling.settle, [succeeded(running)])
    while "blocked" in job_states(connection):
        assert job_states(connection).count("queued") == 1
        run_next(connection)


def test_a_skipped_tick_says_which_job_was_in_the_way(connection):
    store(connection)
    fire(connection, START + HOUR)
    claim(connection)
    fire(connection, START + 2 * HOUR)

    assert connection.read(ticks.history, "s", 1)[0].reason == "job 1 was still running"


def test_replace_asks_the_running_job_to_end_and_begins_when_it_has(connection):
    store(connection, overlap="replace")
    fire(connection, START + HOUR)
    (running,) = claim(connection)
    fire(connection, START + 2 * HOUR)

    assert connection.read(cancelling.manner, 1).reason == "replaced by the next job of its schedule"
    connection.write(settling.settle, [failed(running)])
    assert job_states(connection) == ["cancelled", "queued"]


@pytest.mark.parametrize("way", ["succeeded", "failed", "cancelled", "expired"])
def test_however_a_job_ends_the_one_that_waits_for_it_begins(connection, way):
    store(connection, overlap="queue_all")
    fire(connection, START + HOUR)
    if way in ("succeeded", "failed"):
        (running,) = claim(connection)
    fire(connection, START + 2 * HOUR)
    if way in ("succeeded", "failed"):
        connection.write(settling.settle, [succeeded(running) if way == "succeeded" else failed(running)])
    else:
        connection.write(lambda sql: sql.execute(
            "UPDATE job SET state = ?, finished_at = 1 WHERE id = 1", (way,)))  # fmt: skip

    assert job_states(connection) == [way, "queued"]


def test_a_job_that_is_tried_again_counts_as_not_ended(connection):
    store(connection)
    fire(connection, START + HOUR)
    run_next(connection, failed)
    connection.write(cancelling.retry, 1)
    fire(connection, START + 2 * HOUR)

    assert outcomes(connection) == ["queued", "skipped"]


def test_a_job_that_waits_can_be_cancelled_and_those_after_it_still_begin(connection):
    store(connection, overlap="queue_all")
    fire(connection, START + HOUR)
    (running,) = claim(connection)
    fire(connection, START + 2 * HOUR)
    fire(connection, START + 3 * HOUR)
    connection.write(cancelling.cancel, 2, START)
    connection.write(settling.settle, [succeeded(running)])

    assert job_states(connection) == ["succeeded", "cancelled", "queued"]


def test_ticks_that_are_all_made_up_for_come_one_after_the_other(connection):
    store(connection, catch_up="all", overlap="skip")

    fire_all(connection, START + 3.5 * HOUR)

    order = []
    while "queued" in job_states(connection):
        assert job_states(connection).count("queued") == 1
        order.append((run_next(connection).scheduled_for - START) / HOUR)
    assert order == [1, 2, 3]


# ---- registration


def test_what_stands_in_the_file_is_registered_and_what_is_gone_from_it_is_removed(connection):
    connection.write(register, declared(setting("a"), setting("b")), {("file", "/etc/fastworker.toml")}, START)
    connection.write(register, declared(setting("b"), setting("c")), {("file", "/etc/fastworker.toml")}, START)
    assert connection.read(schedules.names) == ["b", "c"]

    connection.write(register, [], {("file", "/home/other/fastworker.toml")}, START)
    assert connection.read(schedules.names) == ["b", "c"]


def test_jobs_of_a_schedule_that_is_removed_still_wait_for_each_other(connection):
    store(connection, overlap="queue_all")
    fire(connection, START + HOUR)
    (running,) = claim(connection)
    fire(connection, START + 2 * HOUR)
    connection.write(schedules.remove, "s")
    assert job_states(connection) == ["running", "blocked"]

    connection.write(settling.settle, [succeeded(running)])
    assert job_states(connection) == ["succeeded", "queued"]


def test_registering_again_moves_no_tick_and_keeps_a_pause(connection):
    store(connection)
    connection.write(set_paused, "s", True, START)
    store(connection, now=START + 5 * HOUR, timeout="1m", overlap="allow", catch_up="all")

    row = connection.read(schedules.get, "s")
    assert (row.tick, row.paused, row.schedule.overlap) == (START + HOUR, 1, "allow")


def test_other_ticks_begin_from_now_on(connection):
    store(connection)
    store(connection, now=START + 5 * HOUR, schedule="30 * * * *")

    assert next_at(connection) == START + 5.5 * HOUR


def test_a_declared_task_is_registered_and_removed_when_it_is_declared_without(connection, monkeypatch):
    registry = TaskRegistry()
    monkeypatch.setattr("fastworker_lite.declarations.task_registry", registry)
    monkeypatch.setattr("fastworker_lite.calls.task_registry", registry)
    task = registry.register(os.getpid, "pid", cron="0 9 * * MON", timezone="Europe/Berlin")
    connection.write(register, *declared_here(Config(), []), START)
    assert connection.read(schedules.get, "pid").origin == "task" and task.schedule.timezone == "Europe/Berlin"

    registry.register(os.getpid, "pid")
    connection.write(register, *declared_here(Config(), []), START)
    assert connection.read(schedules.names) == []


def test_a_task_whose_call_cannot_be_stored_keeps_no_runner_from_its_other_schedules(monkeypatch, caplog):
    registry = TaskRegistry()
    monkeypatch.setattr("fastworker_lite.declarations.task_registry", registry)
    monkeypatch.setattr("fastworker_lite.calls.task_registry", registry)
    registry.register(lambda host="a": host, "bad", every=60, concurrency=1, key="{user}")
    registry.register(os.getpid, "good", every=60)

    assert [new.name for new in declared_here(Config(), [])[0]] == ["good"]
    assert "task bad is not called by the clock" in caplog.text


def test_a_task_that_needs_arguments_cannot_have_a_schedule():
    with pytest.raises(ConfigError, match="without arguments: missing a required argument: 'path'"):
        TaskRegistry().register(lambda path: None, "t", cron="@daily")


def test_old_ticks_are_forgotten_but_not_those_whose_job_has_not_ended(connection):
    store(connection, every="1m", overlap="skip", catch_up="none")
    fire_all(connection, START + 60)
    for minute in range(2, 1502):
        fire(connection, START + minute * 60)
    connection.write(register, [], set(), START + 1502 * 60)

    kept = made(connection)
    assert len(kept) == ticks.MOST_TICKS + 1 and kept[0] == (1 / 60, "queued")


# ---- many


def test_ten_thousand_schedules_due_at_once_are_queued_within_a_second(connection):
    # Some expressions and zones; each schedule has a tick at one o'clock of both days.
    when = [{"schedule": f"0 {hour} {days} * *", "timezone": zone} for days in ("*", "*/1", "24,25", "20-28")
            for hour, zone in ((1, "UTC"), (2, "Europe/Berlin"), (10, "Asia/Tokyo"))]  # fmt: skip
    settings = [setting(f"s{number}", overlap="allow", **when[number % len(when)]) for number in range(10_000)]
    connection.write(register, declared(*settings), set(), START)

    taken = []
    for day in (0, 1):
        begin = time.perf_counter()
        fire_all(connection, START + day * DAY + HOUR)
        taken.append(time.perf_counter() - begin)

    count = len(job_states(connection))
    print(f"10000 schedules due at once: {count // 2} jobs queued in {taken[0]:.2f} s, and again in {taken[1]:.2f} s")
    assert count == 20_000 and min(taken) <= 1.0


# ---- many runners

RACER = """
import mmap, os, struct, sys
from fastworker_lite.schedules import Timetable
from fastworker_lite.sockets import Waker
from fastworker_lite.store.connection import Connection

database, clock_file, done = sys.argv[1:]
with open(clock_file, "rb") as file:
    memory = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
timetable = Timetable(lambda: ([], set()), Waker(), lambda: struct.unpack("d", memory[:8])[0])
connection = Connection(database)
while not os.path.exists(done):
    timetable.step(connection)
"""


def test_eight_schedulers_that_race_and_are_killed_make_each_job_once(connection, database, tmp_path):
    clock_file, done, random_kill = tmp_path / "clock", tmp_path / "done", random.Random(6)
    clock_file.write_bytes(struct.pack("d", START))
    store(connection, every="1m", overlap="allow", catch_up="all", catch_up_window="7d")

    def start():
        return subprocess.Popen(
            [sys.executable, "-c", RACER, database, str(clock_file), str(done)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    racers, kills, begin = [start() for _ in range(8)], 0, time.monotonic()
    with open(clock_file, "r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
        for tick in range(1, 501):
            memory[:8] = struct.pack("d", START + tick * 60)
            time.sleep(0.02)  # time passes here for the kills to fall into
            if tick % 10 == 0:
                victim = random_kill.randrange(8)
                racers[victim].kill()
                racers[victim].wait()
                racers[victim], kills = start(), kills + 1
    while (row := connection.read(schedules.get, "s")).tick <= START + 500 * 60 and time.monotonic() < begin + 50:
        time.sleep(0.05)
    done.touch()
    for racer in racers:
        racer.wait(timeout=20)

    per_tick = connection.read(lambda sql: sql.execute("SELECT scheduled_for, count(*) FROM job GROUP BY 1").fetchall())
    wanted = {START + tick * 60 for tick in range(1, 501)}
    doubled = sum(count - 1 for _, count in per_tick)
    missing = wanted - {at for at, _ in per_tick}
    print(f"500 ticks, 8 schedulers, {kills} kills: {sum(count for _, count in per_tick)} jobs, {len(missing)} missing, "
          f"{doubled} double")  # fmt: skip
    assert row.tick == START + 501 * 60 and not missing and not doubled and len(per_tick) == 500


# ---- the whole


def test_a_runner_makes_the_jobs_of_a_task_and_runs_them(tmp_path):
    script = tmp_path / "app.py"
    script.write_text(
        """
import time
from fastworker_lite import SyncClient, current_job, task

@task(repeat_interval=0.2, repeat_count=3, overlap="allow")
def tick():
    print(current_job().scheduled_for.isoformat())

if __name__ == "__main__":
    with SyncClient("jobs.db", workers=1, runner="own") as client:
        while len(found := client.schedules()) != 1 or found[0].made < 3 or client.handle(3).status() != "succeeded":
            time.sleep(0.05)
        print(*(line for number in (1, 2, 3) for line in client.handle(number).logs()))
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    moments = [datetime.fromisoformat(text) for text in done.stdout.split()]

    assert done.stderr == "" and len(moments) == 3
    assert moments[1] - moments[0] == moments[2] - moments[1] == timedelta(seconds=0.2)


def test_a_schedule_of_the_api_is_made_listed_and_removed(database):
    with SyncClient(database, workers=1, runner="own") as client:
        client.schedule("sum", sum, args=([1, 2],), every=0.2, repeat_count=1)
        client.schedule("env", ["sh", "-c", "env"], every=timedelta(seconds=0.2), repeat_count=1, env={"OWN": "1"})
        assert [one.name for one in client.schedules()] == ["env", "sum"]
        deadline = time.monotonic() + 20
        while {one.made for one in client.schedules()} != {1}:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert client.handle(1).wait(10) and client.handle(2).wait(10)
        by_name = {client.handle(number)._job().name: client.handle(number) for number in (1, 2)}
        assert by_name["sum"].result(10) == 3
        variables = dict(line.split("=", 1) for line in by_name["env"].logs())
        assert client.unschedule("sum") and not client.unschedule("sum")
    assert variables.keys() - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "HOME", "USER", "LOGNAME", "SHELL", "LANG", "PATH", "OWN",
        "FWL_JOB_ID", "FWL_ATTEMPT", "FWL_QUEUE", "FWL_DB", "FWL_SCHEDULED_FOR",
    }  # fmt: skip
    assert variables["PATH"] == "/usr/local/bin:/usr/bin:/bin" and variables["FWL_SCHEDULED_FOR"].endswith("Z")


@pytest.mark.parametrize(
    ("what", "given", "message"),
    [
        (sum, {"cron": "30 25 * * *"}, 'cron: "30 25 * * *": hour 25 is not in 0-23'),
        (sum, {}, "schedule: give either a cron expression"),
        (sum, {"every": 1, "timezone": "Mars/Base"}, "timezone: there is no zone"),
        (sum, {"every": 1, "retires": 1}, 'retires: there is no such setting; did you mean "retries"'),
        (sum, {"every": 1, "cwd": "/"}, "cwd: is for commands"),
        ([], {"every": 1}, "command: must be a list of words"),
        (["a\0b"], {"every": 1}, "command: must be a list of words"),
        (["true"], {"every": 1, "env": {"A=B": "1"}}, "env: must be a table of texts"),
        (["true"], {"every": 1, "env_file": "/nonexistent"}, "env_file: /nonexistent: No such file"),
        (17, {"every": 1}, "a task must be a name"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_stored(database, what, given, message):
    with SyncClient(database, runner="never") as client:
        with pytest.raises(ConfigError) as refused:
            client.schedule("s", what, **given)
        assert message in str(refused.value)
        assert client.schedules() == []


def test_the_api_does_not_change_what_the_file_declares(connection, database):
    store(connection)
    with (
        SyncClient(database, runner="never") as client,
        pytest.raises(ConfigError, match=r"declared in /etc/fastworker.toml"),
    ):
        client.schedule("s", sum, every=1)


def test_every_setting_that_is_wrong_is_found_at_once():
    bad = setting(schedule="61 * * * *", timezone="Nowhere", retires=1, env={"x": 1}, cwd=5, notify=["desktop"])

    new, problems = read_config(Config(cron=(bad, setting("fine"))))

    assert [one.name for one in new] == ["fine"]
    assert {one.field for one in problems} == {"schedule", "timezone", "retires", "env", "cwd", "notify"}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"command": None, "python": "a:b", "args": [datetime(2026, 1, 1)]}, "python"),
        ({"command": None, "python": "a:b", "kwargs": []}, "kwargs"),
        ({"command": ["true"], "shell": "true"}, "shell"),
        ({"command": ["true"], "key": "{host}", "concurrency": 1}, "command"),
        ({"command": ["true"], "unique": "x"}, "unique"),
        ({"command": ["true"], "after": [1]}, "after"),
        ({"command": ["x" * 3_000_000]}, "command"),
    ],
)
def test_a_job_that_cannot_be_is_a_problem_of_its_schedule(given, field):
    table = {key: value for key, value in ({"every": "1h"} | given).items() if value is not None}

    new, problems = read_config(Config(cron=(CronSetting("s", table),)))

    assert new == [] and [one.field for one in problems] == [field]


def test_a_job_made_by_hand_moves_nothing_and_heeds_the_overlap(connection):
    store(connection)

    def by_hand(sql, now):
        return Firing(sql, now).run_now(schedules.get(sql, "s"), schedules.job_of(sql, "s"))[0].outcome

    assert connection.write(by_hand, START + 60) == "queued" and connection.write(by_hand, START + 61) == "skipped"
    assert next_at(connection) == START + HOUR and len(job_states(connection)) == 1


def test_the_probe_finds_what_a_schedule_has_queued(connection):
    store(connection)
    fire(connection, START + HOUR)

    assert connection.probe(jobs.PROBE, {"lane": 0}) is not None
