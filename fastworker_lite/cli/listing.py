"""`fwl status`: what is running, what waits, what has ended lately.

Runs in: the command line.
"""

import time
from typing import Annotated, NamedTuple

import typer

from ..job import ACTIVE, TERMINAL, Job, State
from ..store import queries, selection
from ..store.connection import Connection
from ..store.selection import Filter
from . import columns, options, render
from .problems import FAILED, usage
from .records import Record, as_json, read_records
from .selecting import has_filter, read_filter, select_ids
from .session import Session, find_jobs, in_pages, read_jobs

#: How many jobs are shown unless -a or -n says otherwise.
MOST_ACTIVE, MOST_FINISHED = 50, 10


class Wish(NamedTuple):
    """Which jobs a person wants to see, and how."""

    words: list[str]
    wanted: Filter
    is_narrowed: bool
    #: Whether anything was said of which.
    is_all: bool
    limit: int | None = None
    fields: tuple[str, ...] | None = None
    sort: str | None = None
    is_reversed: bool = False
    is_tsv: bool = False
    is_cut: bool = True

    @property
    def is_ranked(self) -> bool:
        """Whether the first of all in some order are wanted, so that all must be looked at."""
        return self.sort is not None and self.limit is not None


def status(
    context: typer.Context,
    ids: options.Ids = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All jobs, however many.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", min=0, help="At most so many: the newest that ended.")
    ] = None,
    fields: Annotated[
        str | None, typer.Option("--fields", metavar="LIST", help="What to show of each: id,state,name,exit_code.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", metavar="[-]FIELD", help="By this field, with - the largest first.")
    ] = None,
    is_reversed: Annotated[bool, typer.Option("--reverse", help="In the opposite order.")] = False,
    tsv: Annotated[bool, typer.Option("--tsv", help="Tab-separated, nothing cut.")] = False,
    no_trunc: Annotated[bool, typer.Option("--no-trunc", help="Cut nothing, on a terminal, too.")] = False,
    count: Annotated[
        bool, typer.Option("--count", help="Only how many: jobs that have not ended, or what the filters say.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep the list on the screen; q ends it.")] = False,
    until_done: Annotated[bool, typer.Option("--until-done", help="With --watch: end when all of them have.")] = False,
    wants_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 when one of them has failed.")] = False,
    task_id: options.TaskId = None,
) -> int:
    """List jobs: those that have not ended, and the last that have.

    fwl status
    fwl status 45 46
    fwl status -a --state failed --since 24h
    fwl status --sort -duration -n 5
    fwl status --watch --queue io
    fwl status --tsv --fields id,name,exit_code

    With --sort and -n both, the first N are those of all jobs.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    field, is_backwards = columns.parse_order(sort, is_reversed=is_reversed)
    wish = Wish(
        words=[*(ids or []), *([task_id] if task_id is not None else [])],
        wanted=read_filter(session),
        is_narrowed=has_filter(session),
        is_all=everything,
        limit=limit,
        fields=columns.parse_fields(fields),
        sort=field,
        is_reversed=is_backwards,
        is_tsv=tsv,
        is_cut=not no_trunc,
    )
    if until_done and not watch:
        raise usage("--until-done goes with --watch; to wait for jobs: fwl wait")
    with session.open() as connection:
        if count:
            return _put_count(session, connection, wish)
        if watch:
            from .live_list import watch as watch_list

            records = watch_list(session, connection, wish, is_until_done=until_done)
        else:
            records = _put(session, connection, wish)
    return FAILED if wants_code and any(record.job.state is State.FAILED for record in records) else 0


def put_default(session: Session) -> int:
    """What `fwl` alone prints."""
    with session.open() as connection:
        _put(session, connection, Wish(words=[], wanted=Filter(), is_narrowed=False, is_all=False))
    return 0


# ---- which


def read(connection: Connection, wish: Wish, *, is_complete: bool = False) -> list[Record]:
    """The jobs a person wants to see, in the order in which they are shown."""
    jobs = _select(connection, wish)
    is_complete = is_complete or wish.fields is not None
    records = [one for page in in_pages(jobs) for one in read_records(connection, page, is_complete=is_complete)]
    records = columns.sort(records, wish.sort, is_reversed=wish.is_reversed)
    return records[: wish.limit] if wish.is_ranked else records


def _select(connection: Connection, wish: Wish) -> list[Job]:
    if wish.words:
        ids = select_ids(connection, wish.words)
        jobs = find_jobs(connection, ids)
        if wish.is_narrowed:
            matching = set(connection.read(selection.everything, wish.wanted._replace(ids=tuple(ids))))
            jobs = [job for job in jobs if job.id in matching]
        return jobs if wish.is_ranked else jobs[: wish.limit]
    ids = _ids(connection, wish)
    jobs_by_id = {job.id: job for job in read_jobs(connection, ids)}
    return [jobs_by_id[job_id] for job_id in ids if job_id in jobs_by_id]


def _ids(connection: Connection, wish: Wish) -> list[int]:
    is_asked_for_ended = len(wish.wanted.states) < len(State) and bool(wish.wanted.states & TERMINAL)
    if wish.is_ranked:
        return connection.read(selection.everything, wish.wanted)
    if wish.is_all or is_asked_for_ended:
        found = connection.read(selection.everything, wish.wanted)
        return found if wish.limit is None else found[max(0, len(found) - wish.limit) :]
    limit = MOST_ACTIVE if wish.limit is None and not wish.is_narrowed else wish.limit
    active = connection.read(selection.active, wish.wanted, limit)
    most = MOST_FINISHED if wish.limit is None else min(MOST_FINISHED, wish.limit - len(active))
    return active + connection.read(selection.ended, wish.wanted, most)


def _put_count(session: Session, connection: Connection, wish: Wish) -> int:
    is_narrowed = wish.is_narrowed or wish.is_all
    if wish.words:
        total = len(_select(connection, wish))
    elif is_narrowed:
        total = connection.read(selection.count, wish.wanted)
    else:
        total = sum(connection.read(queries.counts).values())
    if session.is_json:
        session.put_json("fwl.count/1", count=total)
    else:
        print(total)
    return 0


# ---- how


def _put(session: Session, connection: Connection, wish: Wish) -> list[Record]:
    records = read(connection, wish, is_complete=session.is_json)
    if session.is_json:
        put_json(session, records, wish)
    elif session.is_quiet:
        for record in records:
            print(record.job.id)
    elif wish.is_tsv:
        render.put_tsv([columns.row(record, wish.fields or columns.MACHINE_FIELDS) for record in records])
    elif records:
        from . import footer

        footer.put_database(session)
        header, rows = columns.table(records, wish.fields or columns.FIELDS, time.time())
        render.put_columns(header, rows, is_cut=wish.is_cut)
        render.flush()
        if not (wish.words or wish.is_narrowed or wish.is_all or wish.is_ranked):
            _put_hidden(session, connection, records)
        footer.put(session, connection)
    elif wish.limit != 0:
        is_narrowed = wish.words or wish.is_narrowed or wish.is_all
        session.say("no jobs match" if is_narrowed else "no jobs yet. Try: fwl submit -- echo hello")
    return records


def put_json(session: Session, records: list[Record], wish: Wish) -> None:
    """The list as one document."""
    session.put_json("fwl.jobs/1", jobs=[_as_json(record, wish) for record in records])


def _as_json(record: Record, wish: Wish) -> dict[str, object]:
    if wish.fields is None:
        return as_json(record)
    return {name: columns.value(record, name) for name in wish.fields}


def _put_hidden(session: Session, connection: Connection, records: list[Record]) -> None:
    counts = connection.read(queries.counts)
    hidden = sum(counts.values()) - sum(record.job.state in ACTIVE for record in records)
    if hidden > 0:
        session.say(f"{hidden} more {'has' if hidden == 1 else 'have'} not ended; all of them: fwl status -a")
