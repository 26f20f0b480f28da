"""`fwl prune`: remove jobs that ended long ago.

Runs in: the command line.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from ..job import TERMINAL
from ..settings import Keep
from . import options
from .problems import usage
from .selecting import confirm
from .session import Session
from .values import parse_duration


def prune(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="DUR", help="Instead of what [keep] in the settings says.")
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only those that ended so; may be repeated.")
    ] = None,
    is_dry: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: options.Yes = False,
) -> int:
    """Remove jobs that ended long ago, with their results and logs.

    fwl prune --dry-run
    fwl prune --older-than 7d --state succeeded

    With --older-than it asks before it removes anything, or wants --yes where it cannot ask.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    from .. import retention

    ends = {str(one) for one in TERMINAL}
    if unknown := set(state or []) - ends:
        raise usage(f'--state: "{unknown.pop()}" is not how a job ends. Ends: {" ".join(sorted(ends))}')
    keep, now = session.config.keep, time.time()
    if older_than is not None:
        seconds = parse_duration("--older-than", older_than) or 0.0
        keep = Keep(succeeded=seconds, failed=seconds, cancelled=seconds, expired=seconds, jobs=keep.jobs)
    with session.open() as connection:
        before = {one: moment for one, moment in retention.moments(keep, now).items() if not state or one in state}
        if older_than is not None and not is_dry:
            matched = sum(retention.prune(connection, before, keep.jobs, is_dry=True))
            confirm(session, matched, "remove", is_sure=yes or not matched)
        count = sum(retention.prune(connection, before, keep.jobs, is_dry=is_dry))
    if session.is_json:
        session.put_json("fwl.prune/1", removed=0 if is_dry else count, matched=count)
    elif is_dry:
        print(f"{_jobs(count)} would be removed")
    elif count:
        session.chat(f"removed {_jobs(count)} with {'its' if count == 1 else 'their'} logs")
    elif older_than is None:
        session.chat("no job is as old as [keep] in the settings says. Sooner: fwl prune --older-than 7d")
    else:
        session.chat("no job that ended is as old as that")
    return 0


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"
