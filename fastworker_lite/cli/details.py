"""`fwl show` and `fwl version`.

Runs in: the command line.
"""

from __future__ import annotations

import sqlite3
import sys
import time
from typing import Annotated

import typer

from .. import __version__
from ..job import Job, Kind, State
from . import render
from .problems import usage
from .records import Record, as_json, last_lines, log_size, read_records, seconds_taken, sentence
from .session import Session, find_jobs, select_ids


def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="ID", help="45 or @last.")],
) -> int:
    """Everything about one job."""
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    with session.open() as connection:
        ids = select_ids(connection, [job])
        if len(ids) != 1:
            raise usage(f"show takes one job, got {len(ids)}")
        [record] = read_records(connection, find_jobs(connection, ids), is_complete=True)
    if session.is_json:
        session.put_json("fwl.jobs/1", jobs=[as_json(record)])
        return 0
    for line in _lines(record, time.time()):
        print(line)
    return 0


def _lines(record: Record, now: float) -> list[str]:
    job = record.job
    title = f"job {job.id}" + (f" {job.name}" if job.name else "")
    lines = [render.clean(f"{title} {sentence(job)}")]
    lines += [f"  {label:<10} {render.clean(text)}" for label, text in _fields(record, now)]
    lines += _error_lines(job)
    if record.logs is not None and job.state is State.FAILED:
        tail = last_lines(record.logs[1], 10)
        lines += ["  last lines of stderr:", *(f"    {render.clean(line)}" for line in tail)] if tail else []
    return lines


def _fields(record: Record, now: float) -> list[tuple[str, str]]:
    job = record.job
    fields = [("command" if job.kind is Kind.COMMAND else "task", record.text)]
    if record.command is not None:
        fields.append(("cwd", record.command.cwd))
    fields.append(("queue", f"{job.queue}   priority {job.priority}"))
    fields.append(("submitted", f"{render.local_time(job.created_at)} ({render.age(now - job.created_at)} ago)"))
    if job.due_at is not None and job.state is State.SCHEDULED:
        fields.append(("due", f"{render.local_time(job.due_at)} (in {render.duration(job.due_at - now)})"))
    if job.started_at is not None and job.attempt:
        taken = render.duration(seconds_taken(job, now))
        fields.append(("ran", f"{taken}   attempt {job.attempt} of {max(job.attempt, job.tries)}"))
    if job.timeout is not None:
        fields.append(("timeout", render.duration(job.timeout)))
    if job.kind is Kind.CALL and job.state is State.SUCCEEDED:
        fields.append(("result", _result_text(record)))
    for path in record.logs or ():
        if log_size(path):
            fields.append(("log", f"{path} ({render.size(log_size(path))})"))
    return fields


def _result_text(record: Record) -> str:
    import json

    return json.dumps(record.result) if record.result is not None else "null, or a Python value: it is read with Client"


def _error_lines(job: Job) -> list[str]:
    text = job.traceback or (job.error if job.error != job.reason else None)
    if not text:
        return []
    return ["  error:", *(f"    {render.clean(line)}" for line in text.splitlines())]


def version(context: typer.Context) -> int:
    """Print the version."""
    return put_version(context.find_object(Session))  # type: ignore[arg-type]


def put_version(session: Session) -> int:
    """Print the version, with what it runs on in JSON."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    if session.is_json:
        session.put_json("fwl.version/1", version=__version__, python=python, sqlite=sqlite3.sqlite_version)
    else:
        print(f"fastworker_lite {__version__}")
    return 0
