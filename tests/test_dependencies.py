"""Jobs that wait for others: edges, chains, groups and chords."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import time

import pytest

from fastworker_lite import Client, ConfigError, JobCancelled, JobFailed, JobNotFound, SyncClient, call
from fastworker_lite.job import Lane, Outcome
from fastworker_lite.store import dependencies, jobs, queries, runners, settling
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.jobs import Wanted
from tests import limit_tasks as tasks
from tests.test_crash import lines


def job(client, handle):
    return client._call(Connection.read, queries.get, handle.number)


# ---- edges


def test_a_job_begins_when_those_it_waits_for_have_succeeded(client, tmp_path):
    log = str(tmp_path / "log")
    first, second = (client.submit(tasks.record, log, n) for n in (1, 2))
    last = client.options(after=[first, second]).submit(tasks.record, log, 3)

    assert last.result(timeout=20) == 3
    assert [line.split()[3] for line in lines(tmp_path / "log")][-2:] == ["3", "3"]


def test_a_job_that_waits_for_others_says_for_which(submitter):
    parents = [submitter.submit(abs, n) for n in range(7)]
    child = submitter.options(after=parents).submit(abs, 1)

    assert (job(submitter, child).state, job(submitter, child).reason) == ("blocked", "after 1, 2, 3, 4, 5 and 2 more")
    assert len(submitter._call(Connection.read, dependencies.parents_of, child.number)) == 7


@pytest.mark.parametrize(
    ("kind", "end", "state", "reason"),
    [
        ("after", "succeeded", "queued", None),
        ("after", "failed", "cancelled", "1 failed"),
        ("after", "cancelled", "cancelled", "1 cancelled"),
        ("after_any", "succeeded", "queued", None),
        ("after_any", "failed", "queued", None),
        ("after_any", "cancelled", "queued", None),
        ("after_failure", "succeeded", "cancelled", "1 succeeded"),
        ("after_failure", "failed", "queued", None),
        ("after_failure", "cancelled", "queued", None),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_the_end_of_a_job_means_for_one_that_waits(submitter, kind, end, state, reason, is_late):
    """Whether it is submitted before that end or after it."""
    parent = submitter.submit(abs, 1)
    child = None if is_late else submitter.options(**{kind: parent}).submit(abs, 2)
    end_as(submitter, parent, end)
    child = child or submitter.options(**{kind: parent}).submit(abs, 2)

    assert (job(submitter, child).state, job(submitter, child).reason) == (state, reason)


def end_as(client, handle, end):
    """End a job as a worker, or a person, would."""
    if end == "cancelled":
        handle.cancel()
        return

    def transact(sql):
        claimed = jobs.claim_one(sql, handle.number, 1, time.time())
        outcome = Outcome(claimed, 1.0, 2.0)
        settling.settle(sql, [outcome if end == "succeeded" else outcome._replace(failure=FAILURE)])
        return dependencies.resolve(sql, time.time())

    client._call(Connection.write, transact)


FAILURE = settling.Failure(reason="on purpose", error="on purpose")


def test_a_job_begins_after_one_failure_of_several_and_not_after_none(submitter):
    first, second = submitter.submit(abs, 1), submitter.submit(abs, 2)
    child = submitter.options(after_failure=[first, second]).submit(abs, 3)

    end_as(submitter, first, "succeeded")
    assert child.status() == "blocked"
    end_as(submitter, second, "failed")
    assert child.status() == "queued"


def test_a_job_that_is_due_later_waits_for_both(submitter):
    parent = submitter.submit(abs, 1)
    child = submitter.options(after=parent, delay=1000).submit(abs, 2)

    assert child.status() == "blocked"
    end_as(submitter, parent, "succeeded")
    assert child.status() == "scheduled"


def test_the_end_of_one_goes_down_a_line_of_thousands(submitter):
    """SQLite nests 1,000 triggers; 5,000 jobs wait one for the other, and the first is cancelled."""
    line = [call(abs, 0)]
    for number in range(5000):
        line.append(call(abs, number).options(after=line[-1]))
    handles = submitter.submit_calls(line)

    handles[0].cancel()

    assert (job(submitter, handles[1]).reason, job(submitter, handles[-1]).reason) == ("1 cancelled", "5000 cancelled")
    assert handles[-1].status() == "cancelled"


def test_a_waiter_is_told_of_a_job_that_is_cancelled_for_its_parents_sake(client):
    parent = client.submit(tasks.fail)
    child = client.options(after=parent).submit(abs, 1)

    with pytest.raises(JobCancelled, match=f"{parent.id} failed"):
        child.result(timeout=5)


def test_a_parent_that_is_tried_again_changes_nothing_for_those_it_has_cancelled(client):
    parent = client.submit(tasks.fail)
    child = client.options(after=parent).submit(abs, 1)
    child.wait(timeout=5)

    assert parent.retry() and parent.wait(timeout=5)
    assert child.status() == "cancelled"


def test_a_parent_that_does_not_exist_is_refused_and_nothing_is_stored(submitter):
    with pytest.raises(JobNotFound, match="no job 99"):
        submitter.options(after=99).map(abs, [1, 2])
    with pytest.raises(JobNotFound):
        submitter.options(after=1).submit(abs, 1)  # itself, as it would be
    assert submitter._call(Connection.read, queries.newest_id) == 0


def test_a_call_waits_only_for_those_before_it_so_that_no_circle_is_made(submitter):
    first = call(abs, 1)
    second = call(abs, 2).options(after=first)
    with pytest.raises(ConfigError, match="does not stand before it"):
        submitter.submit_calls([second, first])
    with pytest.raises(ConfigError, match="does not stand before it"):
        submitter.submit_calls([second])


# ---- graphs


def test_a_graph_of_ten_thousand_jobs_is_stored_at_once_and_claimed_as_quickly_as_a_small_one(tmp_path):
    small, _ = stored_graph(tmp_path / "small.db", 1_000)
    large, seconds = stored_graph(tmp_path / "large.db", 10_000)

    ratios = sorted(cost_of_steps(large) / cost_of_steps(small) for _ in range(9))
    print(f"10,000 jobs, 20,000 edges stored in {seconds:.2f} s; a step in it costs {ratios[4]:.2f} of one in 1,000")
    assert seconds < 5
    assert ratios[4] <= 1.5
    small.close()
    large.close()


def stored_graph(database, size):
    """Each job waits for the one before it and for one far before; stored in one transaction, in so many seconds."""
    calls = [call(abs, 0)]
    for number in range(1, size):
        calls.append(call(abs, number).options(after=[calls[number // 2], calls[number - 1]]))
    with SyncClient(database, runner="never", durability="normal") as client:
        began = time.perf_counter()
        client.submit_calls(calls)
        seconds = time.perf_counter() - began
    return Connection(database, durability="normal", is_worker=True), seconds


def cost_of_steps(connection, count=50):
    claimed, seconds = [], []
    for _ in range(count):
        began = time.perf_counter()
        claimed = connection.write(settle_and_claim, claimed)
        seconds.append(time.perf_counter() - began)
        assert len(claimed) == 1
    connection.write(settle, claimed)
    return sorted(seconds)[count // 2]


def settle(sql, claimed):
    settling.settle(sql, [Outcome(one, 1.0, 2.0) for one in claimed])
    dependencies.resolve(sql, time.time())


def settle_and_claim(sql, claimed):
    settle(sql, claimed)
    return jobs.claim(sql, Wanted(1, Lane.SYNC, 1, list), time.time())


def test_a_chain_hands_each_result_to_the_next(client):
    last = client.chain(call(tasks.add, 1, 2), call(tasks.add_later, 10), call(tasks.add, second=100))

    assert last.result(timeout=20) == 113
    assert [handle.result(timeout=1) for handle in last.parents] == [3, 13]
    assert last.parents.status() == "2/2 done"


def test_a_chain_ends_where_a_step_fails(client):
    last = client.chain(call(tasks.add, 1), call(tasks.fail), call(tasks.add, 1))

    with pytest.raises(JobCancelled, match="2 failed"):
        last.result(timeout=20)


def test_a_group_shows_how_many_are_done_and_gives_the_results_in_order(client):
    group = client.group([call(tasks.square, n, 0.2 if n == 3 else 0) for n in range(10)])

    assert group.results(timeout=20) == [n * n for n in range(10)]
    assert (group.status(), group.done(), len(group)) == ("10/10 done", 10, 10)


def test_a_group_shows_three_of_ten(submitter):
    group = submitter.group([call(abs, n) for n in range(10)])
    for handle in group.handles[:3]:
        end_as(submitter, handle, "succeeded")

    assert group.status() == "3/10 done"
    assert group.cancel() == 7


def test_the_same_on_an_event_loop(database):
    async def use():
        async with Client(database, workers=2, runner="own", durability="normal") as client:
            last = await client.chain(call(tasks.add, 1), call(tasks.add, 2))
            group = await client.group([call(tasks.square, n) for n in range(5)])
            chord = await client.chord([call(tasks.square, n) for n in range(5)], call(sum))
            found = await asyncio.wait_for(asyncio.gather(last.result(), group.results(), chord.result()), 20)
            return found, await group.status(), await chord.parents.done()

    assert asyncio.run(use()) == ([4, [0, 1, 4, 9, 16], 30], "5/5 done", 5)


def test_a_chord_of_one_that_fails_cancels_its_callback(client):
    last = client.chord([call(tasks.square, 1), call(tasks.fail)], call(sum))

    with pytest.raises(JobCancelled):
        last.result(timeout=20)


def test_a_result_that_is_gone_is_said_to_be(submitter, database):
    last = submitter.chain(call(tasks.add, 1), call(tasks.add, 2))
    submitter._call(Connection.write, lambda sql: sql.execute("UPDATE job SET inputs = '77' WHERE inputs IS NOT NULL"))

    with SyncClient(database, workers=1, runner="own") as client, pytest.raises(JobFailed, match="result of job 77"):
        client.handle(last.id).result(timeout=20)


def test_a_chord_of_a_thousand_runs_its_callback_once_while_workers_are_killed(database, tmp_path):
    seed = random.SystemRandom().randrange(1_000_000)
    chance, log = random.Random(seed), tmp_path / "log"
    with SyncClient(database, workers=3, runner="own", durability="normal") as client:
        last = client.chord([call(tasks.square, n, 0.004) for n in range(1000)], call(tasks.gather, str(log)))
        kills = 0
        while last.parents.done() < 1000:
            time.sleep(chance.uniform(0.05, 0.15))
            victims = client._call(Connection.read, unharmed_workers)
            if victims:
                kill(chance.choice(victims))
                kills += 1
        assert last.result(timeout=30) == [n * n for n in range(1000)]
        begun = len(lines(log))
        attempts = last.attempts()
    print(f"seed {seed}: a chord of 1,000 under {kills} kills: callback begun {begun} times, settled once")
    assert [one.outcome for one in attempts].count("succeeded") == 1
    assert 1 <= begun <= len(attempts)  # a worker may be killed between its claim and the call
    assert [one.number for one in attempts] == list(itertools.accumulate([1] * len(attempts)))


def unharmed_workers(sql):
    """Those that run nothing a worker has died of: a job that meets three deaths is given up, as it should be."""
    harmed = {row[0] for row in sql.execute("SELECT worker FROM job WHERE state = 'running' AND deaths > 0")}
    return [json.loads(row.process)[0] for row in runners.workers(sql) if row.id not in harmed]


def kill(process):
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return
