"""`fwl status`: what is running, what waits, what has ended lately.

Runs in: the command line.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from ..job import ACTIVE, Job, State
from ..store import queries
from ..store.connection import Connection
from . import options, render
from .problems import usage
from .records import Record, as_json, progress_text, read_records, seconds_taken, state_label
from .session import Session, find_jobs, live_runners, select_ids

#: How many jobs are shown unless -a or -n says otherwise.
MOST_ACTIVE, MOST_FINISHED = 50, 10
_PAGE = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which jobs a person wants to see."""

    words: list[str]
    states: frozenset[State]
    is_all: bool
    limit: int | None


def status(
    context: typer.Context,
    ids: options.Ids = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All jobs, however many.")] = False,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only these; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-n", metavar="N", min=0, help="At most so many.")] = None,
    tsv: Annotated[bool, typer.Option("--tsv", help="Tab-separated, nothing cut.")] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Only how many: jobs that have not ended, or what --state and -a say.")
    ] = False,
    task_id: options.TaskId = None,
) -> int:
    """List jobs: those that have not ended, and the last that have.

    fwl status
    fwl status 45 46
    fwl status -a --state failed
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    wish = Wish(
        words=[*(ids or []), *([task_id] if task_id is not None else [])],
        states=frozenset(_parse_state(text) for text in state or []),
        is_all=everything,
        limit=limit,
    )
    with session.open() as connection:
        if count:
            return _put_count(session, connection, wish)
        return _put(session, connection, wish, is_tsv=tsv)


def put_default(session: Session) -> int:
    """What `fwl` alone prints."""
    wish = Wish(words=[], states=frozenset(), is_all=False, limit=None)
    with session.open() as connection:
        return _put(session, connection, wish, is_tsv=False)


def _parse_state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise usage(f'--state: "{text}" is not a state. States: {" ".join(State)}') from None


# ---- which


def _select(connection: Connection, wish: Wish) -> list[Job]:
    if wish.words:
        jobs = [
            job
            for job in find_jobs(connection, select_ids(connection, wish.words))
            if not wish.states or job.state in wish.states
        ]
    elif wish.is_all or wish.states - ACTIVE:
        jobs = [job for job in _pages(connection) if not wish.states or job.state in wish.states]
    elif wish.states:
        jobs = [job for job in connection.read(queries.active, 2**31) if job.state in wish.states]
    else:
        return _lately(connection, wish.limit)
    return jobs if wish.limit is None else jobs[: wish.limit]


def _lately(connection: Connection, limit: int | None) -> list[Job]:
    active = connection.read(queries.active, MOST_ACTIVE if limit is None else limit)
    rest = MOST_FINISHED if limit is None else min(MOST_FINISHED, limit - len(active))
    return active + connection.read(queries.finished, rest)


def _pages(connection: Connection) -> Iterator[Job]:
    last = 0
    while page := connection.read(queries.everything, last, _PAGE):
        yield from page
        last = page[-1].id


def _put_count(session: Session, connection: Connection, wish: Wish) -> int:
    states = wish.states or (frozenset(State) if wish.is_all else ACTIVE)
    if wish.words:
        total = len(_select(connection, wish))
    else:
        total = connection.read(_count, json.dumps(sorted(states)))
    if session.is_json:
        session.put_json("fwl.count/1", count=total)
    else:
        print(total)
    return 0


def _count(sql: sqlite3.Connection, states: str) -> int:
    row = sql.execute("SELECT count(*) FROM job WHERE state IN (SELECT value FROM json_each(?))", (states,)).fetchone()
    return int(row[0])


# ---- how


def _put(session: Session, connection: Connection, wish: Wish, *, is_tsv: bool) -> int:
    jobs = _select(connection, wish)
    if session.is_quiet and not session.is_json:
        for job in jobs:
            print(job.id)
        return 0
    records = read_records(connection, jobs, is_complete=session.is_json)
    if session.is_json:
        session.put_json("fwl.jobs/1", jobs=[as_json(record) for record in records])
    elif is_tsv:
        render.put_tsv([_tsv_row(record) for record in records])
    elif records:
        now = time.time()
        render.put_columns(_HEADER, [_row(record, now) for record in records])
        _put_footer(session, connection, jobs, wish)
    else:
        session.say(
            "no jobs match"
            if wish.words or wish.states or wish.is_all
            else "no jobs yet. Try: fwl submit -- echo hello"
        )
    return 0


_HEADER = ("ID", "STATE", "QUEUE", "NAME", "AGE", "TIME", "COMMAND")


def _row(record: Record, now: float) -> list[str]:
    job = record.job
    taken = seconds_taken(job, now) if job.state in (State.RUNNING, State.SUCCEEDED, State.FAILED) else None
    return [
        str(job.id),
        state_label(job),
        job.queue,
        job.name or "-",
        render.age(now - job.created_at),
        render.duration(taken),
        record.text + _remark(record, now),
    ]


def _remark(record: Record, now: float) -> str:
    """What a person asks next: `  (in 25s)`, `  (40/100 half-way)`."""
    job = record.job
    remarks = []
    if job.state is State.SCHEDULED and job.due_at is not None:
        remarks.append(f"in {render.duration(job.due_at - now)}")
    elif job.state is State.BLOCKED and job.reason:
        remarks.append(job.reason)
    elif job.state is State.RUNNING:
        remarks += [progress_text(record.progress)] if record.progress is not None else []
        remarks += ["being cancelled"] if job.cancel is not None else []
    return "".join(f"  ({remark})" for remark in remarks)


def _tsv_row(record: Record) -> list[object]:
    job = record.job
    return [
        job.id,
        job.state,
        job.queue,
        job.name,
        render.rfc3339(job.created_at),
        render.rfc3339(job.started_at),
        render.rfc3339(job.finished_at),
        job.exit_code,
        job.reason,
        record.text,
    ]


def _put_footer(session: Session, connection: Connection, jobs: list[Job], wish: Wish) -> None:
    render.flush()
    counts = connection.read(queries.counts)
    hidden = sum(counts.values()) - sum(1 for job in jobs if not job.has_ended)
    if hidden > 0 and not (wish.words or wish.states or wish.is_all):
        session.say(f"{hidden} more have not ended; all of them: fwl status -a")
    rows = live_runners(connection)
    pids = ", ".join(str(row.pid) for row in rows)
    served = f"worker pid {pids}" if rows else "no worker is running"
    session.chat(
        f"{counts[State.RUNNING]} running, {counts[State.QUEUED]} queued - {served} - db {render.clean(connection.paths.database)}"
    )
