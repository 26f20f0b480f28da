"""A job as one invocation shows it: the row, with its command and its result, as JSON or as words.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from .. import payloads
from ..job import Attempt, Command, Job, Kind, Parent, Progress, State
from ..limits import read_limits
from ..store import dependencies, queries, situation, ticks
from ..store.connection import Connection
from . import render
from .problems import FAILED, OWN_TROUBLE, TIMED_OUT


class Record(NamedTuple):
    """A job with what its row does not say."""

    job: Job
    command: Command | None
    #: None for a call.
    call: str
    #: The call as text, as far as it can be read without running anything.
    result: Any = None
    #: Of a call that was made in JSON.
    progress: Progress | None = None
    schedule: tuple[str, float] | None = None
    #: That made it, and the tick it is for.
    parents: list[Parent] | None = None
    #: The jobs it waits, or waited, for; None where nobody asked.
    attempts: list[Attempt] | None = None
    #: Every try, the last or running one included; None where nobody asked.
    logs: tuple[str, str] | None = None
    #: Where the output goes once an attempt is over: stdout and stderr of the last one.

    @property
    def tags(self) -> dict[str, str]:
        return dict(json.loads(self.job.tags)) if self.job.tags else {}

    @property
    def text(self) -> str:
        return self.command.text if self.command is not None else self.call


def read_records(connection: Connection, jobs: Sequence[Job], *, is_complete: bool = False) -> list[Record]:
    """These jobs with their commands and progress, and when *is_complete* with results too."""
    ids = [job.id for job in jobs]
    payloads = connection.read(queries.payloads, ids)
    progress = connection.read(situation.progress_of, ids)
    results = _read_results(connection, ids) if is_complete else {}
    schedules = connection.read(ticks.schedules_of, ids)
    parents = connection.read(dependencies.parents_of_many, ids) if is_complete else {}
    return [
        Record(
            job=job,
            command=_command(job, payloads.get(job.id, b"")),
            call=_call(job, payloads.get(job.id, b"")),
            result=results.get(job.id),
            progress=_of_this_attempt(job, progress.get(job.id)),
            schedule=schedules.get(job.id),
            parents=parents.get(job.id, []),
            logs=_logs(connection, job),
        )
        for job in jobs
    ]


def _of_this_attempt(job: Job, progress: Progress | None) -> Progress | None:
    """What an earlier attempt said of itself is not true of this one."""
    return progress if progress is not None and progress.at >= (job.started_at or 0.0) else None


def _read_results(connection: Connection, ids: list[int]) -> dict[int, Any]:
    ended = connection.read(queries.ended, ids)
    return {one.job.id: payloads.read_json_result(one.result) for one in ended if one.job.kind is Kind.CALL}


def _command(job: Job, payload: bytes) -> Command | None:
    if job.kind is not Kind.COMMAND:
        return None
    try:
        return payloads.decode_command(payload)
    except (ValueError, KeyError, TypeError):  # a flipped bit must not take the whole list along
        return Command(argv=["?"], shell=None, cwd="?")


def _call(job: Job, payload: bytes) -> str:
    if job.kind is not Kind.CALL or not payloads.is_json(payload):
        return job.task
    try:
        fields = json.loads(payload[1:])
        words = [json.dumps(value) for value in fields["args"]]
        words += [f"{key}={json.dumps(value)}" for key, value in fields["kwargs"].items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return job.task
    text = f"{job.task}({', '.join(words)})"
    return text if len(text) <= 2000 else f"{text[:2000]}..."


def _logs(connection: Connection, job: Job) -> tuple[str, str] | None:
    if not job.attempt:
        return None
    return connection.paths.log(job.id, job.attempt, "out"), connection.paths.log(job.id, job.attempt, "err")


# ---- words


def state_label(job: Job) -> str:
    """The state with what a person asks next: `failed(3)`, `failed(SIGSEGV)`, `retry 2/3`."""
    if job.state is State.SCHEDULED and job.failures:
        return f"retry {attempt_text(job, job.failures + 1, '/')}"
    if job.state is not State.FAILED:
        return str(job.state)
    if is_timed_out(job):
        return "failed(timeout)"
    if is_lost(job):
        return "failed(lost)"
    if job.exit_code is not None:
        return f"failed({job.exit_code})"
    return f"failed({signal_name(job.signal)})" if job.signal is not None else "failed"


def attempt_text(job: Job, number: int, of: str = " of ") -> str:
    """`2 of 3`, and `2` where nobody said how many there may be but perhaps the task."""
    return str(number) if job.retries is None else f"{number}{of}{max(number, job.tries)}"


def is_timed_out(job: Job) -> bool:
    """Whether its runner ended it, whatever signal that took; a task may raise `TimeoutError` itself."""
    return job.error_type == "TimeoutError" and (job.reason or "").startswith("timed out")


def is_lost(job: Job) -> bool:
    """Whether its worker died under it; what an earlier attempt has left in the row says nothing then."""
    return (job.reason or "").startswith(("lost:", "poison:"))


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def sentence(job: Job) -> str:
    """How it stands with a job: `failed: exit 3`, `succeeded`, `cancelled`."""
    reason = job.reason if job.reason != job.state else None
    if job.kind is Kind.CALL and job.state is State.FAILED and job.error and job.error_type and not is_lost(job):
        reason = f"{job.error_type}: {job.error.splitlines()[0]}" if job.error.strip() else job.error_type
    return f"{job.state}: {reason}" if reason else str(job.state)


def ending(job: Job) -> str:
    """The same with how long it took: `failed: exit 3 after 2.0s`, `failed: timed out after 2.0s`."""
    taken = seconds_taken(job, time.time())
    return sentence(job) if taken is None or is_timed_out(job) else f"{sentence(job)} after {render.duration(taken)}"


def progress_text(progress: Progress) -> str:
    """How far a job is: `40/100 half-way there`."""
    total = "" if progress.total is None else f"/{progress.total:.12g}"
    return f"{progress.done:.12g}{total}" + (f" {progress.note}" if progress.note else "")


def outcome_text(attempt: Attempt) -> str:
    """How a try ended: `failed: exit 3`, `timed out after 2.0s`."""
    reason = attempt.reason or attempt.outcome
    return reason if reason.startswith(attempt.outcome) else f"{attempt.outcome}: {reason}"


def seconds_taken(job: Job, now: float) -> float | None:
    if job.started_at is None:
        return None
    return (job.finished_at if job.finished_at is not None else now) - job.started_at


# ---- exit codes


def exit_code(job: Job) -> tuple[int, str]:
    """What `fwl run` ends with for this job, and whether the "job" said so or "fwl"."""
    if job.state is State.SUCCEEDED:
        return job.exit_code or 0, "job"
    if job.state is State.CANCELLED and job.signal is not None:
        return 128 + job.signal, "job"
    if job.state is not State.FAILED:
        return OWN_TROUBLE, "fwl"
    if is_timed_out(job):
        return TIMED_OUT, "fwl"
    if is_lost(job):
        return OWN_TROUBLE, "fwl"
    if job.exit_code is not None:
        return job.exit_code, "job"
    if job.signal is not None:
        return 128 + job.signal, "job"
    return (FAILED, "job") if job.error_type else (OWN_TROUBLE, "fwl")


# ---- JSON


def as_json(record: Record) -> dict[str, Any]:
    """A job in the words of `fwl.jobs/1`. Keys may be added, never renamed."""
    job, command = record.job, record.command
    return {
        "id": job.id,
        "name": job.name,
        "kind": str(job.kind),
        "task": job.task if job.kind is Kind.CALL else None,
        "argv": command.argv if command else None,
        "shell": command.shell if command else None,
        "cwd": command.cwd if command else None,
        "queue": job.queue,
        "priority": job.priority,
        "state": str(job.state),
        "exit_code": job.exit_code,
        "signal": job.signal if job.state is not State.RUNNING else None,
        "reason": job.reason,
        "error": job.error,
        "error_type": job.error_type,
        "traceback": job.traceback,
        "attempt": job.attempt,
        "max_attempts": job.tries,
        "slots": 1,
        "tags": record.tags,
        "unique_key": job.unique_key,
        "lock": _lock(job),
        "after": [parent.number for parent in record.parents or []],
        "after_mode": record.parents[0].kind if record.parents else "success",
        "created_at": render.rfc3339(job.created_at),
        "run_after": render.rfc3339(job.due_at),
        "started_at": render.rfc3339(job.started_at),
        "finished_at": render.rfc3339(job.finished_at),
        "duration_s": _rounded(seconds_taken(job, time.time())),
        "timeout_s": job.timeout,
        "worker": {"pid": job.worker_pid, "host": None} if job.worker_pid is not None else None,
        "pid": None,
        "log": _log_json(record),
        "result": record.result,
        "progress": _progress_json(record.progress),
        "attempts": None if record.attempts is None else [_attempt_json(one) for one in record.attempts],
        "cancel": job.cancel,
        "schedule": None if record.schedule is None else record.schedule[0],
        "scheduled_for": None if record.schedule is None else render.rfc3339(record.schedule[1]),
        "expires_at": render.rfc3339(job.expires_at),
    }


def _lock(job: Job) -> str | None:
    keys = [limit.key for limit in read_limits(job.limits or "[]")]
    return next((key.removeprefix("lock ") for key in keys if key.startswith("lock ")), None)


def _progress_json(progress: Progress | None) -> dict[str, Any] | None:
    if progress is None:
        return None
    at = render.rfc3339(progress.at)
    return {"done": progress.done, "total": progress.total, "note": progress.note, "at": at}


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    is_over = attempt.started_at is not None and attempt.finished_at is not None
    return {
        "number": attempt.number,
        "outcome": attempt.outcome,
        "started_at": render.rfc3339(attempt.started_at),
        "finished_at": render.rfc3339(attempt.finished_at),
        "duration_s": _rounded(attempt.finished_at - attempt.started_at) if is_over else None,  # type: ignore[operator]
        "reason": attempt.reason,
        "error_type": attempt.error_type,
        "error": attempt.error,
        "traceback": attempt.traceback,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "worker_pid": attempt.worker_pid,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 3)


def _log_json(record: Record) -> dict[str, Any] | None:
    if record.logs is None:
        return None
    out, err = record.logs
    return {"stdout": out, "stderr": err, "bytes": log_size(out) + log_size(err)}


def log_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def last_lines(path: str, count: int) -> list[str]:
    """The end of a log, at most 64 kB of it."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, log_size(path) - 65536))
            return os.fsdecode(file.read()).splitlines()[-count:]
    except OSError:
        return []
