"""What can be read of jobs.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import NotOurDatabase
from ..job import TERMINAL, Attempt, Job, Kind, Progress, State

_FIELDS = (
    "id, state, reason, kind, task, name, tags, queue, priority, created_at, due_at, started_at, finished_at, attempt, failures, "
    "retries, timeout, expires_at, worker, worker_pid, cancel, unique_key, idempotency_key, limits, exit_code, signal, error_type, error, traceback"
)
_NAMES = tuple(name.strip() for name in _FIELDS.split(","))
#: The end of the year 9999.
_LAST_MOMENT = 253402300800.0
_TERMINAL = "('succeeded', 'failed', 'cancelled', 'expired')"

_GET = f"SELECT {_FIELDS} FROM job WHERE id = ?"
_GET_MANY = f"SELECT {_FIELDS} FROM job WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"
_EXISTING = "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?))"
_STANDINGS = """
SELECT id, state, started_at IS NOT NULL
  FROM job
 WHERE id IN (SELECT value FROM json_each(?))
"""
_RESULT = f"SELECT {_FIELDS}, result, result_checksum FROM job WHERE id = ?"
_ENDED = f"""
SELECT {_FIELDS}, result, result_checksum
  FROM job
 WHERE id IN (SELECT value FROM json_each(?))
   AND state IN {_TERMINAL}
"""
_RUNNING = f"""
SELECT {_FIELDS}
  FROM job INDEXED BY job_running       -- for the order, SQLite would rather read all jobs by id
 WHERE state = 'running'
 ORDER BY id
 LIMIT ?
"""
_ACTIVE = [
    _RUNNING,
    f"SELECT {_FIELDS} FROM job WHERE state = 'queued' ORDER BY queue, lane, priority DESC, id LIMIT ?",  # as the index is
    f"SELECT {_FIELDS} FROM job WHERE state = 'scheduled' ORDER BY due_at LIMIT ?",
    f"SELECT {_FIELDS} FROM job WHERE state = 'blocked' ORDER BY task, id LIMIT ?",
]
_FINISHED = f"SELECT {_FIELDS} FROM job WHERE state IN {_TERMINAL} ORDER BY id DESC LIMIT ?"
_COUNTS = {
    State.RUNNING: "SELECT count(*) FROM job WHERE state = 'running'",
    State.QUEUED: "SELECT count(*) FROM job WHERE state = 'queued'",
    State.SCHEDULED: "SELECT count(*) FROM job WHERE state = 'scheduled'",
    State.BLOCKED: "SELECT count(*) FROM job WHERE state = 'blocked'",
}


class Ended(NamedTuple):
    """A job that has ended, with its result as it was stored."""

    job: Job
    result: bytes | None
    result_checksum: int | None


class Standing(NamedTuple):
    """How it stands with a job, as far as somebody who waits for it needs to know."""

    state: State
    has_started: bool


def _job(row: Sequence[object]) -> Job:
    fields = dict(zip(_NAMES, row, strict=False))
    try:
        job = Job(**fields | {"state": State(str(fields["state"])), "kind": Kind(str(fields["kind"]))})  # type: ignore[arg-type]
        _check(job)
    except (ValueError, TypeError) as error:  # SQLite has no checksums: a bit that flipped on the disk is a value to it
        raise _damaged(fields["id"], error) from error
    return job


def _check(job: Job) -> None:
    """Raise what those who show a job would stumble over."""
    if job.tags is not None:
        dict(json.loads(job.tags))
    for moment in (job.created_at, job.due_at, job.started_at, job.finished_at, job.expires_at):
        if moment is not None and not 0 <= moment < _LAST_MOMENT:
            raise ValueError(f"{moment!r} is no moment")


def _damaged(job_id: object, what: object) -> NotOurDatabase:
    return NotOurDatabase(f"job {job_id} is damaged in the file ({what}); restore a backup")


def _bytes(job_id: object, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise _damaged(job_id, f"{type(value).__name__} where its bytes should be")
    return value


def _ended(row: Sequence[object]) -> Ended:
    result, checksum = row[-2:]
    if result is not None:
        _bytes(row[0], result)
    return Ended(_job(row), result, checksum)  # type: ignore[arg-type]


def get(sql: sqlite3.Connection, job_id: int) -> Job | None:
    """One job, or None."""
    row = sql.execute(_GET, (job_id,)).fetchone()
    return _job(row) if row else None


def get_many(sql: sqlite3.Connection, ids: Iterable[int]) -> list[Job]:
    """Those of these jobs that exist, by id."""
    rows = sql.execute(_GET_MANY, (json.dumps(list(ids)),))
    return [_job(row) for row in rows]


def existing(sql: sqlite3.Connection, ids: Iterable[int]) -> set[int]:
    """Those of these ids that are a job's."""
    return {row[0] for row in sql.execute(_EXISTING, (json.dumps(list(ids)),))}


def standings(sql: sqlite3.Connection, ids: Iterable[int]) -> dict[int, Standing]:
    """How it stands with those of these jobs that exist."""
    rows = sql.execute(_STANDINGS, (json.dumps(list(ids)),))
    return {row[0]: Standing(State(row[1]), bool(row[2])) for row in rows}


def ended(sql: sqlite3.Connection, ids: Iterable[int]) -> list[Ended]:
    """Those of these jobs that have ended, with their results."""
    rows = sql.execute(_ENDED, (json.dumps(list(ids)),))
    return [_ended(row) for row in rows]


def result(sql: sqlite3.Connection, job_id: int) -> Ended | None:
    """One job with its result, whether it has ended or not; None when there is no such job."""
    row = sql.execute(_RESULT, (job_id,)).fetchone()
    return _ended(row) if row else None


def count_ended(sql: sqlite3.Connection, ids: Iterable[int]) -> int:
    """How many of these jobs have ended; one that is no longer there has."""
    wanted = list(ids)
    row = sql.execute(
        "SELECT count(*) FROM job WHERE id IN (SELECT value FROM json_each(?)) AND finished_at IS NULL",
        (json.dumps(wanted),),
    ).fetchone()
    return len(wanted) - int(row[0])


def payload(sql: sqlite3.Connection, job_id: int) -> bytes | None:
    """A job's payload as it was stored."""
    row = sql.execute("SELECT payload FROM job WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _bytes(job_id, row[0])


def payloads(sql: sqlite3.Connection, ids: Iterable[int]) -> dict[int, bytes]:
    """The payloads of these jobs."""
    rows = sql.execute(
        "SELECT id, payload FROM job WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
    )
    return {row[0]: _bytes(*row) for row in rows}


def attempts(sql: sqlite3.Connection, job_id: int) -> list[Attempt]:
    """Every try of a job, the last or running one included."""
    rows = sql.execute(_ATTEMPTS, (job_id,)).fetchall()
    found = [Attempt(**dict(zip(_TRY_NAMES, row, strict=True))) for row in rows]
    job = get(sql, job_id)
    if job is not None and job.started_at is not None and (not found or found[-1].number < job.attempt):
        found.append(_last_attempt(job))
    return found


_TRY = "number, outcome, started_at, finished_at, reason, error_type, error, traceback, exit_code, signal, worker_pid"
_TRY_NAMES = tuple(_TRY.split(", "))
_ATTEMPTS = f"SELECT {_TRY} FROM attempt WHERE job = ? ORDER BY number"


def _last_attempt(job: Job) -> Attempt:
    reason = job.reason or ""
    outcome = "timed out" if reason.startswith("timed out") else str(job.state)
    return Attempt(
        outcome="lost" if reason.startswith(("lost:", "poison:")) else outcome,
        number=job.attempt,
        **{name: getattr(job, name) for name in _TRY_NAMES if name not in ("number", "outcome")},
    )


def progress(sql: sqlite3.Connection, job_id: int) -> Progress | None:
    """How far a job said it was last, or None."""
    row = sql.execute("SELECT done, total, note, at FROM progress WHERE job = ?", (job_id,)).fetchone()
    return Progress(**dict(zip(("done", "total", "note", "at"), row, strict=True))) if row else None


def newest_id(sql: sqlite3.Connection) -> int:
    """The id given last, 0 on a fresh file."""
    return int(sql.execute("SELECT ifnull(max(id), 0) FROM job").fetchone()[0])


def active(sql: sqlite3.Connection, limit: int) -> list[Job]:
    """Jobs that have not ended: the running ones, then in the order they will be looked at."""
    found: list[Job] = []
    for statement in _ACTIVE:
        found += [_job(row) for row in sql.execute(statement, (limit - len(found),))]
    return found


def running(sql: sqlite3.Connection, limit: int) -> list[Job]:
    """The jobs that run, by id."""
    return [_job(row) for row in sql.execute(_RUNNING, (limit,))]


def finished(sql: sqlite3.Connection, limit: int) -> list[Job]:
    """The ended jobs with the highest ids, newest first."""
    rows = sql.execute(_FINISHED, (limit,))
    return [_job(row) for row in rows]


def counts(sql: sqlite3.Connection) -> dict[State, int]:
    """How many jobs are in each state that is not an end."""
    return {state: sql.execute(statement).fetchone()[0] for state, statement in _COUNTS.items()}


assert {state.value for state in TERMINAL} == set(_TERMINAL.strip("()").replace("'", "").split(", "))
