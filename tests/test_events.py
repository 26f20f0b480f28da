"""Following what happens to jobs, across processes, without looking again and again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker_lite import Client, ConfigError, SyncClient
from fastworker_lite.store import events
from tests import ending_tasks as tasks

ROOT = Path(__file__).resolve().parent.parent

FOLLOWER = """
import json, sys
from fastworker_lite import SyncClient
client = SyncClient(sys.argv[1], runner="never")
for event in client.events(since=0):
    print(json.dumps(event), flush=True)
"""


def count(client, table):
    return client._call(
        lambda connection: connection.read(lambda sql: sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    )


def test_every_change_of_a_job_is_told_in_order(database):
    async def main():
        async with Client(database, workers=1) as client:
            following = client.events(since=0)
            first = asyncio.ensure_future(anext(following))
            await asyncio.sleep(0.3)
            handle = await client.options(retries=1).submit(tasks.ready_at_attempt, 2)
            seen = [await first]
            while seen[-1]["event"] not in ("succeeded", "failed"):
                seen.append(await anext(following))
            await following.aclose()
            return handle.id, seen

    job_id, seen = asyncio.run(asyncio.wait_for(main(), 30))
    assert [event["event"] for event in seen] == ["queued", "started", "retrying", "queued", "started", "succeeded"]
    assert {event["job_id"] for event in seen} == {job_id}
    offsets = [event["offset"] for event in seen]
    assert offsets == list(range(offsets[0], offsets[0] + len(seen)))
    assert [event["attempt"] for event in seen] == [0, 1, 1, 1, 2, 2]


def test_nothing_is_written_while_nobody_follows(database):
    with SyncClient(database, workers=1) as client:
        assert client.submit(tasks.raises_key_error).wait(timeout=10)
        assert count(client, "event") == 0


def test_a_named_follower_misses_nothing_while_it_is_away(database):
    with SyncClient(database, workers=1) as client:
        following = client.events(since=0, name="audit")
        client.submit(tasks.raises_key_error)
        first = next(following)
        following.close()
        assert client.submit(tasks.raises_key_error).wait(timeout=10)

        again = client.events(since=first["offset"], name="audit")
        seen = []
        while [event["event"] for event in seen].count("failed") < 2:
            seen.append(next(again))
        again.close()
        assert seen[0]["offset"] == first["offset"] + 1
        assert client._call(lambda connection: connection.write(events.unfollow, "audit")) is True
        assert count(client, "event") == 0


def test_an_event_reaches_another_process_at_once_and_none_is_written_after_its_death(database):
    with SyncClient(database, workers=1, runner="own") as client:
        with subprocess.Popen(
            [sys.executable, "-c", FOLLOWER, database], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as follower:
            deadline = time.monotonic() + 10
            while not count(client, "follower"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(0.2)
            began = time.monotonic()
            client.submit(tasks.raises_key_error)
            assert '"event": "queued"' in follower.stdout.readline()
            assert time.monotonic() - began < 0.5, "it was found by looking again"
            follower.kill()
        deadline = time.monotonic() + 10
        while count(client, "follower"):
            client.submit(tasks.raises_key_error).wait(timeout=10)
            assert time.monotonic() < deadline
        assert count(client, "event") == 0


def test_the_last_changes_can_be_read_without_a_follower(database):
    with SyncClient(database, workers=1) as client:
        handles = [
            client.submit(abs, -1),
            client.submit(tasks.raises_key_error),
            client.options(delay=900).submit(abs, 0),
        ]
        assert all(handle.wait(timeout=10) for handle in handles[:2])
        following = client.events(since=0)
        seen = [next(following) for _ in range(7)]
        assert {(event["job_id"], event["event"]) for event in seen} == {
            *((str(job), event) for job in (1, 2) for event in ("queued", "started")),
            ("1", "succeeded"),
            ("2", "failed"),
            ("3", "scheduled"),
        }
        assert [event["at"] for event in seen] == sorted(event["at"] for event in seen)
        assert {event["offset"] for event in seen} == {0}
        client.submit(abs, -1)
        logged = [next(following) for _ in range(3)]  # and on with the log, without a gap or a repetition
        assert [(one["job_id"], one["event"]) for one in logged] == [
            ("4", "queued"),
            ("4", "started"),
            ("4", "succeeded"),
        ]
        assert [one["offset"] for one in logged] == [1, 2, 3]
        following.close()


def test_what_is_told_from_the_jobs_is_bounded_and_ends_where_the_log_begins(database):
    with SyncClient(database, runner="never") as client:
        client.map(tasks.no_op, range(3000))
        found = client._call(lambda connection: connection.read(events.before_the_log, 1000))
        assert [event.job for event in found] == list(range(2001, 3001))
        client._call(lambda connection: connection.write(events.follow, "x", None))
        client.map(tasks.no_op, range(10))
        found = client._call(lambda connection: connection.read(events.before_the_log, 1000))
        assert [event.job for event in found] == list(range(2011, 3001))


def test_the_log_is_bounded(database):
    with SyncClient(database, runner="never") as client:
        client._call(lambda connection: connection.write(events.follow, "x", None))
        for _ in range(11):
            client.map(tasks.no_op, range(10_000))
        assert count(client, "event") == 100_000
        first = client._call(lambda connection: connection.read(events.after, 0, 1))
        assert first[0].offset == 10_001


def test_an_offset_that_cannot_be_is_refused(database):
    with SyncClient(database, runner="never") as client:
        for since in (-1, "1", True, 1.5):
            with pytest.raises(ConfigError, match="since must be"):
                next(client.events(since=since))
