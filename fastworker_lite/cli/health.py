"""`fwl health`: one line and an exit code for monitoring.

Runs in: the command line.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import typer

from ..store import situation
from ..store.connection import Connection
from . import render
from .problems import FAILED, UNAVAILABLE, usage
from .session import Session
from .values import parse_duration
from .workers import find_present

#: Failures are counted up to this: nobody reads further, and counting takes time.
_MOST_COUNTED = 10_000
_DAY = "24h"


class _Health(NamedTuple):
    runners: int
    workers: int
    oldest: situation.Waiting | None
    #: The job that waits for a worker longest, None when none does.
    failed: int | None
    #: None when nobody asked.


class _Limits(NamedTuple):
    queue_age: float | None
    failed: int | None
    since: float
    since_text: str


def health(
    context: typer.Context,
    max_queue_age: Annotated[
        str | None,
        typer.Option("--max-queue-age", metavar="DUR", help="Unhealthy when a job waits longer for a worker."),
    ] = None,
    max_failed: Annotated[
        int | None,
        typer.Option("--max-failed", metavar="N", min=0, help="Unhealthy when more jobs failed; see --since."),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DUR", help="Count failures of this span.  [default: 24h]")
    ] = None,
) -> int:
    """Say in one line whether jobs are being run. Exit 0 when healthy, 1 when not, 69 without a runner.

    Jobs of paused queues may wait for as long as they like.

    fwl health
    fwl health --max-queue-age 15m --max-failed 0 --since 24h
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if since is not None and max_failed is None:
        raise usage("--since says of which time --max-failed counts; give both")
    text = since or _DAY
    age, span = parse_duration("--max-queue-age", max_queue_age), parse_duration("--since", text)
    limits = _Limits(age, max_failed, span or 0.0, text)
    now = time.time()
    with session.open_existing() as connection:
        found = _look(connection, limits, now) if connection is not None else _Health(0, 0, None, None)
    return _report(session, found, limits, now)


def _look(connection: Connection, limits: _Limits, now: float) -> _Health:
    present = find_present(connection)
    failed = None
    if limits.failed is not None:
        most = max(limits.failed + 1, _MOST_COUNTED)
        failed = connection.read(situation.count_failed, now - limits.since, most)
    return _Health(len(present.runners), len(present.workers), connection.read(situation.oldest_waiting, now), failed)


def _faults(found: _Health, limits: _Limits, now: float) -> Iterator[str]:
    """What is wrong, as ends of `unhealthy: `."""
    if not found.runners:
        yield "no runner serves this file (start one: fwl worker)"
    if limits.queue_age is not None and found.oldest is not None and now - found.oldest.since > limits.queue_age:
        waited, most = render.duration(now - found.oldest.since), render.duration(limits.queue_age)
        yield f"job {found.oldest.id} has waited {waited} for a worker, more than {most} (fwl why {found.oldest.id})"
    if limits.failed is not None and (found.failed or 0) > limits.failed:
        yield f"{found.failed} jobs failed in the last {limits.since_text}, more than {limits.failed} (fwl status --state failed)"


def _report(session: Session, found: _Health, limits: _Limits, now: float) -> int:
    faults = list(_faults(found, limits, now))
    oldest = None if found.oldest is None else max(0.0, now - found.oldest.since)
    if session.is_json:
        session.put_json(
            "fwl.health/1",
            healthy=not faults,
            faults=faults,
            runners=found.runners,
            workers=found.workers,
            oldest_job=None if found.oldest is None else found.oldest.id,
            oldest_s=None if oldest is None else round(oldest, 3),
            failed=found.failed,
            since_s=None if limits.failed is None else limits.since,
        )
    elif faults:
        print("unhealthy: " + "; ".join(faults))
    elif not session.is_quiet:
        waiting = "nothing waits" if oldest is None else f"a job has waited {render.duration(oldest)}"
        failed = "" if found.failed is None else f", {found.failed} failed in {limits.since_text}"
        print(f"healthy: {_count(found.runners, 'runner')}, {_count(found.workers, 'worker')}, {waiting}{failed}")
    return (FAILED if found.runners else UNAVAILABLE) if faults else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
