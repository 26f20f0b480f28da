"""What is kept of ended jobs, and how the rest goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fastworker_lite import SyncClient, retention, scheduler
from fastworker_lite.settings import Keep
from fastworker_lite.store import outbox
from tests import ending_tasks as tasks

DAY = 86400.0
DEFAULT = Keep()


@pytest.fixture
def client(tmp_path):
    with SyncClient(tmp_path / "jobs.db", workers=2, runner="own", durability="normal") as client:
        yield client


def age(client, days, *handles):
    def transact(sql):
        for handle in handles:
            sql.execute("UPDATE job SET finished_at = finished_at - ? WHERE id = ?", (days * DAY, handle.number))

    client._call(lambda connection: connection.write(transact))


def prune(client, keep=DEFAULT, **more):
    def run(connection):
        results = None if keep.results is None else time.time() - keep.results
        return sum(
            retention.prune(connection, retention.moments(keep, time.time()), keep.jobs, results_before=results, **more)
        )

    return client._call(run)


def is_there(client, handle):
    return handle.number in client._call(
        lambda connection: {row[0] for row in connection.read(lambda sql: sql.execute("SELECT id FROM job").fetchall())}
    )


def test_each_state_is_kept_for_its_own_time_and_goes_with_its_logs(client):
    good, bad, fresh = client.submit(tasks.talks, "x"), client.submit(tasks.raises_key_error), client.submit(abs, -1)
    waiting = client.options(delay=1000).submit(abs, -1)
    for handle in (good, bad, fresh):
        assert handle.wait(timeout=10)
    log = Path(client._call(lambda connection: connection.paths.log(good.number, 1, "out")))
    assert log.exists()
    age(client, 10, good, bad)

    assert prune(client, is_dry=True) == 1 and is_there(client, good)
    assert prune(client) == 1
    assert [is_there(client, one) for one in (good, bad, fresh, waiting)] == [False, True, True, True]
    assert not log.exists()
    age(client, 30, bad)
    assert prune(client) == 1 and not is_there(client, bad)


def test_of_more_than_so_many_the_oldest_go_and_no_id_is_given_twice(client):
    handles = client.map(abs, range(50))
    assert all(handle.wait(timeout=10) for handle in handles)

    prune(client, Keep(jobs=10))
    left = [handle.number for handle in handles if is_there(client, handle)]
    assert left == [handle.number for handle in handles[-10:]]
    prune(client, Keep(succeeded=0.0))
    assert client.submit(abs, -1).number == 51


def test_a_job_stays_until_its_listener_was_told(client, tmp_path):
    handle = client.options(callback=str(tmp_path / "nobody.sock")).submit(abs, -1)
    assert handle.wait(timeout=10)
    client.submit(abs, -1).wait(timeout=10)
    age(client, 100, handle)

    assert prune(client) == 0 and is_there(client, handle)
    client._call(lambda connection: connection.write(outbox.remove, [1]))
    assert prune(client) == 1 and not is_there(client, handle)


def test_results_may_go_before_their_jobs(client):
    old, fresh = client.submit(abs, -7), client.submit(abs, -8)
    assert old.result(timeout=10) == 7 and fresh.result(timeout=10) == 8
    age(client, 2, old)

    prune(client, Keep(results=DAY))
    assert old.result(timeout=10) is None and fresh.result(timeout=10) == 8


def test_the_file_shrinks_when_much_has_gone(tmp_path):
    database = tmp_path / "jobs.db"
    with SyncClient(database, workers=2, runner="own", durability="normal") as client:
        handles = client.map(len, [b"x" * 20_000] * 500)
        assert all(handle.wait(timeout=20) for handle in handles)
    before = os.path.getsize(database)
    with SyncClient(database, runner="never") as client:
        assert prune(client, Keep(succeeded=0.0)) == 499  # the highest id outlives all
        for _ in range(20):
            client._call(lambda connection: connection.vacuum())
        client._call(lambda connection: connection.checkpoint())
    assert os.path.getsize(database) < before / 5


def test_the_runner_that_leads_removes_what_is_old_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "FIRST_PRUNE", 0.3)
    monkeypatch.setattr(scheduler, "PRUNE_EVERY", 0.3)
    database = tmp_path / "jobs.db"
    with SyncClient(database, workers=1, runner="own", keep={"succeeded": 0.5, "failed": "1d"}) as client:
        good, bad, last = client.submit(abs, -1), client.submit(tasks.raises_key_error), client.submit(abs, -2)
        assert all(handle.wait(timeout=10) for handle in (good, bad, last))
        deadline = time.monotonic() + 10
        while is_there(client, good):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert is_there(client, bad) and is_there(client, last)  # the newest outlives all
