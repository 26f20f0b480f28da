"""The life of jobs in the file against a model of it: by chance through all verbs, and exhaustively through the few that race."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from fastworker_lite.job import (
    POISON_DEATHS,
    TERMINAL,
    TRANSITIONS,
    Claimed,
    Failure,
    Kind,
    Lane,
    NewJob,
    Outcome,
    State,
)
from fastworker_lite.options import JobOptions
from fastworker_lite.store import cancelling, changing, due, jobs, queries, queues, recovering, retention, settling
from fastworker_lite.store.connection import Connection
from fastworker_lite.store.jobs import Wanted
from fastworker_lite.store.recovering import Death

QUEUES = ("a", "b")
WORKERS = (1, 2)
WAITING = (State.QUEUED, State.SCHEDULED, State.BLOCKED)


@dataclass(slots=True)
class Modelled:
    """What a job should be."""

    id: int
    state: State
    queue: str
    priority: int
    retries: int
    retry_delay: float | None
    on_lost: str | None
    due_at: float | None
    expires_at: float | None
    claim: int = 0
    attempt: int = 0
    failures: int = 0
    deaths: int = 0
    worker: int | None = None
    cancel: str | None = None

    def come_back(self, state: State = State.QUEUED) -> None:
        """From a worker, without an end; one that somebody wants cancelled is over."""
        self.state = State.CANCELLED if self.cancel else state

    @property
    def seen(self) -> tuple[object, ...]:
        is_over = self.state in TERMINAL
        counted = (self.claim, self.attempt, self.failures, self.deaths, self.cancel)
        return (
            self.id,
            self.state,
            self.queue,
            *counted,
            self.due_at,
            is_over,
            self.worker if self.state == "running" else None,
        )


_SEEN = """
SELECT id, state, queue, claim, attempt, failures, deaths, cancel, due_at, finished_at IS NOT NULL,
       iif(state = 'running', worker, NULL)
  FROM job
 ORDER BY id
"""


#: What each verb is given.
GIVEN: dict[str, dict[str, Sequence[Any]]] = {
    "submit": {
        "count": range(1, 3),
        "queue": QUEUES,
        "priority": [0, 0, 5, -5],
        "delay": [None, None, None, 10.0],
        "expires": [None, None, None, 15.0],
        "retries": range(0, 3),
        "retry_delay": [None, 7.0],
        "on_lost": [None, "retry", "fail"],
        "is_held": [False, False, False, True],
    },
    "claim": {
        "worker": WORKERS,
        "limit": range(1, 4),
        "served": [None, None, None, ("a",)],
    },
    "succeed": {"number": range(0, 5)},
    "fail": {"number": range(0, 5), "is_final": [False, False, True]},
    "give_back": {"number": range(0, 5), "is_begun": (False, True)},
    "die": {"worker": WORKERS, "begun": range(0, 4), "is_blamed": (False, True)},
    "pause_or_resume": {"queue": QUEUES, "is_paused": [False, False, True]},
    "look_at_the_clock": {"seconds": [0.0, 1.0, 5.0, 12.0, -3.0]},
} | {verb: {"number": range(0, 4)} for verb in ("cancel", "retry", "hold", "release", "remove")}
#: What needs a job, and what a claim.
OF_JOBS, OF_CLAIMS = ("cancel", "retry", "hold", "release", "remove"), ("succeed", "fail", "give_back")
#: As often as they are here.
VERBS = [
    *["submit"] * 4, *["claim"] * 5, *["fail"] * 3, *["die"] * 3, *["succeed"] * 2, *["give_back"] * 2, *["cancel"] * 2,
    *["retry"] * 2, *["release"] * 2, *["look_at_the_clock"] * 2, *["pause_or_resume"] * 2, "hold", "remove", "open_anew",
]  # fmt: skip


class Life:
    """Every verb in any order, with workers that speak when they should not. The clock is ours."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="fwl-model-")
        self.connection = self._open()
        self.now = 1_000_000.0
        self.jobs: dict[int, Modelled] = {}
        self.ever = 0
        self.paused: set[str] = set()
        self.claims: list[Claimed] = []
        self.accepted: set[tuple[int, int]] = set()
        self.before: dict[int, tuple[Any, ...]] = {}
        self.may_retry: int | None = None
        self.said: list[str] = []
        for name in QUEUES:
            self.connection.write(queues.change, name, {})

    def _open(self) -> Connection:
        return Connection(os.path.join(self.folder, "jobs.db"), durability="normal")

    def close(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)

    def _job(self, number: int) -> Modelled:
        """One of the newest."""
        ids = sorted(self.jobs)
        return self.jobs[ids[-1 - number % len(ids)]]

    def step(self, rng: random.Random) -> None:
        """One verb, with what it is given by chance."""
        verb = rng.choice(VERBS)
        needed = self.claims if verb in OF_CLAIMS else self.jobs if verb in OF_JOBS else True
        is_room = sum(job.state not in TERMINAL for job in self.jobs.values()) < 3  # few, so that they meet
        if needed and (is_room or verb != "submit"):
            given = {name: rng.choice(values) for name, values in GIVEN.get(verb, {}).items()}
            self.said.append(f"{verb}({', '.join(f'{name}={value!r}' for name, value in given.items())})")
            getattr(self, verb)(**given)
            self.check_every_job()
            self.check_every_count()

    # ---- submitters and people

    def submit(
        self,
        count: int,
        queue: str,
        priority: int,
        delay: Any,
        expires: Any,
        retries: int,
        retry_delay: Any,
        on_lost: Any,
        is_held: bool,
    ) -> None:
        options = JobOptions(
            queue=queue, priority=priority, delay=delay, expires=None if expires is None else timedelta(seconds=expires),
            retries=retries, retry_delay=retry_delay, on_lost=on_lost, hold=is_held or None,
        )  # fmt: skip
        new = NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0, options=options)
        ids = self.connection.write(jobs.insert, [new] * count, self.now)
        assert list(ids) == list(range(self.ever + 1, self.ever + 1 + count)), "ids rise and are not given twice"
        self.ever += count
        waiting = State.QUEUED if delay is None else State.SCHEDULED
        for job_id in ids:
            self.jobs[job_id] = Modelled(
                job_id, State.BLOCKED if is_held else waiting, queue, priority, retries, retry_delay, on_lost,
                due_at=None if delay is None else self.now + delay, expires_at=None if expires is None else self.now + expires,
            )  # fmt: skip

    def cancel(self, number: int) -> None:
        job = self._job(number)
        assert self.connection.write(cancelling.cancel, job.id, self.now, "unwanted") == job.state
        if job.state in WAITING:
            job.state = State.CANCELLED
        elif job.state == State.RUNNING:
            job.cancel = "unwanted"

    def retry(self, number: int) -> None:
        job = self._job(number)
        assert self.connection.write(cancelling.retry, job.id) == job.state
        if job.state in TERMINAL - {State.SUCCEEDED}:
            job.state, job.failures, job.deaths, job.cancel, job.due_at, job.expires_at = (
                State.QUEUED,
                0,
                0,
                None,
                None,
                None,
            )
            self.may_retry = job.id

    def hold(self, number: int) -> None:
        job = self._job(number)
        self.connection.write(changing.hold, job.id)
        if job.state in WAITING:
            job.state = State.BLOCKED

    def release(self, number: int) -> None:
        job = self._job(number)
        self.connection.write(changing.release, job.id, self.now)
        if job.state == State.BLOCKED:
            job.state = State.SCHEDULED if job.due_at is not None and job.due_at > self.now else State.QUEUED

    def pause_or_resume(self, queue: str, is_paused: bool) -> None:
        self.connection.write(queues.change, queue, {"paused": int(is_paused)})
        (self.paused.add if is_paused else self.paused.discard)(queue)

    def remove(self, number: int) -> None:
        job = self._job(number)
        removed = self.connection.write(retention.remove, job.id)
        assert (removed is not None) == (job.state in TERMINAL and job.id < max(self.jobs))
        if removed is not None:
            del self.jobs[job.id]

    # ---- workers, of whom any may speak for a claim that is no longer its own

    def claim(self, worker: int, limit: int, served: tuple[str, ...] | None) -> None:
        wanted = Wanted(worker=worker, lane=Lane.SYNC, limit=limit, pick=lambda found: found, queues=served)
        claimed = self.connection.write(jobs.claim, wanted, self.now)
        can = {
            queue: self._next(queue) for queue in (served or QUEUES) if queue not in self.paused and self._next(queue)
        }
        assert claimed is not None and bool(claimed) == bool(can)
        if claimed:
            assert [one.id for one in claimed] == [job.id for job in can[claimed[0].queue][:limit]], (
                "by priority, then by id"
            )
        for one in claimed:
            job = self.jobs[one.id]
            job.state, job.worker, job.claim, job.attempt = State.RUNNING, worker, job.claim + 1, job.attempt + 1
            assert (one.claim, one.attempt, one.failures) == (job.claim, job.attempt, job.failures)
            self.claims.append(one)

    def _next(self, queue: str) -> list[Modelled]:
        """The jobs of a queue that can be begun, in their order."""
        found = [job for job in self.jobs.values() if job.state == State.QUEUED and job.queue == queue]
        found = [job for job in found if job.expires_at is None or job.expires_at > self.now]
        return sorted(found, key=lambda job: (-job.priority, job.id))

    def _claimed(self, number: int) -> tuple[Claimed, Modelled | None]:
        """One of all claims that there ever were, the last ones first; and its job, if it still is the one that counts."""
        claimed = self.claims[-1 - number % len(self.claims)]
        job = self.jobs.get(claimed.id)
        return claimed, job if job is not None and (job.state, job.claim) == (State.RUNNING, claimed.claim) else None

    def _settle(self, outcome: Outcome, is_current: bool) -> None:
        assert self.connection.write(settling.settle, [outcome]) == int(is_current)
        if is_current:
            assert (outcome.job.id, outcome.job.claim) not in self.accepted, "a claim is accepted once"
            self.accepted.add((outcome.job.id, outcome.job.claim))

    def succeed(self, number: int) -> None:
        claimed, job = self._claimed(number)
        self._settle(Outcome(claimed, self.now, self.now, result=b"result"), job is not None)
        if job is not None:
            job.state = State.CANCELLED if job.cancel else State.SUCCEEDED

    def fail(self, number: int, is_final: bool) -> None:
        claimed, job = self._claimed(number)
        failure = Failure(reason="E", error="E", is_final=is_final)
        self._settle(Outcome(claimed, self.now, self.now, failure=failure), job is not None)
        if job is not None:
            is_retried = not is_final and job.failures < job.retries
            job.failures += 1
            job.due_at = self.now + job.retry_delay if is_retried and job.retry_delay else None
            job.come_back(State.FAILED if not is_retried else State.SCHEDULED if job.due_at else State.QUEUED)

    def give_back(self, number: int, is_begun: bool) -> None:
        claimed, job = self._claimed(number)
        if is_begun:
            self.connection.write(settling.interrupt, [claimed], self.now)
        else:
            self.connection.write(settling.give_back, [claimed])
        if job is not None:
            job.attempt -= not is_begun
            job.come_back()

    def die(self, worker: int, begun: int, is_blamed: bool) -> None:
        """A worker is gone, which had begun so many of its jobs; the last of them may have killed it."""
        held = [job for job in self.jobs.values() if (job.state, job.worker) == (State.RUNNING, worker)]
        held.sort(key=lambda job: (-job.priority, job.id))
        done = held[:begun]
        death = Death(worker, "worker died", done[-1].id if done else 0, is_blamed=is_blamed, is_many_at_once=False)
        assert self.connection.write(recovering.recover, death, self.now) == [job.id for job in held]
        for job in held:
            is_last = bool(done) and job is done[-1]
            if job in done and job.on_lost == "fail":
                job.come_back(State.FAILED)
            elif is_last and is_blamed and job.deaths + 1 >= POISON_DEATHS:
                job.come_back(State.FAILED)
            else:
                job.deaths += is_last and is_blamed
                job.attempt -= job not in done
                job.come_back()

    # ---- time

    def look_at_the_clock(self, seconds: float) -> None:
        self.now += seconds
        expired = [
            job
            for job in self.jobs.values()
            if job.state in WAITING and job.expires_at is not None and job.expires_at <= self.now
        ]
        assert sorted(self.connection.write(due.expire, self.now)) == sorted(job.id for job in expired)
        for job in expired:
            job.state = State.EXPIRED
        ready = [
            job
            for job in self.jobs.values()
            if job.state == State.SCHEDULED and job.due_at is not None and job.due_at <= self.now
        ]
        assert self.connection.write(due.make_due, self.now) == [len(ready), 0]
        for job in ready:
            job.state = State.QUEUED

    def open_anew(self) -> None:
        self.connection.close()
        self.connection = self._open()

    # ---- what must be so after every step

    def check_every_job(self) -> None:
        rows = self.connection.read(lambda sql: sql.execute(_SEEN).fetchall())
        assert rows == [self.jobs[job_id].seen for job_id in sorted(self.jobs)]
        found = {row[0]: row for row in rows}
        for job_id, (_, state, _, claim, *_) in self.before.items():
            if job_id in found:
                assert found[job_id][3] >= claim, "a claim only rises"
                assert found[job_id][1] == state or found[job_id][1] in TRANSITIONS[state], (
                    f"{state} -> {found[job_id][1]}"
                )
                is_final = state in TERMINAL and job_id != self.may_retry
                assert not is_final or found[job_id] == self.before[job_id], "what has ended does not change"
        self.before, self.may_retry = found, None

    def check_every_count(self) -> None:
        counts = self.connection.read(queries.counts)
        assert counts == {state: self._count(state) for state in counts}
        for queue in self.connection.read(queues.everybody):
            told = (queue.paused, queue.queued, queue.running, queue.scheduled, queue.blocked)
            states = (State.QUEUED, State.RUNNING, State.SCHEDULED, State.BLOCKED)
            assert told == (queue.name in self.paused, *(self._count(state, queue.name) for state in states))
        is_work = any(job.state == State.QUEUED and job.queue not in self.paused for job in self.jobs.values())
        assert (self.connection.probe(jobs.PROBE, {"lane": Lane.SYNC}) is not None) == is_work

    def _count(self, state: State, queue: str | None = None) -> int:
        return sum(job.state == state and queue in (None, job.queue) for job in self.jobs.values())


@pytest.mark.parametrize("seed", range(int(os.environ.get("FWL_MODEL", "60"))))
def test_whatever_is_done_in_whatever_order_jobs_are_as_in_the_model(seed: int) -> None:
    """FWL_MODEL=5000 looks at so many lives. (Hypothesis's choices claimed two jobs in fifty steps, and missed a lost fence.)"""
    rng, life = random.Random(seed), Life()
    try:
        for _ in range(120):
            life.step(rng)
    except AssertionError as error:
        error.add_note("\n".join(life.said))
        raise
    finally:
        life.close()
