"""`fwl logs`: what jobs have printed, and what they print.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..job import Job, State
from ..store import queries
from ..store.connection import Connection
from . import options, render
from .problems import FAILED, NOT_FOUND, CommandError, usage
from .records import attempt_text, exit_code, log_size, outcome_text
from .selecting import select
from .session import Session, find_jobs

if TYPE_CHECKING:
    from .printing import Piece, Printer

STREAMS = ("out", "err")
#: Each one that is followed takes a watch of the kernel, of which a user has 128.
MOST_FOLLOWED = 50
#: How many of the jobs that ended last are looked at for the very last.
_RECENT = 100


class Wish(NamedTuple):
    """What a person wants to see."""

    streams: frozenset[str]
    attempt: str | None
    #: A number, `all`, or None for the last.
    is_followed: bool

    def numbers(self, job: Job) -> list[int]:
        """The attempts of this job that are wanted."""
        if self.attempt is None:
            return [job.attempt] if job.attempt else []
        if self.attempt == "all":
            return list(range(1, job.attempt + 1))
        number = int(self.attempt)
        if not 1 <= number <= job.attempt:
            raise CommandError(f"job {job.id} has no attempt {number}; it has had {job.attempt}", NOT_FOUND)
        return [number]


def logs(
    context: typer.Context,
    ids: options.Ids = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    lines: Annotated[
        int | None,
        typer.Option("--lines", "--tail", "-n", metavar="N", min=0, help="Only the last lines, of each stream."),
    ] = None,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only what it printed to stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only what it printed to stderr.")] = False,
    attempt: Annotated[
        str | None, typer.Option("--attempt", metavar="K|all", help="Another attempt than the last one.")
    ] = None,
    exit_code_wanted: Annotated[bool, typer.Option("--exit-code", help="Exit with the code of the job.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Every byte as it is, on a terminal, too.")] = False,
    escape: Annotated[
        bool, typer.Option("--escape", help="Nothing that a terminal would obey, into a pipe, too.")
    ] = False,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", "-t", help="With -f: when each line came; - for those that were there.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If it has not begun, wait until it does.")] = False,
    path: Annotated[bool, typer.Option("--path", help="Only the names of the files that hold it.")] = False,
) -> int:
    """Print what a job has printed: its stdout to stdout, its stderr to stderr.

    fwl logs 45
    fwl logs -f
    fwl logs -n 20 --stderr @failed
    fwl logs 45 --attempt all --json

    Without an ID it is the job that is running, or the last one that ended. The files hold what was printed and not when,
    so only what is followed can have its times.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if raw and escape:
        raise usage("give either --raw or --escape, not both")
    wish = Wish(streams=_streams(stdout, stderr), attempt=_parse_attempt(attempt, follow), is_followed=follow)
    if timestamps and not follow:
        raise usage("-t goes with -f: when a line was printed is known only while it is")
    if wait and not ids:
        raise usage("--wait waits for a job that is named: fwl logs --wait 45")
    with session.open() as connection:
        jobs = find_jobs(connection, select(session, connection, ids)) if ids else [_the_one(session, connection)]
        if wait or follow:
            _put_obstacle(session, connection, jobs)
        if wait:
            jobs = _wait_for_start(session, connection, jobs)
        _check(jobs, wish, is_code_wanted=exit_code_wanted)
        if path:
            _put_paths(session, connection, jobs, wish)
        else:
            from .printing import Form, Printer

            form = Form(
                is_json=session.is_json,
                is_raw=raw,
                is_escaped=escape,
                has_prefix=len(jobs) > 1,
                has_time=timestamps,
                last_lines=lines,
            )
            _put(session, connection, jobs, wish, Printer(form))
        return exit_code(find_jobs(connection, [jobs[0].id])[0])[0] if exit_code_wanted else 0


def follow_jobs(session: Session, connection: Connection, ids: list[int], *, is_told: bool) -> int:
    """Show what these jobs print until they have ended. Returns the one's exit code, or 1 when any of them did not succeed.

    *is_told* when it was said already that no worker is there.
    """
    from .printing import Form, Printer

    wish = Wish(streams=frozenset(STREAMS), attempt=None, is_followed=True)
    form = Form(is_json=session.is_json, is_raw=False, has_prefix=len(ids) > 1, last_lines=None)
    jobs = find_jobs(connection, ids)
    if not is_told:
        _put_obstacle(session, connection, jobs)
    _put(session, connection, jobs, wish, Printer(form))
    ended = find_jobs(connection, ids)
    if len(ended) == 1:
        return exit_code(ended[0])[0]
    return 0 if all(job.state is State.SUCCEEDED for job in ended) else FAILED


def _put_obstacle(session: Session, connection: Connection, jobs: Sequence[Job]) -> None:
    left = [job.id for job in jobs if not job.has_ended]
    if left and not any(job.state is State.RUNNING for job in jobs):
        from .explaining import put_obstacle

        put_obstacle(session, connection, left)


def _streams(stdout: bool, stderr: bool) -> frozenset[str]:
    wanted = {stream for stream, is_wanted in zip(STREAMS, (stdout, stderr), strict=True) if is_wanted}
    return frozenset(wanted or STREAMS)


def _parse_attempt(text: str | None, is_followed: bool) -> str | None:
    if text is None or text == "all":
        return text
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise usage(f'--attempt: "{text}" is neither a number nor "all"')
    if is_followed:
        raise usage("-f shows the last attempt and those to come; give --attempt without it, or --attempt all")
    return text


def _the_one(session: Session, connection: Connection) -> Job:
    """The job that is meant where none is named."""
    active = connection.read(queries.active, _RECENT)
    running = [job for job in active if job.state is State.RUNNING]
    if len(running) == 1:
        return running[0]
    if running:
        listed = ", ".join(str(job.id) for job in running)
        raise usage(f"{len(running)} jobs are running, name one: {listed}")
    recent = [job for job in connection.read(queries.finished, _RECENT) if job.attempt]
    if not recent:
        raise CommandError("no job has run yet", NOT_FOUND)
    job = max(recent, key=lambda job: job.finished_at or 0.0)
    session.say(f"no job is running; job {job.id} was the last to end: {job.state}")
    return job


def _wait_for_start(session: Session, connection: Connection, jobs: Sequence[Job]) -> list[Job]:
    """These jobs, once each of them has begun, or ended without that."""
    from .outcomes import put_detached
    from .watching import looks

    left = {}
    try:
        with contextlib.closing(looks(connection, [job.id for job in jobs], is_for_start=True)) as seen:
            for look in seen:
                left = look.left
    except KeyboardInterrupt:
        put_detached(session, connection, left)
        raise
    return find_jobs(connection, [job.id for job in jobs])


def _check(jobs: Sequence[Job], wish: Wish, *, is_code_wanted: bool) -> None:
    """Refuse what cannot be done before anything is printed."""
    if is_code_wanted and len(jobs) != 1:
        raise usage("--exit-code takes one job")
    if is_code_wanted and not (wish.is_followed or jobs[0].has_ended):
        raise usage(f"job {jobs[0].id} has not ended; add -f to wait for its exit code")
    if wish.is_followed:
        check_number("-f", len(jobs))
    for job in jobs:
        wish.numbers(job)


def check_number(option: str, count: int) -> None:
    """Refuse to follow more jobs than there may be files open."""
    if count > MOST_FOLLOWED:
        raise usage(f"{option} takes up to {MOST_FOLLOWED} jobs, got {count}")


def _put_paths(session: Session, connection: Connection, jobs: Sequence[Job], wish: Wish) -> None:
    for job in jobs:
        for number in wish.numbers(job):
            for stream in (stream for stream in STREAMS if stream in wish.streams):
                path = connection.paths.log(job.id, number, stream)
                if session.is_json:
                    session.put_json("fwl.logs/1", job=job.id, attempt=number, stream=stream, path=path)
                else:
                    print(path)


def _put(session: Session, connection: Connection, jobs: Sequence[Job], wish: Wish, printer: Printer) -> None:
    for job in jobs:
        for piece in _past(connection, job, wish):
            if piece.stream in wish.streams:
                printer.put(piece)
        if not job.attempt and not (wish.is_followed and job.state is State.QUEUED):
            session.chat(f"job {job.id} has not begun; see: fwl why {job.id}")
    if wish.is_followed:
        _follow(session, connection, jobs, wish, printer)
    printer.finish()


def _past(connection: Connection, job: Job, wish: Wish) -> Iterator[Piece]:
    """What there is of a job's attempts; when it is followed, of those before the last."""
    from .. import logs
    from .printing import Piece

    for number in wish.numbers(job):
        if number < job.attempt:
            for stream, path in zip(STREAMS, logs.log_paths(connection.paths, job, number), strict=True):
                yield from (Piece(job.id, number, stream, data) for data in _chunks(path))
        elif not wish.is_followed:
            for stream, data in logs.follow(connection, job.id, is_followed=False):
                yield Piece(job.id, number, stream, data)


def _chunks(path: str) -> Iterator[bytes]:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while data := file.read(65536):
            yield data


# ---- following


def _follow(session: Session, connection: Connection, jobs: Sequence[Job], wish: Wish, printer: Printer) -> None:
    from .following import follow
    from .outcomes import put_detached
    from .printing import Piece

    tracks = {job.id: _Track(connection, job) for job in jobs}
    is_new = False
    try:
        with contextlib.closing(follow(connection, list(tracks))) as pieces:
            for job_id, stream, data in pieces:
                if not data:
                    printer.settle()
                    is_new = True  # what was there before is told
                for track in [tracks[job_id]] if data else tracks.values():
                    if (news := track.look()) is not None:
                        session.say(news)
                if data and stream in wish.streams:
                    number = tracks[job_id].attempt_of(stream, data)
                    printer.put(Piece(job_id, number, stream, data, at=time.time() if is_new else None))
    except KeyboardInterrupt:
        put_detached(session, connection, list(tracks))
        raise


class _Track:
    """One job that is followed: which attempt prints, and which is to come."""

    def __init__(self, connection: Connection, job: Job) -> None:
        self._connection = connection
        self._job = job
        self._numbers: dict[str, int] = {}
        #: The attempt whose output is being read, by stream; known from the first look on.
        self._given = dict.fromkeys(STREAMS, 0)
        self._told = _expected(job)

    def attempt_of(self, stream: str, data: bytes) -> int:
        """The attempt that printed this: what is left of one comes before what the next has printed."""
        number, newest = self._numbers[stream], self._job.attempt
        path = self._connection.paths.log(self._job.id, number, stream)
        if newest > number and self._given[stream] >= log_size(path):
            number = self._numbers[stream] = newest
            self._given[stream] = 0
        self._given[stream] += len(data)
        return number

    def look(self) -> str | None:
        """See where it is, and return what there is to say if another attempt is to come."""
        self._job = job = self._connection.read(queries.get, self._job.id) or self._job
        self._numbers = self._numbers or dict.fromkeys(STREAMS, max(1, job.attempt))
        coming = _expected(job)
        if coming <= self._told:
            return None
        self._told = coming
        over = [one for one in self._connection.read(queries.attempts, job.id) if one.number == coming - 1]
        how = render.clean(outcome_text(over[0])) if over else "is over"
        next_one = f"attempt {attempt_text(job, coming)}"
        left = job.due_at - time.time() if job.state is State.SCHEDULED and job.due_at is not None else None
        when = "follows" if left is None else f"in {render.duration(left)}"
        return f"job {job.id}: attempt {coming - 1} {how}; {next_one} {when}"


def _expected(job: Job) -> int:
    """The number of the attempt that runs, or that comes next."""
    return job.attempt if job.state is State.RUNNING or job.has_ended else job.attempt + 1
