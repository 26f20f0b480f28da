"""`fwl show`.

Runs in: the command line.
"""

import json
import sys
import time
from typing import Annotated, Any

import typer

from .. import payloads
from ..job import Attempt, Job, Kind, State
from ..store import jobs, queries
from ..store.connection import Connection
from . import render
from .explaining import put_why
from .problems import usage
from .records import (
    Record,
    as_json,
    attempt_text,
    is_lost,
    last_lines,
    log_size,
    outcome_text,
    progress_text,
    read_records,
    seconds_taken,
    sentence,
)
from .selecting import select_one
from .session import Session, find_jobs


def show(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="ID", help="45 or @last.")],
    why: Annotated[bool, typer.Option("--why", help="Only why it is not running, or how it ended.")] = False,
    shell: Annotated[
        bool,
        typer.Option("--shell", help="A line for the shell that does the same; --reveal fills in the environment."),
    ] = False,
    names: Annotated[
        bool, typer.Option("--env", help="The names in its environment; with --reveal, the values.")
    ] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show values, which may be secrets.")] = False,
    field: Annotated[
        str | None, typer.Option("--field", metavar="KEY", help="Only this field, as --json has it: state, exit_code.")
    ] = None,
) -> int:
    """Everything about one job.

    fwl show 45
    fwl show @last --why
    fwl show 45 --field exit_code
    fwl show 45 --shell
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if why:
        return put_why(session, job)
    with session.open() as connection:
        found = find_jobs(connection, [select_one(connection, job, "show")])
        [record] = read_records(connection, found, is_complete=True)
        record = record._replace(attempts=connection.read(queries.attempts, record.job.id))
        environment = _environment(connection, record) if shell or names else {}
    if field is not None:
        return _put_field(as_json(record), field)
    if names or shell:
        return _put_lines(
            _environment_lines(environment, reveal) if names else [_shell_line(record, environment, reveal)]
        )
    if session.is_json:
        session.put_json("fwl.jobs/1", jobs=[as_json(record)])
        return 0
    return _put_lines(_lines(record, time.time()))


def _put_lines(lines: list[str]) -> int:
    for line in lines:
        print(line)
    return 0


def _put_field(fields: dict[str, Any], name: str) -> int:
    if name not in fields:
        raise usage(f'--field: there is no field "{name}"', f"Fields: {' '.join(sorted(fields))}")
    value = fields[name]
    if value is not None:
        print(render.clean(value) if isinstance(value, str) else json.dumps(value))
    return 0


def _environment(connection: Connection, record: Record) -> dict[str, str]:
    if record.command is None:
        raise usage(f"job {record.job.id} is a task's call: it has the environment of its worker")
    stored = connection.read(jobs.environment_of, record.job.id)
    return {} if stored is None else payloads.decode_environment(stored)


def _environment_lines(environment: dict[str, str], is_revealed: bool) -> list[str]:
    return [render.clean(f"{name}={value}" if is_revealed else name) for name, value in sorted(environment.items())]


def _shell_line(record: Record, environment: dict[str, str], is_revealed: bool) -> str:
    """What a person could type to do the same by hand."""
    from shlex import join, quote

    assert record.command is not None
    command = record.command
    words = ["/bin/sh", "-c", command.shell or ""] if command.argv is None else command.argv
    variables = [f"{name}={value if is_revealed else '...'}" for name, value in sorted(environment.items())]
    source = f" < {quote(command.stdin)}" if command.stdin is not None else ""
    return render.clean(f"cd {quote(command.cwd)} && env -i {join([*variables, *words])}{source}")


def _lines(record: Record, now: float) -> list[str]:
    job = record.job
    title = f"job {job.id}" + (f" {job.name}" if job.name else "")
    lines = [render.clean(f"{title} {sentence(job)}")]
    lines += [f"  {label:<10} {render.clean(text)}" for label, text in _fields(record, now)]
    lines += _attempt_lines(record.attempts or [], now)
    lines += _error_lines(job)
    if record.logs is not None and job.state is State.FAILED:
        tail = last_lines(record.logs[1], 10)
        lines += ["  last lines of stderr:", *(f"    {render.clean(line)}" for line in tail)] if tail else []
    return [*lines, f"next: {_next(job)}"]


def _next(job: Job) -> str:
    """What a person may want to type now."""
    if job.state is State.RUNNING:
        words = ["logs -f", "cancel"]
    elif job.state is State.SUCCEEDED:
        words = ["logs"]
    elif job.has_ended:
        words = ["logs", "retry"] if job.attempt else ["retry"]
    else:
        words = ["why", "edit", "cancel"]
    return f" {render.dot(sys.stdout)} ".join(f"fwl {word} {job.id}" for word in words)


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
        fields.append(("ran", f"{taken}   attempt {attempt_text(job, job.attempt)}"))
    if record.progress is not None:
        fields.append(("progress", progress_text(record.progress)))
    if job.cancel is not None and job.state is State.RUNNING:
        fields.append(("cancel", "it is being ended"))
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


def _attempt_lines(attempts: list[Attempt], now: float) -> list[str]:
    """Every try, where there was more than one."""
    if len(attempts) < 2:
        return []
    rows = [_attempt_row(one, now) for one in attempts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  attempts:", *(f"    {'  '.join(row).rstrip()}" for row in cells)]


def _attempt_row(attempt: Attempt, now: float) -> list[str]:
    began, ended = attempt.started_at, attempt.finished_at
    return [
        str(attempt.number),
        render.clean(outcome_text(attempt)),
        render.local_time(began),
        render.duration(None if began is None else (now if ended is None else ended) - began),
        "" if attempt.worker_pid is None else f"worker pid {attempt.worker_pid}",
    ]


def _error_lines(job: Job) -> list[str]:
    text = job.traceback or (job.error if job.error != job.reason else None)
    if not text or job.state not in (State.FAILED, State.SCHEDULED) or is_lost(job):  # it may be an earlier attempt's
        return []
    return ["  error:", *(f"    {render.clean(line)}" for line in text.splitlines())]
