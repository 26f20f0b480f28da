"""Two workers and two jobs: every order of claim, begin, end, settle, death and recovery, on the functions of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from fastworker_lite.job import Claimed, Kind, Lane, NewJob, Outcome
from fastworker_lite.options import JobOptions
from fastworker_lite.store import cancelling, jobs, recovering, settling
from fastworker_lite.store.create import read_schema
from fastworker_lite.store.jobs import Wanted
from fastworker_lite.store.recovering import Death

NOW = 1_000_000.0
#: The job that must not be started twice.
ONCE = 2


class Worker(NamedTuple):
    """A process that takes jobs; and, once it is dead, what its lease still says."""

    number: int
    held: tuple[tuple[int, int], ...] = ()
    #: What it has claimed, as (job, claim), in its order.
    begun: int = 0
    #: So many of those it has begun,
    ended: int = 0
    #: and so many have come to their end.
    is_dead: bool = False
    is_given_up: bool = False
    #: Its jobs were recovered although it lives: what must not happen, and must do no harm to the record.

    @property
    def runs(self) -> set[int]:
        return set() if self.is_dead else {job for job, _ in self.held[self.ended : self.begun]}


class Place(NamedTuple):
    """Where the world is, beside the rows."""

    workers: tuple[Worker, ...]
    deaths: int
    mistakes: int
    #: How many more there may be,
    cancels: int
    returns: int
    begun: tuple[int, int] = (0, 0)
    accepted: tuple[int, int] = (0, 0)
    #: and what has happened to the two jobs.


_ROWS = "SELECT state, claim, attempt, deaths, iif(state = 'running', worker, 0), cancel IS NULL FROM job ORDER BY id"


class Search:
    """Goes everywhere, once. Each step is a transaction in a savepoint, undone on the way back."""

    def __init__(self, sql: sqlite3.Connection, *, is_given_up_rightly: bool) -> None:
        self.sql = sql
        self.is_given_up_rightly = is_given_up_rightly
        #: Only who is dead: else two of them may run one job, and what is left is that one end of it counts.
        self.seen: set[tuple[object, ...]] = set()
        self.steps = 0
        self.path: list[str] = []
        self.claimed: dict[tuple[int, int], Claimed] = {}

    def go(self, place: Place) -> None:
        rows = self.sql.execute(_ROWS).fetchall()
        if (key := (place, *rows)) in self.seen:
            return
        self.seen.add(key)
        self._check(place, rows)
        can_go_on = False
        for name, change in self._moves(place):
            can_go_on = True
            self.steps += 1
            self.path.append(name)
            self.sql.execute("SAVEPOINT step")
            self.go(change())
            self.sql.execute("ROLLBACK TO step")
            self.sql.execute("RELEASE step")
            self.path.pop()
        if not can_go_on:
            self.say({row[0] for row in rows} <= {"succeeded", "failed", "cancelled"}, f"a job is left behind: {rows}")

    def say(self, is_so: bool, what: str) -> None:
        assert is_so, f"{what}, after {', '.join(self.path)}"

    def _check(self, place: Place, rows: list[tuple[object, ...]]) -> None:
        self.say(max(place.accepted) <= 1, "the end of a job was accepted twice")
        if self.is_given_up_rightly:
            running = [job for worker in place.workers for job in worker.runs]
            self.say(len(running) == len(set(running)), "a job runs twice at a time")
            self.say(place.begun[ONCE - 1] <= 1, "a job that must not be started twice was")
        for job, (state, claim, _, _, owner, _) in enumerate(rows, 1):
            if state == "running":
                holders = [worker for worker in place.workers if worker.number == owner and (job, claim) in worker.held]
                self.say(bool(holders), f"job {job} runs nowhere, and nobody will recover it")

    # ---- what can happen next

    def _moves(self, place: Place) -> Iterator[tuple[str, object]]:
        for index, worker in enumerate(place.workers):
            yield from self._moves_of(place, index, worker)
        if place.cancels:
            yield "cancel 1", lambda: self._cancel(place)

    def _moves_of(self, place: Place, index: int, worker: Worker) -> Iterator[tuple[str, object]]:
        name = f"worker {worker.number}"
        if worker.is_dead:
            yield f"recover {name}", lambda: self._recover(place, index, worker)
            return
        if worker.begun == worker.ended:
            if worker.begun < len(worker.held):
                yield f"{name} begins {worker.held[worker.begun][0]}", lambda: self._begin(place, index, worker)
            if worker.ended < len(worker.held):
                if place.returns:
                    yield f"{name} gives back the rest", lambda: self._give_back(place, index, worker)
            elif worker.held or (self._is_work() and not worker.is_given_up):
                yield (
                    f"{name} settles and claims",
                    lambda: self._swap(place, index, worker, is_more=not worker.is_given_up),
                )
        else:
            yield f"{name} ends {worker.held[worker.ended][0]}", lambda: self._end(place, index, worker)
        if place.deaths:
            yield (
                f"{name} dies",
                lambda: _with(place._replace(deaths=place.deaths - 1), index, worker._replace(is_dead=True)),
            )
        if place.mistakes and worker.held and not worker.is_given_up:
            yield f"{name} is given up although it lives", lambda: self._give_up(place, index, worker)

    def _is_work(self) -> bool:
        return self.sql.execute(jobs.PROBE, {"lane": Lane.SYNC}).fetchone() is not None

    def _cancel(self, place: Place) -> Place:
        cancelling.cancel(self.sql, 1, NOW)
        return place._replace(cancels=place.cancels - 1)

    def _begin(self, place: Place, index: int, worker: Worker) -> Place:
        begun = _counted(place.begun, worker.held[worker.begun][0])
        return _with(place._replace(begun=begun), index, worker._replace(begun=worker.begun + 1))

    def _end(self, place: Place, index: int, worker: Worker) -> Place:
        return _with(place, index, worker._replace(ended=worker.ended + 1))

    def _give_back(self, place: Place, index: int, worker: Worker) -> Place:
        return self._swap(place._replace(returns=place.returns - 1), index, worker, is_more=False)

    def _swap(self, place: Place, index: int, worker: Worker, *, is_more: bool) -> Place:
        """The one transaction of a worker: settle what has ended, give back what was not begun, claim what is next."""
        for held in worker.held[: worker.ended]:
            outcome = Outcome(self.claimed[held], NOW, NOW, result=b"result")
            if settling.settle(self.sql, [outcome]):
                place = place._replace(accepted=_counted(place.accepted, held[0]))
                [last] = self.sql.execute("SELECT claim FROM job WHERE id = ?", held[:1]).fetchone()
                self.say(held[1] == last, f"the end of claim {held[1]} was accepted, and {last} is the one that counts")
        settling.give_back(self.sql, [self.claimed[held] for held in worker.held[worker.ended :]])
        found = []
        if is_more:
            wanted = Wanted(worker=worker.number, lane=Lane.SYNC, limit=2, pick=lambda found: found)
            found = jobs.claim(self.sql, wanted, NOW) or []
        for one in found:
            self.claimed[one.id, one.claim] = one
        held = tuple((one.id, one.claim) for one in found)
        return _with(place, index, worker._replace(held=held, begun=0, ended=0))

    def _recover(self, place: Place, index: int, worker: Worker) -> Place:
        """And another process takes its place."""
        self._store_death(worker)
        return _with(place, index, Worker(max(one.number for one in place.workers) + 1))

    def _give_up(self, place: Place, index: int, worker: Worker) -> Place:
        self._store_death(worker)
        return _with(place._replace(mistakes=place.mistakes - 1), index, worker._replace(is_given_up=True))

    def _store_death(self, worker: Worker) -> None:
        last = worker.held[worker.begun - 1][0] if worker.begun else 0
        is_blamed = worker.begun > worker.ended
        recovering.recover(
            self.sql, Death(worker.number, "died", last, is_blamed=is_blamed, is_many_at_once=False), NOW
        )


def _with(place: Place, index: int, worker: Worker) -> Place:
    workers = list(place.workers)
    workers[index] = worker
    return place._replace(workers=tuple(workers))


def _counted(counts: tuple[int, int], job: int) -> tuple[int, int]:
    return (counts[0] + (job == 1), counts[1] + (job == 2))


@pytest.mark.parametrize(
    ("deaths", "mistakes", "cancels"), [(4, 0, 0), (2, 0, 1), (1, 1, 0), (1, 1, 1)],
    ids=["four deaths", "two deaths and a cancel", "a death and a worker given up", "a death, a cancel, and a worker given up"],
)  # fmt: skip
def test_in_no_order_is_a_job_lost_or_its_end_accepted_twice(deaths: int, mistakes: int, cancels: int) -> None:
    sql = sqlite3.connect(":memory:", isolation_level=None)
    try:
        sql.executescript(read_schema())
        sql.execute("BEGIN")
        options = (JobOptions(), JobOptions(on_lost="fail"))
        jobs.insert(
            sql, [NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0, options=one) for one in options], NOW
        )
        search = Search(sql, is_given_up_rightly=not mistakes)
        search.go(Place((Worker(1), Worker(2)), deaths, mistakes, cancels, returns=1))
    finally:
        sql.close()
    print(f"{len(search.seen):,} states, {search.steps:,} transactions")
    assert len(search.seen) > 500
