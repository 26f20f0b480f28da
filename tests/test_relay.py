"""Jobs submitted in a transaction of the application's own database: exactly one if it commits, none if it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import aiosqlite
import pytest

from fastworker_lite import Client, ConfigError, SyncClient
from fastworker_lite.relay import Relay
from fastworker_lite.store import relays
from fastworker_lite.store.connection import Connection
from tests import limit_tasks as tasks
from tests.test_crash import ROOT, RUNNER, lines, start, until


@pytest.fixture(params=["wal", "delete"])
def application(tmp_path, request):
    """The application's own database, in either journal mode."""
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute(f"PRAGMA journal_mode = {request.param}")
    connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT)")
    connection.commit()
    yield connection
    connection.close()


def test_a_job_of_a_transaction_that_commits_runs_once(client, application, tmp_path):
    log = tmp_path / "log"
    with application:
        application.execute("INSERT INTO orders (name) VALUES ('one')")
        key = client.submit_in(application, tasks.record, str(log), 7)
        time.sleep(0.1)
        assert client.find(key) is None, "not before it commits"
    committed = time.monotonic()
    until(lambda: client.find(key) is not None)

    assert client.find(key).result(timeout=20) == 7
    print(f"brought over {time.monotonic() - committed:.3f} s after the commit")
    assert len(lines(log)) == 2
    assert application.execute("SELECT count(*) FROM fastworker_submitted").fetchone() == (0,)


def test_no_job_is_left_of_a_transaction_that_rolls_back(client, application, tmp_path):
    log = tmp_path / "log"
    with pytest.raises(ZeroDivisionError), application:
        client.submit_in(application, tasks.record, str(log), "rolled back")
        1 / 0  # noqa: B018
    with application:
        key = client.submit_in(application, tasks.record, str(log), "committed")
    until(lambda: client.find(key) is not None)

    assert client.find(key).result(timeout=20) == "committed"
    assert {line.split()[3] for line in lines(log)} == {"committed"}


def test_what_is_committed_while_nobody_runs_is_brought_over_by_the_next_runner(database, application, tmp_path):
    with SyncClient(database, runner="never") as client, application:
        key = client.options(priority="high", queue="io", lock="l").submit_in(application, tasks.add, 1)
    with SyncClient(database, workers=1, runner="own") as client:
        until(lambda: client.find(key) is not None)
        assert client.find(key).result(timeout=20) == 2
        row = client._call(
            Connection.read, lambda sql: sql.execute("SELECT priority, queue, limits FROM job").fetchone()
        )
    assert row == (10, "io", '[["lock l", 1, null]]')


def test_a_row_that_was_stored_but_not_deleted_is_not_stored_again(database, application):
    """The runner died between its own commit and the application's."""
    with SyncClient(database, runner="never") as client:
        with application:
            client.submit_in(application, abs, 1)
        saved = application.execute("SELECT * FROM fastworker_submitted").fetchall()
        relay, connection = Relay(time.time), Connection(database)
        assert relay.look(connection) == (1, None)
        with application:
            application.executemany("INSERT INTO fastworker_submitted VALUES (?, ?, ?, ?)", saved)

        assert relay.look(connection) == (1, None)

        count = connection.read(lambda sql: sql.execute("SELECT count(*) FROM job").fetchone()[0])
        relay.close()
        connection.close()
    assert count == 1


def test_runners_that_are_killed_bring_over_each_job_exactly_once(database, application, tmp_path):
    seed = random.SystemRandom().randrange(1_000_000)
    chance, keys = random.Random(seed), []
    with SyncClient(database, runner="never", durability="normal") as client:
        for _ in range(10):
            with start(RUNNER, database) as process:
                for number in range(20):
                    with contextlib.suppress(KeyError), application:
                        keys.append(client.submit_in(application, abs, number))
                        if chance.random() < 0.3:
                            raise KeyError(keys.pop())
                time.sleep(chance.uniform(0, 0.05))
                os.kill(process.pid, signal.SIGKILL)
        with SyncClient(database, workers=1, runner="own"):
            until(lambda: application.execute("SELECT count(*) FROM fastworker_submitted").fetchone() == (0,))
        stored = client._call(
            Connection.read, lambda sql: [row[0] for row in sql.execute("SELECT idempotency_key FROM job ORDER BY id")]
        )
    print(f"seed {seed}: {len(keys)} committed under 10 kills of the runner, {len(stored)} jobs")
    assert sorted(stored) == sorted(keys)


def test_a_key_can_be_given_and_is_the_same_job_again(client, application):
    with application:
        assert client.options(idempotency_key="order 1").submit_in(application, abs, -5) == "order 1"
    until(lambda: client.find("order 1") is not None)
    assert client.options(idempotency_key="order 1").submit(abs, -5).created is False


def test_on_an_event_loop_with_either_kind_of_connection(database, tmp_path):
    async def use():
        async with Client(database, workers=1, runner="own") as client:
            async with aiosqlite.connect(tmp_path / "app.db") as application:
                first = await client.submit_in(application, abs, -1)
                await application.commit()
            with sqlite3.connect(tmp_path / "app.db") as application:
                second = await client.submit_in(application, abs, -2)
            application.close()
            found = []
            for key in (first, second):
                while (handle := await client.find(key)) is None:
                    await asyncio.sleep(0.01)
                found.append(await handle.result(timeout=20))
            return found

    assert asyncio.run(use()) == [1, 2]


def test_what_could_be_refused_later_is_refused_at_once(client, application):
    for options in ({"after": 1}, {"unique": "k", "on_conflict": "fail"}, {"unique": "k", "debounce": 1}):
        with pytest.raises(ConfigError, match="submit_in takes no"):
            client.options(**options).submit_in(application, abs, 1)
    memory = sqlite3.connect(":memory:")
    with pytest.raises(ConfigError, match="database file"):
        client.submit_in(memory, abs, 1)
    memory.close()


def test_a_source_that_is_gone_or_broken_harms_nobody(client, database, tmp_path):
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 100)
    for path in (tmp_path / "gone.db", tmp_path / "broken.db"):
        client._call(Connection.write, relays.register, str(path))
    with sqlite3.connect(tmp_path / "app.db") as application:
        key = client.submit_in(application, abs, -3)
    application.close()
    until(lambda: client.find(key) is not None)

    assert client.find(key).result(timeout=20) == 3


def test_a_submitter_of_another_process_is_heard(client, database, tmp_path):
    script = (
        "import sqlite3, sys; from fastworker_lite import SyncClient\n"
        "with SyncClient(sys.argv[1], runner='never') as c, sqlite3.connect(sys.argv[2]) as a:\n"
        "    print(c.submit_in(a, abs, -4))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, database, str(tmp_path / "app.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    until(lambda: client.find(done.stdout.strip()) is not None)

    assert client.find(done.stdout.strip()).result(timeout=20) == 4
