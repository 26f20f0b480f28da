"""One job of a key: uniqueness, replacing, debouncing, idempotency keys."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from fastworker_lite import Client, JobExists, SyncClient
from fastworker_lite.store import submitting
from fastworker_lite.store.connection import Connection
from tests import limit_tasks as tasks
from tests.test_crash import lines, until

# ---- unique


def test_a_second_job_of_a_key_is_the_first_one_until_that_has_ended(client):
    first = client.options(unique="k", delay=0.2).submit(tasks.add, 1)
    second = client.options(unique="k").submit(tasks.add, 2)

    assert (first.created, second.created, second.id) == (True, False, first.id)
    assert second.result(timeout=20) == 2
    third = client.options(unique="k").submit(tasks.add, 2)
    assert third.created and third.result(timeout=20) == 3


@pytest.mark.parametrize("state", ["queued", "scheduled", "blocked"])
def test_a_key_is_taken_in_every_state_before_the_end(submitter, state):
    parent = submitter.submit(abs, 1)
    more = {"queued": {}, "scheduled": {"delay": 100}, "blocked": {"after": parent}}[state]
    first = submitter.options(unique="k", **more).submit(abs, 1)
    assert first.status() == state

    assert submitter.options(unique="k").submit(abs, 1).id == first.id
    with pytest.raises(JobExists, match=f'job {first.id} has the unique key "k"'):
        submitter.options(unique="k", on_conflict="fail").submit(abs, 1)


def test_in_one_map_only_the_first_of_a_key_is_stored(submitter):
    handles = submitter.options(unique="k").map(abs, [1, 2, 3])

    assert [handle.id for handle in handles] == ["1", "1", "1"]
    with pytest.raises(JobExists):
        submitter.options(unique="other", on_conflict="fail").map(abs, [1, 2])
    assert submitter.options(unique="other").submit(abs, 1).created, "nothing of a refused map is stored"


def test_replacing_cancels_what_waits_and_takes_its_place(submitter):
    first = submitter.options(unique="k").submit(abs, 1)
    second = submitter.options(unique="k", on_conflict="replace").submit(abs, 2)

    assert (first.status(), second.status(), second.created) == ("cancelled", "queued", True)


def test_replacing_what_runs_ends_it_first_and_the_two_never_run_at_once(client, tmp_path):
    log = tmp_path / "log"
    first = client.options(unique="k", kill_grace=0.2).submit(tasks.hold, str(log), 30.0)
    until(lambda: lines(log))

    second = client.options(unique="k", on_conflict="replace").submit(tasks.record, str(tmp_path / "second"))

    assert second.wait(timeout=10) and second.status() == "succeeded"
    assert first.status() == "cancelled"


def test_a_job_whose_key_is_taken_again_cannot_be_queued_again(submitter):
    first = submitter.options(unique="k").submit(abs, 1)
    first.cancel()
    second = submitter.options(unique="k").submit(abs, 1)

    with pytest.raises(JobExists, match=f"job {second.id}"):
        first.retry()
    second.cancel()
    assert first.retry()


def test_many_at_once_submit_one_job(database):
    async def submit():
        async with Client(database, runner="never", durability="normal") as client:
            unique = client.options(unique="k")
            return await asyncio.gather(*(unique.submit(abs, n) for n in range(100)))

    handles = asyncio.run(submit())

    assert len({handle.id for handle in handles}) == 1
    assert sum(handle.created for handle in handles) == 1


def test_threads_with_clients_of_their_own_submit_one_job(database):
    found = []

    def submit():
        with SyncClient(database, runner="never", durability="normal") as client:
            found.extend(client.options(unique="k").submit(abs, n).id for n in range(20))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(found) == {"1"} and len(found) == 80


# ---- debounce


def test_the_latest_of_a_burst_runs_once_and_its_start_moves_back(client, tmp_path):
    log = tmp_path / "log"
    began = time.time()
    for number in range(5):
        client.options(unique="save", debounce=0.4).submit(tasks.record, str(log), number)
        time.sleep(0.1)
    until(lambda: len(lines(log)) == 2)

    assert [line.split()[3] for line in lines(log)] == ["4", "4"]
    assert time.time() - began > 0.8


def test_what_comes_while_it_runs_begins_another(client, tmp_path):
    log = tmp_path / "log"
    save = client.options(unique="save", debounce=0.1)
    first = save.submit(tasks.hold, str(log), 0.5)
    until(lambda: lines(log))
    second = save.submit(tasks.hold, str(log), 0.0)

    assert second.created and second.id != first.id
    assert second.wait(timeout=10) and first.wait(timeout=10)


def test_a_debounced_job_that_is_tried_again_does_not_stand_in_the_way_of_the_next(client):
    save = client.options(unique="save", debounce=0.05, retries=3, retry_delay=0.3)
    first = save.submit(tasks.fail)
    until(lambda: first.status() == "scheduled" and first.attempts())

    second = save.submit(tasks.add, 1)

    assert second.result(timeout=10) == 2
    assert first.wait(timeout=10) and first.status() == "failed"


# ---- idempotency keys


def test_an_idempotency_key_leads_to_the_same_job_also_when_it_has_ended(client):
    first = client.options(idempotency_key="order 7").submit(tasks.add, 1)
    assert first.result(timeout=20) == 2

    second = client.options(idempotency_key="order 7").submit(tasks.add, 1)

    assert (second.id, second.created, second.result(timeout=1)) == (first.id, False, 2)


def test_it_is_forgotten_after_its_window(submitter):
    first = submitter.options(idempotency_key="k").submit(abs, 1)
    submitter._call(
        Connection.write,
        lambda sql: sql.execute("UPDATE job SET created_at = created_at - ?", (submitting.IDEMPOTENCY_WINDOW + 1,)),
    )

    assert submitter.options(idempotency_key="k").submit(abs, 1).id != first.id


def test_keys_of_the_two_kinds_do_not_meet(submitter):
    first = submitter.options(idempotency_key="k").submit(abs, 1)
    second = submitter.options(unique="k").submit(abs, 1)

    assert first.id != second.id and second.created
