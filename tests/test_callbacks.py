"""The sending end of callbacks: each ended job is told, in order, whatever is killed, slow, rude or not there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from itertools import accumulate
from pathlib import Path

import pytest

from fastworker_lite import (
    CallbackListener,
    Client,
    ConfigError,
    SyncCallbackListener,
    SyncClient,
    building,
    callbacks,
    calls,
    registration,
)
from fastworker_lite.callbacks import Limits, Postman, compose
from fastworker_lite.errors import DatabaseBusy
from fastworker_lite.job import Command, Kind, Lane, NewJob, Outcome
from fastworker_lite.options import MAX_CALLBACK_DATA, JobOptions
from fastworker_lite.serialization import MOST_TOLD
from fastworker_lite.sockets import WakeSocket
from fastworker_lite.store import cancelling, jobs, listeners, outbox, runners, settling
from fastworker_lite.store.bridge import AsyncConnection
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.jobs import Wanted
from fastworker_lite.store.runners import Addresses
from fastworker_lite.streams import MAX_CONNECTIONS, MAX_LINE
from fastworker_lite.tasks.models import CallbackInfo
from tests import callback_tasks as tasks
from tests.test_crash import lines, start, until, workers_of

ROOT = Path(__file__).resolve().parent.parent

RUNNER = """
import sys, threading
from fastworker_lite import SyncClient
client = SyncClient(sys.argv[1], workers=1, runner="own", durability="normal")
client.start()
print("started", flush=True)
threading.Event().wait()
"""

#: A runner whose couriers never leave the house.
RUNNER_THAT_TELLS_NOTHING = (
    "import time\nfrom fastworker_lite import streams\nstreams.connect = lambda path: time.sleep(60)" + RUNNER
)

#: Says what it gets, answers so many, and keeps silent then.
LISTENER = """
import json, socket, sys
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
left = int(sys.argv[2])

def listen(connection):
    global left
    for line in connection.makefile("rb"):
        event = json.loads(line)
        print("got", event["event_id"], event["task_id"], flush=True)
        if left == 0:
            print("silent", flush=True)
            sys.stdin.read()
        left -= 1
        connection.sendall(b"ok " + event["event_id"].encode() + b"\\n")
        print("answered", event["event_id"], event["task_id"], flush=True)

while True:
    connection, _ = server.accept()
    try:
        listen(connection)
    except OSError:  # the runner is gone
        pass
"""


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "app.sock")


@pytest.fixture
def connection(database):
    with contextlib.closing(Connection(database, durability="normal")) as connection:
        yield connection


@pytest.fixture(autouse=True)
def no_task_dies_silently(caplog):
    with caplog.at_level(logging.ERROR, "asyncio"):
        yield
        gc.collect()
    said = [
        one.getMessage() for when in ("call", "teardown") for one in caplog.get_records(when) if one.name == "asyncio"
    ]
    assert said == []


@pytest.fixture
def hurried(monkeypatch):
    """Pauses that a test can wait for."""
    for name, seconds in (("FIRST_PAUSE", 0.01), ("LONGEST_PAUSE", 0.08), ("NEWS_PAUSE", 0.04)):
        monkeypatch.setattr(callbacks, name, seconds)


@pytest.fixture
def connects(monkeypatch):
    """When each address was tried."""
    connect, seen = callbacks.streams.connect, {}

    def note(address):
        seen.setdefault(address, []).append(time.monotonic())
        return connect(address)

    monkeypatch.setattr(callbacks.streams, "connect", note)
    return seen


def end_jobs(connection, address, count=1, told='{"result":1}', finished_at=None):
    """Jobs with a callback, ended as their worker would have ended them."""
    now = time.time() if finished_at is None else finished_at
    options = JobOptions(callback=address)
    new = [NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0, options=options)] * count
    wanted = Wanted(worker=1, lane=Lane.SYNC, limit=count, pick=lambda found: found)

    def transact(sql):
        jobs.insert(sql, new, now)
        settling.settle(sql, [Outcome(job, now, now, result=b"J1", told=told) for job in jobs.claim(sql, wanted, now)])

    connection.write(transact)


def query(connection, statement, *parameters):
    return connection.read(lambda sql: sql.execute(statement, parameters).fetchall())


def waiting(connection):
    return query(connection, "SELECT count(*) FROM outbox WHERE dead IS NULL")[0][0]


def dead(connection):
    return {job: reason for _, _, job, _, reason in connection.read(outbox.dead_letters, 1000)}


@contextlib.asynccontextmanager
async def telling(database, **limits):
    """A postman at work, and no runner around him who would send him a second time a second later."""
    connection = AsyncConnection(database)
    await connection.open()
    postman = Postman(connection, Limits(**({"max_age": 604_800.0, "max_events": 100_000} | limits)))
    await postman.open()
    try:
        yield postman
    finally:
        await postman.close()
        await connection.close()


async def come_true(condition, seconds=10.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def acknowledge(event):
    return f"ok {event['event_id']}"


class Ear:
    """A listener as anybody could write one: keeps what it gets, and says what *answer* makes of it."""

    def __init__(self, path, answer=acknowledge):
        self.path, self.answer = path, answer
        self.events, self.connections = [], 0
        self._writers = []

    @property
    def jobs(self):
        return [int(event["task_id"]) for event in self.events]

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._hear, self.path, limit=2 * MAX_LINE)
        return self

    async def _hear(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.events.append(json.loads(line))
                answer = self.answer(self.events[-1])
                if answer is not None:
                    writer.write((answer if isinstance(answer, bytes) else answer.encode()) + b"\n")
                    await writer.drain()
                if isinstance(answer, str) and answer.startswith("error"):
                    break
        writer.close()

    def hang_up(self):
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def __aexit__(self, *_):
        self._server.close()
        self.hang_up()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


@contextlib.contextmanager
def running(code, database):
    """A runner in another process, killed at the end."""
    with start(code, database) as process:
        try:
            assert process.stdout.readline() == "started\n"
            yield process
        finally:
            process.kill()


def cpu_of(pids):
    """Seconds that these processes have been on a CPU."""
    threads = [thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def memory_of(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- one row for each end


def every_way_to_end(client, log):
    """Submit a job for each way in which a job can end, and wait until all have. Returns their handles."""
    told = {"callback": str(log.parent / "app.sock"), "callback_data": {"n": 1}}
    command = building.build_command(
        Command(argv=None, shell="exit 3", cwd="/"), None, JobOptions(**told | {"callback_data": "7"})
    )
    unknown = calls.build_call(
        "nobody_knows", (), {}, JobOptions(callback=told["callback"]), is_parked_if_unknown=False
    )
    ways = {
        "success": client.options(**told).submit(tasks.returns, {"a": [1]}),
        "not JSON": client.options(**told).submit(tasks.returns_what_json_cannot_hold, "set"),
        "failure": client.options(**told).submit(tasks.fails, "no"),
        "third try": client.options(retries=3, **told).submit(tasks.succeeds_at_attempt, 3),
        "timeout": client.options(timeout=0.2, kill_grace=0.1, **told).submit(tasks.sleeps, 60),
        "lost": client.options(on_lost="fail", **told).submit(tasks.dies),
        "cancelled by its task": client.options(**told).submit(tasks.cancels_itself),
        "cancelled when queued": client.options(delay=100, **told).submit(tasks.no_op),
        "expiry": client.options(delay=100, expires=0.2, **told).submit(tasks.no_op),
        "command": client.handle(client._store([command]).ids[0]),
        "unknown task": client.handle(client._store([unknown]).ids[0]),
        "cancelled when running": client.options(priority=-10, **told).submit(tasks.writes_and_sleeps, str(log), 60),
    }
    assert ways["cancelled when queued"].cancel()
    until(lambda: lines(log))
    assert ways["cancelled when running"].cancel()
    assert all(handle.wait(timeout=20) for handle in ways.values())
    return ways


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A file in which a job has ended in each way, and nobody has been told; and which job in which."""
    folder = tmp_path_factory.mktemp("ended")
    with SyncClient(folder / "jobs.db", workers=2, runner="own", durability="normal") as client:
        return str(folder / "jobs.db"), {
            way: one.number for way, one in every_way_to_end(client, folder / "log").items()
        }


def test_each_ended_job_leaves_exactly_one_row_in_the_outbox(ended):
    database, job_of = ended
    with contextlib.closing(Connection(database)) as connection:
        rows = Counter(job for (job,) in query(connection, "SELECT job FROM outbox"))

    print(f"{len(job_of)} ways to end, {sum(rows.values())} rows")
    assert rows == Counter(job_of.values())


def test_what_is_told_of_each_end_has_the_seven_keys_and_says_how_it_was(ended):
    database, job_of = ended
    with (
        SyncClient(database, workers=1, runner="own"),
        SyncCallbackListener(Path(database).parent / "app.sock") as listener,
    ):
        events = {}
        while len(events) < len(job_of):
            events |= {int(event["task_id"]): event for event in listener.poll(10)}
    told = {way: events[job] for way, job in job_of.items()}

    seven = {"task_id", "status", "result", "error", "started_at", "completed_at", "callback_data"}
    assert all(event.keys() >= seven | {"event_id", "task_name", "attempt", "reason"} for event in told.values())
    assert {way: (event["status"], event["result"], event["error"]) for way, event in told.items()} == {
        "success": ("success", {"a": [1]}, None),
        "not JSON": ("success", None, None),
        "failure": ("failure", None, "no"),
        "third try": ("success", 3, None),
        "timeout": ("failure", None, "timed out after 0.2s"),
        "lost": ("failure", None, "lost: worker died, signal 9"),
        "cancelled by its task": ("cancelled", None, "nothing to do"),
        "cancelled when queued": ("cancelled", None, "cancelled"),
        "expiry": ("failure", None, "expired"),
        "command": ("failure", None, "exit 3"),
        "unknown task": ("failure", None, "Task nobody_knows not found"),
        "cancelled when running": ("cancelled", None, "cancelled"),
    }
    assert told["not JSON"]["result_repr"] == "{1}" and "result_repr" not in told["success"]
    assert [told[way]["attempt"] for way in ("success", "third try", "expiry")] == [1, 3, 0]
    assert (told["success"]["callback_data"], told["command"]["callback_data"]) == ({"n": 1}, 7)
    assert told["unknown task"]["callback_data"] is None
    assert told["expiry"]["started_at"] is None
    assert datetime.fromisoformat(told["success"]["completed_at"]).utcoffset() is not None


def test_a_row_is_there_in_the_same_transaction_that_ended_the_job(database, path, connection):
    counts = """
        SELECT (SELECT count(*) FROM job WHERE finished_at IS NOT NULL), (SELECT count(*) FROM outbox)
    """
    seen = set()
    with SyncClient(database, workers=2, runner="own", durability="normal") as client:
        client.options(callback=path).map(tasks.returns, range(1000))
        while (1000, 1000) not in seen:
            seen.add(query(connection, counts)[0])

    print(f"{len(seen)} different moments seen")
    assert len(seen) > 5 and all(ended == told for ended, told in seen)


def test_a_transaction_that_is_rolled_back_ends_nothing_and_tells_nothing(connection, path):
    connection.write(
        jobs.insert,
        [NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0, options=JobOptions(callback=path))],
        1.0,
    )

    def transact(sql):
        cancelling.cancel(sql, 1, 2.0)
        assert not outbox.is_empty(sql)
        raise KeyError

    with pytest.raises(KeyError):
        connection.write(transact)
    assert waiting(connection) == 0
    assert query(connection, "SELECT state FROM job") == [("queued",)]


@pytest.mark.parametrize("data", [{1}, object(), b"x", float("nan"), {(1,): 2}, "x" * MAX_CALLBACK_DATA])
def test_callback_data_that_is_not_json_is_refused_and_nothing_is_stored(database, path, data):
    async def main():
        async with Client(database, runner="never") as client:
            for submit in (
                lambda: client.delay_with_callback("process_data", path, 1, callback_data=data),
                lambda: client.submit_task("process_data", (1,), callback=CallbackInfo(address=path, data=data)),
                lambda: client.options(callback=path, callback_data=data).submit(tasks.no_op),
            ):
                with pytest.raises(ConfigError, match="callback_data"):
                    await submit()

    asyncio.run(main())
    with contextlib.closing(Connection(database)) as connection:
        assert query(connection, "SELECT count(*) FROM job") == [(0,)]


def test_a_callback_to_what_cannot_be_a_socket_is_refused_and_nothing_is_stored(database):
    async def main():
        async with Client(database, runner="never") as client:
            for address in ("http://localhost:80", "tcp://example.org:1", "/" + "x" * 108, 7):
                with pytest.raises(ConfigError):
                    await client.delay_with_callback("process_data", address, 1)
                with pytest.raises(ConfigError):
                    await client.options(callback=address).submit(tasks.no_op)

    asyncio.run(main())
    with contextlib.closing(Connection(database)) as connection:
        assert query(connection, "SELECT count(*) FROM job") == [(0,)]


def test_a_result_that_json_cannot_hold_is_told_as_its_repr(database, path):
    kinds = ["set", "bytes", "nan", "key", "number", "circle", "loud", "long"]
    with SyncClient(database, workers=1, runner="own") as client, SyncCallbackListener(path) as listener:
        client.options(callback=path).map(tasks.returns_what_json_cannot_hold, kinds)
        events = []
        while len(events) < len(kinds):
            events += listener.poll(10)

    events.sort(key=lambda event: int(event["task_id"]))
    shown = {kind: event["result_repr"] for kind, event in zip(kinds, events, strict=True)}
    assert all(event["status"] == "success" and event["result"] is None for event in events)
    assert shown | {"long": len(shown["long"])} == {
        "set": "{1}",
        "bytes": "b'\\xff'",
        "nan": "nan",
        "key": "{(1, 2): 3}",
        "number": "<int: its __repr__ raised ValueError>",
        "circle": "[[...]]",
        "loud": "<Loud: its __repr__ raised RuntimeError>",
        "long": 1000,
    }


@pytest.mark.parametrize("way", ["cancelled", "expired"])
def test_a_job_that_no_worker_ended_is_told_at_once_too(database, path, way):
    with SyncClient(database, workers=1, runner="own") as client, SyncCallbackListener(path) as listener:
        assert client.submit(tasks.no_op).wait(timeout=20)
        options = {"expires": 0.3} if way == "expired" else {}
        handle = client.options(callback=path, delay=100, **options).submit(tasks.no_op)
        if way == "cancelled":
            assert handle.cancel()
        else:
            assert handle.wait(timeout=10)
        began = time.monotonic()
        (event,) = listener.poll(10)

    print(f"told after {(time.monotonic() - began) * 1000:.1f} ms")
    assert event["task_id"] == handle.id
    assert time.monotonic() - began < 0.5, "it was found by looking again"


def test_a_job_that_expires_while_a_command_line_looks_for_its_own_is_told_at_once(database, path, connection):
    with contextlib.closing(WakeSocket(path + ".o")) as outbox_socket:
        where = Addresses("/nobody", "/nobody", "/nobody", outbox_socket.address)
        connection.write(runners.add_runner, "r-none", "0", where, 1, 0.0)  # its lease is free: the command runs here
        late = calls.build_call("nobody", (), {}, JobOptions(callback=path, expires=0.001))
        connection.write(jobs.insert, [late], time.time() - 1)
        words = [sys.executable, "-m", "fastworker_lite", "--db", database, "run", "--", "true"]
        subprocess.run(words, cwd=ROOT, timeout=20, check=True)
        assert query(connection, "SELECT state FROM job WHERE task = 'nobody'") == [("expired",)]
        assert waiting(connection) == 1 and outbox_socket.clear() >= 1


# ---- delivery


def test_ten_thousand_that_waited_come_in_order_and_quickly(database, path, connection):
    end_jobs(connection, path, 10_000)

    async def main():
        ear = Ear(path)
        async with telling(database):
            await asyncio.sleep(0.3)
            async with ear:
                await come_true(lambda: ear.events)
                began = time.monotonic()
                await come_true(lambda: len(ear.events) >= 10_000, 20)
                took = time.monotonic() - began
                await come_true(lambda: not waiting(connection))
        return ear, took

    ear, took = asyncio.run(main())
    print(f"10,000 delivered in {took:.2f} s, {len(ear.events) / took:,.0f}/s, {10_000 - len(set(ear.jobs))} lost")
    assert ear.jobs == list(range(1, 10_001))
    assert len(ear.events) / took >= 5_000


def test_a_backlog_takes_neither_memory_nor_time_of_the_runner(tmp_path, path):
    backlog, nothing = str(tmp_path / "backlog.db"), str(tmp_path / "nothing.db")
    with (
        running(RUNNER, backlog) as one,
        running(RUNNER, nothing) as other,
        SyncClient(backlog, runner="never") as late,
        SyncClient(nothing, runner="never") as quick,
    ):
        until(lambda: workers_of(backlog) and workers_of(nothing))
        pids_of = {late: [one.pid, *workers_of(backlog)], quick: [other.pid, *workers_of(nothing)]}
        for client, pids in pids_of.items():
            cost_of_a_job(client, pids)
        before = memory_of(one.pid)
        late._call(lambda connection: (end_jobs(connection, path, 10_000), registration.tell_soon(connection)))
        quick._call(lambda connection: end_jobs(connection, None, 10_000))
        ratios = []
        for number in range(15):  # whoever comes second finds a warmer machine: they take turns
            cost = {one: cost_of_a_job(one, pids_of[one]) for one in (late, quick)[:: 1 if number % 2 else -1]}
            ratios.append(cost[late] / cost[quick])
        grown = memory_of(one.pid) - before
    print(
        f"10,000 queued: RSS +{grown / 2**20:.1f} MiB, CPU of a job x {statistics.median(ratios):.2f} (median of 15 pairs)"
    )
    assert grown <= 16 * 2**20
    assert statistics.median(ratios) <= 1.1


def cost_of_a_job(client, pids, count=1500):
    """CPU seconds of runner and worker for a job that does nothing."""
    before = cpu_of(pids)
    client.map(tasks.returns, range(count))[-1].wait(timeout=20)
    return (cpu_of(pids) - before) / count


def test_a_job_that_ends_is_told_within_a_millisecond_or_so(database, path):
    async def main():
        listener, took = CallbackListener(path), []
        listener.on()(lambda event: took.append(seconds_since_its_end(event)))
        async with Client(database, workers=1, runner="own", durability="normal") as client, listener:
            listening = asyncio.ensure_future(listener.run())
            for number in range(220):
                await client.delay_with_callback("process_data", path, number)
                await come_true(lambda: len(took) > number)  # noqa: B023
                await asyncio.sleep(0.002)
            listening.cancel()
        return sorted(took[20:])

    took = asyncio.run(main())
    print(f"job ended to listener called: p50 {took[100] * 1000:.2f} ms, p99 {took[198] * 1000:.2f} ms")
    assert took[100] <= 0.003  # 0.7 ms on an idle machine


def test_a_listener_that_reads_a_byte_a_second_delays_no_other(database, path, tmp_path):
    slow = str(tmp_path / "slow.sock")

    async def measure(client, other, count=110):
        """The 99th percentile from a job's end to its listener, while *other* is told as well."""
        listener, took = CallbackListener(path), []
        listener.on()(lambda event: took.append(seconds_since_its_end(event)))
        async with listener:
            listening = asyncio.ensure_future(listener.run())
            for number in range(count):
                await client.delay_with_callback("process_data", path, number)
                more = {"callback": other} if other else {}
                await client.options(**more).submit(tasks.process_data, "x" * 2000)
                await come_true(lambda: len(took) > number)  # noqa: B023
            listening.cancel()
        return sorted(took[10:])[98]  # without the first, which found that it has come back

    async def main():
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(slow)
            server.listen()
            threading.Thread(target=read_a_byte_a_second, args=(server,), daemon=True).start()
            async with Client(database, workers=1, runner="own", durability="normal") as client:
                await measure(client, None)
                return [(await measure(client, None), await measure(client, slow)) for _ in range(3)]

    pairs = asyncio.run(asyncio.wait_for(main(), 40))
    with contextlib.closing(Connection(database)) as connection:
        left = waiting(connection)
    shown = ", ".join(f"{alone * 1000:.1f} and {beside * 1000:.1f}" for alone, beside in pairs)
    print(f"p99 of 100, alone and beside a slow one: {shown} ms; {left} wait for that")
    assert left >= 3 * 109
    assert min(beside for _, beside in pairs) <= max(0.020, 3 * min(alone for alone, _ in pairs))


def seconds_since_its_end(event):
    return time.time() - datetime.fromisoformat(event["completed_at"]).timestamp()


def read_a_byte_a_second(server):
    connection, _ = server.accept()
    with contextlib.suppress(OSError), connection:
        while connection.recv(1):
            time.sleep(1)


def test_no_news_is_missed_whenever_it_comes(database, path, connection):
    """Nobody looks again a second later here: a message that is not noticed at once would wait for ever."""
    rng, late = random.Random(7), []

    async def main():
        async with telling(database) as postman, Ear(path) as ear:
            for _ in range(1500):
                end_jobs(connection, path, rng.choice([1, 1, 2]))
                postman.look_soon()
                if rng.random() < 0.2:
                    continue
                began = time.monotonic()
                await come_true(lambda: len(ear.events) == query(connection, "SELECT max(id) FROM job")[0][0], 5)
                late.append(time.monotonic() - began)
                if rng.random() < 0.3:
                    await asyncio.sleep(rng.uniform(0, 0.001))
        return ear

    ear = asyncio.run(main())
    print(f"1,500 times, {len(ear.jobs)} messages, the latest after {max(late) * 1000:.0f} ms")
    assert ear.jobs == sorted(set(ear.jobs))


def test_what_comes_while_its_listener_is_there_is_told_without_a_new_connection(database, path, connection):
    async def main():
        async with telling(database) as postman, Ear(path) as ear:
            for number in range(1, 20):
                end_jobs(connection, path)
                postman.look_soon()
                await come_true(lambda: len(ear.events) == number)  # noqa: B023
            return ear.connections

    assert asyncio.run(main()) == 1


def test_a_courier_goes_home_when_its_listener_does_and_nothing_waits(database, path, connection, hurried):
    async def main():
        async with telling(database) as postman:
            for number in (1, 2):
                end_jobs(connection, path)
                postman.look_soon()
                async with Ear(path) as ear:
                    await come_true(lambda: ear.events and not waiting(connection))
                    assert ear.jobs == [number] and len(postman._couriers) == 1
                await come_true(lambda: not postman._couriers)

    asyncio.run(main())


def test_what_is_for_no_socket_is_left_alone(database, connection, connects):
    connection.write(listeners.register, "hooks", "hooks", "*", None, listeners.ENDS, None, 0.0)
    end_jobs(connection, None)

    async def main():
        async with telling(database):
            await asyncio.sleep(0.2)

    asyncio.run(main())
    assert waiting(connection) == 1 and connects == {}


# ---- killed


def test_nothing_is_lost_when_listeners_are_killed_between_receiving_and_answering(database, path, connection, hurried):
    rng, said = random.Random(11), []
    end_jobs(connection, path, 1000)

    async def main():
        async with telling(database):
            for _ in range(50):
                said.extend(await asyncio.to_thread(listen_until_killed, path, rng.randrange(25)))
            said.extend(await asyncio.to_thread(listen_until_killed, path, 10_000, lambda: not waiting(connection)))
            await come_true(lambda: not waiting(connection))

    asyncio.run(main())
    got, answered = words(said, "got"), words(said, "answered")
    ids = {}
    for event_id, job in got:
        ids.setdefault(job, set()).add(event_id)
    print(
        f"50 kills: {1000 - len({job for _, job in answered})} lost, {len(got) - len(ids)} duplicates, all with the same id"
    )
    assert {int(job) for _, job in answered} == set(range(1, 1001))
    assert all(len(of_one) == 1 for of_one in ids.values())
    assert len(got) - len(ids) >= 50
    first = list(dict.fromkeys(int(job) for _, job in got))
    assert first == sorted(first), "the order was lost at a reconnect"


def listen_until_killed(path, count, is_over=None):
    """What a listener said that answered *count* events, and was killed when it had the next one."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    command = [sys.executable, "-S", "-E", "-c", LISTENER, path, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        said = []
        if is_over is not None:
            until(lambda: os.path.exists(path))
            threading.Thread(target=lambda: (until(is_over, 50), listener.kill()), daemon=True).start()
        for line in listener.stdout:
            if line == "silent\n":
                break
            said.append(line.split())
        listener.kill()
    return said


def words(said, word):
    return [tuple(rest) for first, *rest in said if first == word]


def test_nothing_is_lost_when_runners_are_killed_between_ending_a_job_and_telling(database, path):
    rng, said, is_over = random.Random(13), [], threading.Event()
    listening = threading.Thread(target=lambda: said.extend(listen_until_killed(path, 10_000, is_over.is_set)))
    listening.start()
    with SyncClient(database, runner="never") as client:
        for number in range(20):
            with running(RUNNER_THAT_TELLS_NOTHING if number % 2 else RUNNER, database):
                handle = client.options(callback=path).submit(tasks.returns, number)
                assert handle.wait(timeout=20)
                time.sleep(0 if number % 2 else rng.uniform(0, 0.003))
        left = client._call(waiting)
        with running(RUNNER, database):
            until(lambda: not client._call(waiting))
        is_over.set()
        listening.join()
    got = words(said, "got")
    told, ids = [int(job) for _, job in got], {event_id for event_id, _ in got}
    print(
        f"20 kills: {left} left for the last runner, {20 - len(set(told))} lost, {len(told) - len(ids)} duplicates, same id"
    )
    assert sorted(set(told)) == list(range(1, 21)) and len(ids) == 20
    assert told == sorted(told), "the order was lost at a reconnect"


def test_a_standby_delivers_what_the_leader_left(database, path):
    with running(RUNNER_THAT_TELLS_NOTHING, database) as leader, SyncClient(database, workers=1) as standby:
        assert standby.options(callback=path).submit(tasks.returns, 1).wait(timeout=20)
        with SyncCallbackListener(path) as listener:
            assert listener.poll(0.3) == []
            leader.kill()
            began = time.monotonic()
            (event,) = listener.poll(20)
    print(f"the standby told {time.monotonic() - began:.2f} s after the leader's death")
    assert event["result"] == 1


def test_a_runner_that_stops_tells_of_the_last_job(database, path):
    with SyncCallbackListener(path) as listener:
        for number in range(5):
            with SyncClient(database, workers=1, runner="own") as client:
                handle = client.options(callback=path).submit(tasks.returns, number)
                assert handle.wait(timeout=20)
                client._runner.stop()
                (event,) = listener.poll(5)
                assert event["result"] == number
                listener.poll(0.05)


@pytest.mark.parametrize("kind", ["dead", "deaf"])
def test_a_runner_stops_in_time_with_messages_that_nobody_takes_and_keeps_them(database, path, connection, kind):
    with SyncClient(database, workers=1, runner="own"):
        pass
    end_jobs(connection, path, 2000, told=json.dumps({"result": "x" * 1000}))
    took = []
    for address in (None, path):
        with contextlib.ExitStack() as stack:
            if address and kind == "deaf":
                server = stack.enter_context(socket.socket(socket.AF_UNIX))
                server.bind(path)
                server.listen()
            elif address is None:
                connection.write(lambda sql: sql.execute("UPDATE outbox SET dead = 'put aside'"))
            client = SyncClient(database, workers=1, runner="own")
            client.start()
            assert client.submit(tasks.no_op).wait(timeout=20)
            connection.write(outbox.redeliver, path) if address else None
            registration.tell_soon(connection)
            time.sleep(0.3)
            began = time.monotonic()
            client.close()
            took.append(time.monotonic() - began)
    print(
        f"stopped in {took[0]:.2f} s with nothing to tell, in {took[1]:.2f} s with 2,000 messages for a {kind} listener"
    )
    assert took[1] - took[0] <= 1.7  # 1.2 on an idle machine
    assert waiting(connection) == 2000


# ---- not there


def test_pauses_grow_to_a_minute(connects):
    pauses = list(accumulate(range(12), lambda pause, _: callbacks.longer(pause), initial=callbacks.FIRST_PAUSE))
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8] and pauses[9:] == [51.2, 60.0, 60.0, 60.0]
    assert callbacks.longer(60.0) == 60.0

    quickest = sum(1 for moment in accumulate([*pauses, *[60.0] * 1800]) if 0.8 * moment < 86_400)
    print(f"a listener that is never there is tried {quickest} times in 24 h at most")
    assert quickest <= 1_810


def test_the_pauses_of_a_courier_are_those(database, path, connection, connects, hurried):
    end_jobs(connection, path)

    async def main():
        async with telling(database):
            await come_true(lambda: len(connects.get(path, ())) >= 9)

    asyncio.run(main())
    pauses = [later - sooner for sooner, later in zip(connects[path], connects[path][1:], strict=False)]
    print("pauses of", ", ".join(f"{pause * 1000:.0f}" for pause in pauses), "ms")
    for pause, least in zip(pauses, [0.008, 0.016, 0.032, *[0.064] * 9], strict=False):
        assert least <= pause <= 3 * least + 0.05


def full_socket(path, stack):
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(path)
    server.listen(0)
    stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)


def stale_socket(path, stack):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(path)


def datagram_socket(path, stack):
    stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(path)


OBSTACLES = {
    "nothing": lambda path, stack: None,
    "stale": stale_socket,
    "full": full_socket,
    "file": lambda path, stack: Path(path).write_text(""),
    "folder": lambda path, stack: os.mkdir(path),
    "datagrams": datagram_socket,
    "forbidden": lambda path, stack: None,
}


def test_whatever_is_in_the_way_is_tried_again_and_not_too_often(database, tmp_path, connection, connects, monkeypatch):
    paths = {name: str(tmp_path / f"{name}.sock") for name in OBSTACLES}
    connect = callbacks.streams.connect

    def forbid(path):
        found = connect(path)
        if path == paths["forbidden"]:
            found.close()
            raise PermissionError(13, "Permission denied")
        return found

    async def main(obstacles):
        async with telling(database), contextlib.AsyncExitStack() as ears:
            await ears.enter_async_context(Ear(paths["forbidden"]))
            await asyncio.sleep(1.1)
            counts = {name: len(connects[path]) for name, path in paths.items()}
            obstacles.close()
            for path in paths.values():
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(path) if os.path.isdir(path) else os.unlink(path)
            monkeypatch.setattr(callbacks.streams, "connect", connect)
            there = [await ears.enter_async_context(Ear(path)) for path in paths.values()]
            await come_true(lambda: all(ear.events for ear in there) and not waiting(connection))
            return counts

    monkeypatch.setattr(callbacks.streams, "connect", forbid)
    with contextlib.ExitStack() as obstacles:
        for name, plant in OBSTACLES.items():
            plant(paths[name], obstacles)
            end_jobs(connection, paths[name])
        counts = asyncio.run(main(obstacles))
    print("connects in 1.1 s:", ", ".join(f"{name} {count}" for name, count in counts.items()))
    assert all(3 <= count <= 5 for count in counts.values())
    assert dead(connection) == {}


def test_a_new_message_has_a_resting_listener_tried_again_but_not_all_the_time(
    database, path, connection, connects, monkeypatch
):
    monkeypatch.setattr(callbacks, "FIRST_PAUSE", 60.0)
    monkeypatch.setattr(callbacks, "NEWS_PAUSE", 0.1)

    async def main():
        async with telling(database) as postman:
            for _ in range(50):  # for half a second
                end_jobs(connection, path)
                postman.look_soon()
                await asyncio.sleep(0.01)
            tries = len(connects[path])
            await asyncio.sleep(0.3)
            async with Ear(path) as ear:
                await asyncio.sleep(0.2)
                assert ear.events == []
                end_jobs(connection, path)
                postman.look_soon()
                began = time.monotonic()
                await come_true(lambda: len(ear.events) == 51, 5)
                return tries, time.monotonic() - began

    tries, took = asyncio.run(main())
    print(
        f"50 messages in half a second: {tries} connects; the next one after a pause was noticed in {took * 1000:.0f} ms"
    )
    assert 2 <= tries <= 7
    assert took < 0.5


def test_a_listener_that_was_away_when_its_messages_were_taken_back_hears_the_next_one(
    database, path, connection, connects, hurried
):
    connection.write(listeners.register, "app", path, "*", None, listeners.ENDS, None, 0.0)
    end_jobs(connection, None)

    async def main():
        async with telling(database) as postman:
            await come_true(lambda: len(connects.get(path, ())) >= 4)
            connection.write(lambda sql: sql.execute("DELETE FROM outbox"))
            await asyncio.sleep(0.2)
            async with Ear(path) as ear:
                end_jobs(connection, None)
                postman.look_soon()
                await come_true(lambda: ear.jobs == [2])

    asyncio.run(main())


def test_the_order_is_kept_across_reconnects(database, path, connection, hurried):
    end_jobs(connection, path, 500)
    rng = random.Random(3)

    async def main():
        async with telling(database), Ear(path) as ear:
            ear.answer = lambda event: acknowledge(event) if rng.random() < 0.5 else None
            for _ in range(12):
                await asyncio.sleep(0.02)
                ear.hang_up()
            ear.answer = acknowledge
            ear.hang_up()
            await come_true(lambda: not waiting(connection))
            return ear

    ear = asyncio.run(main())
    first = list(dict.fromkeys(ear.jobs))
    print(f"{ear.connections} connections, {len(ear.jobs)} messages of 500, in order")
    assert first == list(range(1, 501)) and len({event["event_id"] for event in ear.events}) == 500


# ---- given up


def test_what_is_too_old_or_too_much_is_given_up_and_can_be_redelivered(database, path, connection, hurried):
    now = 1_000_000.0
    for age in (100, 90, 9, 8, 7, 6, 5):
        end_jobs(connection, path, finished_at=now - age)
    clock = [now]

    async def main():
        async with telling(database, max_age=10.0, max_events=4, clock=lambda: clock[0]) as postman:
            await come_true(lambda: len(dead(connection)) == 3)
            assert dead(connection) == {1: "too old", 2: "too old", 3: "too many"}
            clock[0] += 3.5
            await come_true(lambda: len(dead(connection)) == 5)
            assert waiting(connection) == 2
            async with Ear(path) as ear:
                await come_true(lambda: ear.jobs == [6, 7] and not waiting(connection))
                assert connection.write(outbox.redeliver, path) == 5
                postman.look_soon()
                await come_true(lambda: ear.jobs == [6, 7, 1, 2, 3, 4, 5])
                await come_true(lambda: connection.read(outbox.backlogs) == [])

    asyncio.run(main())


def test_a_listener_that_is_connected_and_silent_or_paused_keeps_no_more_than_others(path, connection):
    """Whatever keeps the messages there: the leader gives up what is too old, or too much, for each address."""
    connection.write(listeners.register, "held", path + "-held", "*", None, listeners.ENDS, None, 0.0)
    connection.write(listeners.set_paused, "held", True)
    for age in (100, 90, 9, 8, 7, 6, 5):
        end_jobs(connection, path, finished_at=1000.0 - age)

    assert connection.write(outbox.give_up_overdue, 990.0, 4) == 6

    rows = connection.read(lambda sql: sql.execute("SELECT address, dead FROM outbox ORDER BY id").fetchall())
    for address, alive in ((path, None), (path + "-held", "paused")):
        assert [dead for name, dead in rows if name == address] == ["too old", "too old", "too many", *[alive] * 4]
    assert connection.write(outbox.give_up_overdue, 990.0, 4) == 0


def test_dead_letters_do_not_stay_for_ever(path, connection):
    for age in (100, 90, 9, 8, 7):
        end_jobs(connection, path, finished_at=1000.0 - age)
    connection.write(outbox.give_up_overdue, 1000.0, 100)
    end_jobs(connection, path, finished_at=1.0)

    assert connection.write(outbox.forget_dead, 950.0, 2) == 3
    assert connection.write(outbox.forget_dead, 950.0, 2) == 0

    assert (len(connection.read(outbox.dead_letters, 100)), waiting(connection)) == (2, 1)


def test_a_refused_message_is_given_up_and_the_rest_goes_on(database, path, connection):
    end_jobs(connection, path, 100)
    answer = lambda event: "error not today" if int(event["task_id"]) % 20 == 7 else acknowledge(event)  # noqa: E731

    async def main():
        async with telling(database), Ear(path, answer) as ear:
            await come_true(lambda: not waiting(connection))
            return ear

    ear = asyncio.run(main())
    print(f"5 of 100 refused: {ear.connections} connections, {len(ear.jobs)} messages sent")
    assert dead(connection) == dict.fromkeys([7, 27, 47, 67, 87], "refused: not today")
    assert list(dict.fromkeys(ear.jobs)) == list(range(1, 101))


def test_no_message_is_given_up_for_another_that_was_refused(database, path, connection, hurried):
    """A listener answers late what it handles, and at once what it cannot read: the refused one is not the oldest."""
    end_jobs(connection, path, 40)
    end_jobs(connection, path, told='{"result":' + "[" * 100_000 + "]" * 100_000 + "}")
    end_jobs(connection, path, 40)
    handled = []

    async def main():
        listener = CallbackListener(path)

        @listener.on()
        async def handle(event):
            await asyncio.sleep(0.001)
            handled.append(int(event["task_id"]))

        async with telling(database), listener:
            listening = asyncio.ensure_future(listener.run())
            await come_true(lambda: not waiting(connection))
            listening.cancel()

    asyncio.run(main())
    assert dead(connection) == {41: "refused: nested too deep"}
    assert handled == [*range(1, 41), *range(42, 82)]


def test_a_listener_without_room_for_us_is_tried_again_and_nothing_is_given_up(database, path, connection, hurried):
    end_jobs(connection, path, 3)

    async def main():
        async with CallbackListener(path) as listener, contextlib.AsyncExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                reader, writer = await asyncio.open_unix_connection(path)
                stack.callback(writer.close)
                writer.write(b"ping\n")
                assert await reader.readline() == b"pong\n"
            async with telling(database):
                await asyncio.sleep(0.3)
                assert waiting(connection) == 3
                await stack.aclose()
                assert [int((await anext(listener))["task_id"]) for _ in range(3)] == [1, 2, 3]

    asyncio.run(asyncio.wait_for(main(), 20))
    assert dead(connection) == {}


# ---- whatever happens


ODD_ANSWERS = [
    *(
        b"",
        b"ok",
        b"ok ",
        b"ok nobody",
        b"OK 1",
        b"\xff\xfe\x00",
        b"okay 1",
        b"pong",
        b"{}",
        b"ok 1 2 3",
        b"x" * (MAX_LINE + 2),
    ),
]


def test_odd_answers_change_nothing(database, path, connection, hurried):
    end_jobs(connection, path, 3 * len(ODD_ANSWERS))
    odd = iter(ODD_ANSWERS)

    def answer(event):
        said = next(odd, None) if int(event["task_id"]) % 3 == 0 else None
        return (b"" if said is None else said + b"\n") + acknowledge(event).encode()

    async def main():
        async with telling(database), Ear(path, answer) as ear:
            await come_true(lambda: not waiting(connection))
            return ear

    ear = asyncio.run(main())
    assert list(dict.fromkeys(ear.jobs)) == list(range(1, 3 * len(ODD_ANSWERS) + 1))
    assert dead(connection) == {} and next(odd, None) is None


@pytest.mark.parametrize("function", ["addresses", "pending", "remove", "give_up", "overdue", "compose"])
@pytest.mark.parametrize("error", [DatabaseBusy("busy"), RuntimeError("a fault of ours")], ids=["busy", "fault"])
def test_a_courier_survives_whatever_is_raised(database, path, connection, hurried, monkeypatch, function, error):
    module = callbacks if function == "compose" else outbox
    real, calls = getattr(module, function), []

    def fails_now_and_then(*given):
        calls.append(1)
        if len(calls) in (1, 2, 4):
            raise error
        return real(*given)

    monkeypatch.setattr(module, function, fails_now_and_then)
    monkeypatch.setattr(callbacks, "LOOK_AGAIN", 0.01)
    end_jobs(connection, path, 20)
    answer = lambda event: "error no" if event["task_id"] == "5" else acknowledge(event)  # noqa: E731

    async def main():
        async with telling(database):
            await asyncio.sleep(0.1)
            async with Ear(path, answer) as ear:
                await come_true(lambda: not waiting(connection))
                return ear

    ear = asyncio.run(main())
    assert calls and dead(connection) == {5: "refused: no"}
    assert list(dict.fromkeys(ear.jobs)) == list(range(1, 21))


def test_an_id_is_not_given_before_the_files_name_is_known(database, path, connection, monkeypatch):
    end_jobs(connection, path)
    name, real = connection.read(outbox.database_id), outbox.database_id

    async def main():
        opened = AsyncConnection(database)
        await opened.open()
        postman = Postman(opened, Limits(1e9, 1000))
        async with Ear(path) as ear:
            monkeypatch.setattr(outbox, "database_id", busy)
            with pytest.raises(DatabaseBusy):
                await postman.open()
            postman.look_soon()
            await asyncio.sleep(0.1)
            monkeypatch.setattr(outbox, "database_id", real)
            await postman.open()
            await come_true(lambda: ear.events)
            await postman.close()
            await opened.close()
            return ear.events

    def busy(_):
        raise DatabaseBusy("busy")

    assert [event["event_id"] for event in asyncio.run(main())] == [f"{name}-1"]


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_no_message_is_longer_than_a_listener_takes(database, path, connection, state):
    astral = "\U0001f600"
    longest = {
        "state": state,
        "task": astral * 1_000_000,
        "reason": astral * 1_000_000,
        "error": astral * 1_000_000,
        "data": json.dumps("x" * (MAX_CALLBACK_DATA - 2)),
        "told": '{"result":' + json.dumps("x" * (MOST_TOLD - 2)) + "}",
    }
    end_jobs(connection, path)
    connection.write(
        lambda sql: sql.execute(
            "UPDATE outbox SET state=:state, task=:task, reason=:reason, error=:error, data=:data, told=:told", longest
        )
    )
    (message,) = connection.read(outbox.pending, path, 0, 1)

    async def main():
        async with telling(database), CallbackListener(path) as listener:
            return await anext(listener)

    event = asyncio.run(asyncio.wait_for(main(), 10))
    size = len(compose("x" * 40, message))
    print(f"the longest line of a job that {state} has {size:,} bytes of {MAX_LINE:,}")
    assert size <= MAX_LINE
    assert len(event["callback_data"]) == MAX_CALLBACK_DATA - 2
    assert event["result"] == ("x" * (MOST_TOLD - 2) if state == "succeeded" else None)


def test_the_largest_result_and_the_largest_data_are_told_whole(database, path):
    result, data = "x" * (MOST_TOLD - 2), "y" * (MAX_CALLBACK_DATA - 2)
    with SyncClient(database, workers=1, runner="own") as client, SyncCallbackListener(path) as listener:
        client.options(callback=path, callback_data=data).submit(tasks.returns, result)
        (event,) = listener.poll(20)
    assert event["result"] == result and event["callback_data"] == data


def test_large_messages_come_through_a_small_window(database, path, connection):
    end_jobs(connection, path, 60, told='{"result":"' + "x" * 400_000 + '"}')

    async def main():
        async with telling(database), Ear(path) as ear:
            await come_true(lambda: not waiting(connection), 20)
            return ear.jobs

    assert asyncio.run(main()) == list(range(1, 61))


# ---- registered listeners


def test_a_paused_listener_gets_what_has_gathered_when_it_is_resumed_and_an_unregistered_one_nothing(database, path):
    async def main():
        async with Client(database, workers=1, runner="own") as client, Ear(path) as ear, Ear(path + "2") as other:
            await client.register_listener(path, name="app")
            await client.register_listener(path + "2", name="other")
            connection = await client._open()
            await client.submit(tasks.returns, 1)
            await come_true(lambda: ear.events and other.events)
            assert await connection.write(listeners.set_paused, "app", True)
            for number in (2, 3):
                await client.submit(tasks.returns, number)
            await come_true(lambda: len(other.events) == 3)
            backlogs = {one.address: one.waiting for one in await connection.read(outbox.backlogs)}
            assert len(ear.events) == 1 and backlogs[path] == 2
            assert await connection.write(outbox.redeliver, path) == 0
            assert await connection.write(listeners.set_paused, "app", False)
            await come_true(lambda: len(ear.events) == 3)
            assert [event["result"] for event in ear.events] == [1, 2, 3]

            assert await connection.write(listeners.set_paused, "app", True)
            await client.submit(tasks.returns, 4)
            await come_true(lambda: len(other.events) == 4)
            assert await client.unregister_listener("app") and not await client.unregister_listener("app")
            assert path not in {one.address for one in await connection.read(outbox.backlogs)}
            assert not await connection.write(listeners.set_paused, "app", False)
            assert [one.name for one in await client.listeners()] == ["other"]

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_backlog_of_a_paused_listener_costs_nothing_to_those_who_look(path, connection):
    connection.write(listeners.register, "app", path, "*", None, listeners.ENDS, None, 0.0)
    took = []
    for is_paused in (False, True):
        connection.write(listeners.set_paused, "app", is_paused)
        end_jobs(connection, None, 5_000)
        connection.write(listeners.set_paused, "app", True)
        began = time.perf_counter()
        for _ in range(50):
            assert connection.read(outbox.addresses) == [] and connection.read(outbox.pending, path, 0, 1) == []
        took.append((time.perf_counter() - began) / 50)
    print(f"a look with 5,000 and 10,000 held: {took[0] * 1e6:.0f} and {took[1] * 1e6:.0f} µs")
    assert max(took) < 0.001
    connection.write(listeners.set_paused, "app", False)
    assert connection.read(outbox.addresses) == [(path, 10_000)]


def test_a_listener_that_is_registered_anew_gets_what_waits_at_its_new_address(path, connection):
    connection.write(listeners.register, "app", path, "*", None, listeners.ENDS, None, 0.0)
    end_jobs(connection, path, 2)
    connection.write(listeners.register, "app", path + "2", "*", None, listeners.ENDS, None, 0.0)
    assert [(one.address, one.waiting) for one in connection.read(outbox.backlogs)] == [(path, 2), (path + "2", 2)]


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_listener_that_registers_while_a_job_runs_is_told_its_result_at_once(database, path, tmp_path, kind):
    log, gate = tmp_path / "log", tmp_path / "gate"
    task = tasks.waits_for if kind == "function" else tasks.waits_for_in_a_coroutine
    with SyncClient(database, workers=1, runner="own") as client, SyncCallbackListener(path) as listener:
        client.submit(task, str(log), str(gate), 42)
        until(lambda: lines(log))
        client.register_listener(path)
        gate.write_text("")
        began = time.monotonic()
        (event,) = listener.poll(10)
    assert event["result"] == 42
    assert time.monotonic() - began < 0.8, "it was found by looking again"


def test_a_listener_is_told_of_the_tasks_queues_and_ends_it_asked_for(database, path):
    async def main():
        async with Client(database, workers=1, runner="own") as client, Ear(path) as ear:
            name = tasks.returns.__module__ + ":returns"
            await client.register_listener(path, task=name, on="success", name="all of one")
            await client.register_listener(
                "unix://" + path, queue="other", on=("failure", "cancelled"), name="one queue"
            )
            assert await client.register_listener(path, task="[xy]*") == path
            handles = [
                await client.submit(tasks.returns, 1),
                await client.submit(tasks.fails, "no"),
                await client.options(queue="other").submit(tasks.fails, "no"),
                await client.options(queue="other").submit(tasks.no_op),
                await client.options(queue="other").submit(tasks.cancels_itself),
                await client.options(callback=path).submit(tasks.returns, 2),
            ]
            for handle in handles:
                await handle.wait(timeout=20)
            await come_true(lambda: len(ear.events) >= 5)
            await asyncio.sleep(0.1)
            order = [handle.id for handle in handles]
            return sorted((order.index(event["task_id"]), event["status"]) for event in ear.events)

    assert asyncio.run(asyncio.wait_for(main(), 30)) == [
        (0, "success"),
        (2, "failure"),
        (4, "cancelled"),
        (5, "success"),
        (5, "success"),
    ]
