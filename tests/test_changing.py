"""What a person does to jobs that have not begun, or that are over, as rows: hold, release, change, remove, select."""

from __future__ import annotations

import time

import pytest

from fastworker_lite import JobNotFound, changing
from fastworker_lite.job import State
from fastworker_lite.sockets import Waker
from fastworker_lite.store import changing as store
from fastworker_lite.store import queries, retention, selection
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.selection import Filter
from tests.test_dependencies import end_as


def do(client, verb, handle, *more):
    """One of the verbs of `changing`, with all that follows from it."""

    def run(connection):
        waker = Waker()
        try:
            return verb(connection, waker, handle.number, *more)
        finally:
            waker.close()

    return client._call(run)


def standing(client, handle):
    job = client._call(Connection.read, queries.get, handle.number)
    return str(job.state), job.reason


# ---- hold and release


def test_a_held_job_whose_parents_have_not_ended_waits_for_them_when_it_is_released(submitter):
    parent = submitter.submit(abs, 1)
    child = submitter.options(after=parent).submit(abs, 2)

    assert do(submitter, changing.hold, child) == "blocked" and standing(submitter, child) == ("blocked", "held")
    assert do(submitter, changing.release, child) == store.HELD
    assert standing(submitter, child) == ("blocked", "after 1")
    end_as(submitter, parent, "succeeded")
    assert standing(submitter, child) == ("queued", None)


def test_a_held_job_whose_parents_have_succeeded_meanwhile_is_queued_when_it_is_released(submitter):
    parent = submitter.submit(abs, 1)
    child = submitter.options(after=parent).submit(abs, 2)
    do(submitter, changing.hold, child)
    end_as(submitter, parent, "succeeded")

    assert standing(submitter, child) == ("blocked", "held")
    do(submitter, changing.release, child)
    assert standing(submitter, child) == ("queued", None)


def test_a_held_job_whose_parent_has_failed_meanwhile_is_cancelled_when_it_is_released(submitter):
    parent = submitter.submit(abs, 1)
    child = submitter.options(after=parent).submit(abs, 2)
    grandchild = submitter.options(after=child).submit(abs, 3)
    do(submitter, changing.hold, child)
    end_as(submitter, parent, "failed")

    assert standing(submitter, child) == ("blocked", "held")
    do(submitter, changing.release, child)
    assert standing(submitter, child) == ("cancelled", "1 failed")
    assert standing(submitter, grandchild) == ("cancelled", f"{child.number} cancelled")


@pytest.mark.parametrize(("delay", "state"), [(1000, "scheduled"), (0.001, "queued")])
def test_a_released_job_waits_for_its_time_unless_that_is_over(submitter, delay, state):
    handle = submitter.options(delay=delay, hold=True).submit(abs, 1)
    time.sleep(0.002)

    do(submitter, changing.release, handle)

    assert standing(submitter, handle)[0] == state


def test_a_held_job_leaves_its_place_under_a_limit_to_another(client):
    """The first of two that may not run together is held: the second runs, and the first when it is released."""
    limited = client.options(lock="disk", hold=True)
    first, second = limited.submit(abs, -1), client.options(lock="disk").submit(abs, -2)

    assert second.result(timeout=20) == 2
    assert standing(client, first) == ("blocked", "held")
    do(client, changing.release, first)
    assert first.result(timeout=20) == 1


def test_a_job_that_is_held_while_it_waits_for_a_lock_does_not_keep_others_from_it(submitter):
    first, second = (submitter.options(lock="disk").submit(abs, n) for n in (1, 2))
    do(submitter, changing.hold, first)

    assert standing(submitter, second)[0] == "queued"
    assert standing(submitter, first) == ("blocked", "held")


def test_the_key_of_a_held_job_is_taken(submitter):
    held = submitter.options(unique="nightly", hold=True).submit(abs, 1)

    assert submitter.options(unique="nightly").submit(abs, 2).number == held.number
    replacing = submitter.options(unique="nightly", on_conflict="replace").submit(abs, 3)
    assert standing(submitter, held) == ("cancelled", "replaced")
    assert standing(submitter, replacing)[0] == "queued"


def test_holding_twice_and_releasing_what_is_not_held_changes_nothing(submitter):
    handle = submitter.submit(abs, 1)

    assert do(submitter, changing.release, handle) == "queued" and standing(submitter, handle)[0] == "queued"
    assert [do(submitter, changing.hold, handle) for _ in range(2)] == ["queued", store.HELD]


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled"])
def test_what_has_ended_is_neither_held_nor_released_nor_changed(submitter, end):
    handle = submitter.submit(abs, 1)
    end_as(submitter, handle, end)
    before = standing(submitter, handle)

    assert do(submitter, changing.hold, handle) == end
    assert do(submitter, changing.release, handle) == end
    assert do(submitter, changing.change, handle, {"priority": 5}) == end
    assert standing(submitter, handle) == before


def test_a_job_that_does_not_exist_is_said_to_be_missing(submitter):
    handle = submitter.submit(abs, 1)
    for verb in (store.hold, store.copy, store.remove):
        with pytest.raises(JobNotFound):
            submitter._call(lambda connection, verb=verb: connection.write(verb, handle.number + 1))


# ---- change


def test_a_running_job_changes_only_in_what_counts_for_its_next_attempt(submitter):
    handle = submitter.submit(abs, 1)
    submitter._call(
        lambda connection: connection.write(
            lambda sql: sql.execute("UPDATE job SET state = 'running' WHERE id = ?", (handle.number,))
        )
    )

    assert do(submitter, changing.change, handle, {"priority": 7, "retries": 3}) == "running"
    assert do(submitter, changing.change, handle, {"priority": 9, "queue": "io"}) == "running"

    job = submitter._call(Connection.read, queries.get, handle.number)
    assert (job.priority, job.retries, job.queue) == (7, 3, "default")


def test_another_time_moves_a_job_between_the_queue_and_the_schedule_but_releases_none(submitter):
    queued, held = submitter.submit(abs, 1), submitter.options(hold=True).submit(abs, 2)
    for handle in (queued, held):
        do(submitter, changing.change, handle, {"due_at": time.time() + 1000})
    assert [standing(submitter, one)[0] for one in (queued, held)] == ["scheduled", "blocked"]

    do(submitter, changing.change, queued, {"due_at": None})
    do(submitter, changing.release, held)
    assert [standing(submitter, one)[0] for one in (queued, held)] == ["queued", "scheduled"]


# ---- remove


def remove(client, handle):
    return client._call(changing.remove, handle.number)


def test_the_newest_job_stays_until_there_is_another_one(submitter):
    handle = submitter.submit(abs, 1)
    end_as(submitter, handle, "succeeded")

    assert not remove(submitter, handle).is_gone
    newer = submitter.submit(abs, 2)
    assert remove(submitter, handle).is_gone
    assert newer.number == handle.number + 1
    with pytest.raises(JobNotFound):
        remove(submitter, handle)


def test_a_job_whose_end_is_still_to_be_told_stays(submitter, tmp_path):
    handle = submitter.options(callback=f"unix://{tmp_path}/nobody.sock").submit(abs, 1)
    submitter.submit(abs, 2)
    end_as(submitter, handle, "failed")
    waiting = "SELECT count(*) FROM outbox WHERE job = ?"
    count = submitter._call(Connection.read, lambda sql: sql.execute(waiting, (handle.number,)).fetchone()[0])

    assert count == 1 and not remove(submitter, handle).is_gone
    before = {"failed": time.time() + 10}
    dry = submitter._call(Connection.read, lambda sql: retention.prune_page(sql, 0, before, 0, is_dry=True))
    assert dry.removed == []


@pytest.mark.parametrize("state", ["queued", "scheduled", "blocked"])
def test_a_job_that_has_not_ended_stays(submitter, state):
    more = {"queued": {}, "scheduled": {"delay": 1000}, "blocked": {"hold": True}}[state]
    handle = submitter.options(**more).submit(abs, 1)
    submitter.submit(abs, 2)

    assert remove(submitter, handle)[:2] == (store.HELD if state == "blocked" else state, False)


# ---- selection


@pytest.fixture
def several(submitter):
    """One job of each kind: queued, scheduled, held, failed and succeeded, by their ids 1 to 5."""
    handles = [
        submitter.options(name="backup-home", tags={"of": "ana", "to": "disk"}).submit(abs, 1),
        submitter.options(name="backup-work", tags={"of": "ana"}, delay=1000).submit(abs, 2),
        submitter.options(queue="io", hold=True).submit(abs, 3),
        submitter.options(queue="io", tags={"of": "ben"}).submit(abs, 4),
        submitter.submit(abs, 5),
    ]
    end_as(submitter, handles[3], "failed")
    end_as(submitter, handles[4], "succeeded")
    return submitter


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Filter(), [1, 2, 3, 4, 5]),
        (Filter(ids=(5, 2, 9)), [2, 5]),
        (Filter(states=frozenset({State.FAILED, State.BLOCKED})), [3, 4]),
        (Filter(queue="io"), [3, 4]),
        (Filter(queue="io", states=frozenset({State.FAILED})), [4]),
        (Filter(name="backup-*"), [1, 2]),
        (Filter(name="backup-[!h]*"), [2]),
        (Filter(tags={"of": "ana"}), [1, 2]),
        (Filter(tags={"of": "ana", "to": "disk"}), [1]),
        (Filter(tags={"of": "ana"}, queue="io"), []),
        (Filter(since=2e9), []),
    ],
)
def test_a_filter_means_the_jobs_that_meet_all_of_it(several, wanted, ids):
    assert several._call(Connection.read, selection.everything, wanted) == ids
    assert several._call(Connection.read, selection.count, wanted) == len(ids)


def test_a_name_means_its_newest_job(several):
    newest = several.options(name="backup-home").submit(abs, 6)

    assert several._call(Connection.read, selection.newest_named, "backup-home") == newest.number
    assert several._call(Connection.read, selection.newest_named, "backup-*") is None
    assert set(several._call(Connection.read, selection.names)) == {"backup-home", "backup-work"}
