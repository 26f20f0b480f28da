"""What a wait is for, how far it is, and what is said of that.

Runs in: the command line.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..job import Job, State
from ..store import queries
from ..store.connection import Connection
from ..store.queries import Standing
from . import render
from .live_line import LiveLine
from .problems import FAILED, OWN_TROUBLE, TIMED_OUT
from .records import Record, as_json, exit_code, last_lines, read_records, seconds_taken, sentence
from .session import Session
from .watching import Look

#: How many running jobs the line on a terminal names, and how many jobs a message does.
_MOST_NAMED, _MOST_LISTED = 3, 10
#: How many lines of the log of a job that failed are shown.
_TAIL = 10


class Wish(NamedTuple):
    """When a wait is to end."""

    seconds: float | None = None
    is_for_start: bool = False
    is_any: bool = False
    is_fail_fast: bool = False
    is_pass_through: bool = False
    #: Whether the exit code is to be the job's.


class Course:
    """How far a wait is."""

    def __init__(self, ids: Sequence[int], wish: Wish) -> None:
        self._wish = wish
        self.total = len(set(ids))
        self.counts: Counter[str] = Counter()
        #: How those that are over ended: states, and `removed`.
        self.left: Mapping[int, Standing] = {}
        self.last: Job | None = None
        self._has_failed = False

    def take(self, look: Look) -> Iterator[Job | int]:
        """What is over now, one by one, until that is all that was wished for; ids stand for removed records."""
        self.left = look.left
        for job in look.over:
            self.last = job
            self.counts[job.state] += 1
            self._has_failed |= job.state is not State.SUCCEEDED and not (self._wish.is_for_start and job.started_at)
            yield job
            if self.is_over:
                return
        for job_id in look.gone:
            self.counts["removed"] += 1
            self._has_failed = True
            yield job_id

    @property
    def is_over(self) -> bool:
        done = self.counts.total()
        return done == self.total or bool(self._wish.is_any and done) or (self._wish.is_fail_fast and self._has_failed)

    @property
    def exit_code(self) -> int:
        if self._wish.is_pass_through and self.counts.total() == 1:
            return OWN_TROUBLE if self.last is None else exit_code(self.last)[0]
        return FAILED if self._has_failed else 0


def running_ids(left: Mapping[int, Standing]) -> list[int]:
    return [job_id for job_id, one in left.items() if one.state is State.RUNNING]


# ---- what is said


class Teller:
    """Says how jobs ended, and how far the others are."""

    def __init__(self, session: Session, connection: Connection, wish: Wish) -> None:
        self._session = session
        self._connection = connection
        self._wish = wish
        self.line = LiveLine(is_wanted=not session.is_quiet)

    def tell(self, over: Iterable[Job | int]) -> None:
        """Say of these jobs how they ended; an id stands for one that is not there any more."""
        told = list(over)
        if told:
            self.line.erase()
        if self._session.is_json:
            records = read_records(self._connection, [one for one in told if isinstance(one, Job)], is_complete=True)
            for record in records:
                self._put_json(record)
        for one in told:
            if isinstance(one, Job):
                self._put_ended(one)
            elif self._session.is_json:
                self._session.put_json("fwl.events/1", event="removed", id=one)
            elif not self._session.is_quiet:
                self._put(f"{one} removed")

    def _put_json(self, record: Record) -> None:
        job = as_json(record)
        if record.job.has_ended:
            code, source = exit_code(record.job)
            self._session.put_json("fwl.events/1", event="ended", job=job, exit_code=code, source=source)
        else:
            self._session.put_json("fwl.events/1", event="started", job=job)

    def _put_ended(self, job: Job) -> None:
        if self._session.is_json or self._session.is_quiet:
            return
        taken = render.duration(seconds_taken(job, time.time())) if job.has_ended else ""
        words = [job.name or "", sentence(job), taken]
        self._put(" ".join([str(job.id), *(render.clean(word) for word in words if word not in ("", "-"))]))

    def _put(self, text: str) -> None:
        """To stdout, where that is not kept for the id of what was submitted."""
        if self._wish.is_pass_through:
            self._session.chat(f"job {text}")
        else:
            print(text, flush=True)

    def draw(self, course: Course) -> None:
        if self.line.is_shown:
            self.line.draw(_summary(course, self._running_names(course.left)))

    def _running_names(self, left: Mapping[int, Standing]) -> str:
        """`thumbs 0:42`, of the first that run."""
        running = running_ids(left)
        jobs = self._connection.read(queries.get_many, running[:_MOST_NAMED])
        now = time.time()
        names = [f"{render.clean(job.name or job.id)} {_clock(seconds_taken(job, now) or 0.0)}" for job in jobs]
        return ", ".join(names + ["..."] * (len(running) > _MOST_NAMED))


def _summary(course: Course, running: str) -> str:
    """`2/5 done, 1 failed, 1 running (thumbs 0:42), 1 queued`"""
    ends = [f"{count} {how}" for how, count in course.counts.items() if how != State.SUCCEEDED]
    states = Counter(one.state for one in course.left.values())
    going = [
        f"{states[state]} {state}" + (f" ({running})" if state is State.RUNNING else "")
        for state in (State.RUNNING, State.QUEUED, State.SCHEDULED, State.BLOCKED)
        if states[state]
    ]
    return ", ".join([f"{course.counts[State.SUCCEEDED]}/{course.total} done", *ends, *going])


def _clock(seconds: float) -> str:
    """`0:42`, `1:02:03`"""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def put_tail(session: Session, connection: Connection, job: Job) -> None:
    """The end of the log of a job that failed, for a person who looks: of its stderr, or of its stdout if that is empty."""
    if job.state is not State.FAILED or session.is_json or session.is_quiet or not render.is_terminal(sys.stderr):
        return
    paths = [connection.paths.log(job.id, job.attempt, stream) for stream in ("err", "out")]
    tail = next((lines for path in paths if (lines := last_lines(path, _TAIL))), [])
    for line in tail:
        render.say(f"    {render.clean(line)}")
    if tail:
        render.say(f"all of it: fwl logs {job.id}")


def put_detached(session: Session, connection: Connection, ids: Iterable[int]) -> None:
    """Say that these jobs go on although nobody looks any more."""
    going = [job for job in connection.read(queries.get_many, ids) if not job.has_ended]
    if len(going) == 1:
        [job] = going
        session.say(f"detached; job {job.id} still {job.state} (fwl cancel {job.id})")
    elif going:
        listed = " ".join(str(job.id) for job in going[:_MOST_LISTED])
        more = " ..." if len(going) > _MOST_LISTED else ""
        session.say(f"detached; {len(going)} jobs go on (fwl cancel {listed}{more})")


def put_timeout(session: Session, connection: Connection, left: Mapping[int, Standing], seconds: float) -> int:
    jobs = connection.read(queries.get_many, list(left)[:_MOST_LISTED])
    words = [f"{job.id} {'still ' if job.state is State.RUNNING else ''}{job.state}" for job in jobs]
    more = [f"and {len(left) - _MOST_LISTED} more"] if len(left) > _MOST_LISTED else []
    put_given_up(session, seconds, ", ".join(words + more), left=list(left))
    return TIMED_OUT


def put_given_up(session: Session, seconds: float, still: str, **fields: object) -> None:
    if session.is_json:
        session.put_json("fwl.events/1", event="timed_out", **fields, exit_code=TIMED_OUT, source="fwl")
    else:
        render.say(f"timed out after {seconds:g} s: {still}")
