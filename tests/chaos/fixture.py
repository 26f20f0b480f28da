"""Writes a database of the present version with a job in every state: `python -m tests.chaos.fixture FILE.db`.

One is to be kept, as tests/fixtures/schema-N.db.gz, for each schema that a release has had: whatever opens them must go on to.

Runs in: the testing process.
"""

from __future__ import annotations

import sqlite3
import sys
import time

from fastworker_lite import Retry, SyncClient, execution, task
from fastworker_lite.exchange import Exchange, Report
from fastworker_lite.job import Lane, State
from fastworker_lite.leases import ProcessIdentity
from fastworker_lite.sockets import Waker
from fastworker_lite.store import due, runners
from fastworker_lite.store.connection import Connection


@task("fixture.double")
def double(value):
    return 2 * value


@task("fixture.fail", retries=0)
def fail(text):
    raise ValueError(text)


@task("fixture.retry")
def retry():
    raise Retry(after=3600)


def write(path):
    """A database at *path*, in one file. Returns the state of each job, by id."""
    connection = Connection(path)
    gone = ProcessIdentity(1, "0", "another boot", "another namespace").text()
    worker = connection.write(runners.add_worker, "w-gone", None, Lane.SYNC, gone, time.time())
    with SyncClient(path, runner="never") as client:
        client.options(tags={"of": "fixture"}, callback="unix:///nowhere.sock").submit("fixture.double", 21)
        client.submit("fixture.fail", "on purpose")
        client.submit("fixture.retry")
        _work(connection, worker, 3)
        client.submit("fixture.double", 1)
        _work(connection, worker, 1, is_reported=False)
        client.submit("fixture.double", 2).cancel()
        client.options(expires=0.001).submit("fixture.double", 3)
        time.sleep(0.01)
        connection.write(due.expire, time.time())
        client.options(hold=True).submit("fixture.double", 4)
        client.submit("fixture.double", 5)
        client.schedule("hourly", "fixture.double", every=3600, args=(6,))
        states = connection.read(lambda sql: dict(sql.execute("SELECT id, state FROM job")))
    connection.checkpoint()
    connection.close()
    assert {*states.values()} == {*State}, states
    return states


def _work(connection, worker, count, *, is_reported=True):
    """As a worker does; one that is not reported is still running when its worker is gone."""
    exchange, report = Exchange(connection, worker, Lane.SYNC, None, Waker()), Report()
    for job in exchange.swap(report, count, list):
        report.outcomes.append(execution.run_call(job, execution.find_target(job), 10**6))
    if is_reported:
        exchange.tell(report)


def set_version(path, version):
    sql = sqlite3.connect(path)
    sql.execute(f"PRAGMA user_version = {version:d}")
    sql.close()


if __name__ == "__main__":
    print(write(sys.argv[1]))
