"""`fwl submit`: store commands and calls, and print their ids.

Runs in: the command line.
"""

import os
import time
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer

from .. import payloads, producer
from ..errors import ConfigError, JobNotFound
from ..job import Kind, NewJob
from ..options import JobOptions
from ..sockets import Waker
from ..store import limits, queries, situation
from ..store.connection import Connection
from ..store.jobs import DEFAULT_QUEUE
from ..store.submitting import Stored
from . import options, render
from .autostart import start_or_say
from .ordering import Order, build
from .parents import read_parents
from .problems import NOT_FOUND, CommandError, usage
from .session import Session, check_queues, live_runners
from .values import parse_duration, parse_pairs, parse_priority, parse_time, read_object, typed_wrongly


def submit(
    context: typer.Context,
    words: options.Words = None,
    shell: options.Shell = None,
    script: options.Script = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="NAME", help="A task instead of a command; ARG and KEY=VALUE follow."),
    ] = None,
    imported: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Allow --task MODULE:function.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|-", help="One job for each line; {} is the line, in --name and --tag, too."
        ),
    ] = None,
    source_format: Annotated[
        str, typer.Option("--format", metavar="lines|nul|jsonl", help="How --from is read.")
    ] = "lines",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and exit with the job's code.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="As --wait, and show what it prints.")] = False,
    is_dry: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only check it, and print the commands that would be queued.")
    ] = False,
    queue: options.Queue = None,
    new_queue: options.NewQueue = False,
    priority: options.Priority = None,
    delay: options.Delay = None,
    at: options.At = None,
    zone: Annotated[
        str | None, typer.Option("--tz", metavar="ZONE", help="The zone of --at, such as Europe/Berlin.")
    ] = None,
    past_ok: Annotated[bool, typer.Option("--past-ok", help="A time that is over means now.")] = False,
    hold: options.Hold = False,
    name: options.Name = None,
    tag: options.Tags = None,
    timeout: options.Timeout = None,
    grace: options.Grace = None,
    retries: options.Retries = None,
    retry_delay: options.RetryDelay = None,
    retry_backoff: options.RetryBackoff = None,
    retry_max_delay: options.RetryMaxDelay = None,
    retry_on_timeout: options.RetryOnTimeout = False,
    expires: options.Expires = None,
    notify: options.Notify = None,
    on_lost: options.OnLost = None,
    after: options.After = None,
    after_any: options.AfterAny = None,
    after_fail: options.AfterFailure = None,
    unique: options.Unique = None,
    on_conflict: options.OnConflict = None,
    idempotency_key: options.IdempotencyKey = None,
    debounce: options.Debounce = None,
    lock: options.Lock = None,
    skip_if_running: options.SkipIfRunning = False,
    concurrency: options.Concurrency = None,
    rate: options.Rate = None,
    key: options.Key = None,
    cwd: options.Folder = None,
    clean_env: options.CleanEnvironment = False,
    env: options.Environment = None,
    env_file: options.EnvironmentFile = None,
    stdin: options.Stdin = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Queue it even if there is no such program here.")
    ] = False,
    no_start: Annotated[bool, typer.Option("--no-start", help="Start no worker if there is none.")] = False,
    task_name: Annotated[str | None, typer.Option("--task-name", hidden=True)] = None,
    args: Annotated[list[str] | None, typer.Option("--args", hidden=True)] = None,
    kwargs: Annotated[str | None, typer.Option("--kwargs", hidden=True)] = None,
    non_blocking: Annotated[bool, typer.Option("--non-blocking", hidden=True)] = False,
) -> int:
    """Queue a job and print its id.

    fwl submit -- make -j4
    fwl submit -c 'ls -l | wc -l'
    fwl submit --task add 5 3
    fwl submit --in 5m --retries 3 -- curl -fsS https://example.com
    ls *.mp4 | fwl submit --from - --name {.} -- ffmpeg -i {} {.}.webm

    With --from, {} is the line, {.} the line without its extension, {/} its last part, {//} its folder and {/.} its last
    part without extension: in the words, in --name, --tag, --lock, --key, --unique and --idempotency-key.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    order = Order(
        words=[*(words or []), *(args or [])],
        shell=shell,
        script=script,
        stdin=stdin,
        task=task or task_name,
        kwargs=read_object("--kwargs", kwargs) if kwargs else {},
        source=source,
        source_format=source_format,
        cwd=os.path.abspath(cwd or "."),
        environment=capture_environment(clean_env, env_file, env or []),
        is_checked=not no_check,
        allowed_modules=(*session.config.tasks, *(imported or [])),
        options=parse_options(
            queue=queue, priority=priority, name=name, timeout=timeout, grace=grace, retries=retries,
            retry_delay=retry_delay, retry_backoff=retry_backoff, retry_max_delay=retry_max_delay,
            retry_on_timeout=retry_on_timeout, expires=expires, callback=notify, on_lost=on_lost,
            after=read_parents(session, "--after", after), after_any=read_parents(session, "--after-any", after_any),
            after_failure=read_parents(session, "--after-fail", after_fail),
            unique=unique, on_conflict=on_conflict, idempotency_key=idempotency_key, debounce=debounce,
            lock=lock, skip_if_running=skip_if_running, concurrency=concurrency, rate=rate, key=key,
            delay=delay, at=at, zone=zone, past_ok=past_ok, tags=tag, hold=hold,
        ).over(session.config.job),
    )  # fmt: skip
    jobs = build(order)
    if wait and follow:
        raise usage("--follow waits, too: give one of --wait and --follow")
    if follow:
        from .reading import check_number

        check_number("--follow", len(jobs))
    way = Way(
        is_dry=is_dry, is_waited_for=wait, is_followed=follow, makes_queues=new_queue, skips=skip_if_running,
        starts=not no_start,
    )  # fmt: skip
    return _submit(session, jobs, way)


class Way(NamedTuple):
    """What is to be done besides storing the jobs."""

    is_dry: bool
    is_waited_for: bool
    is_followed: bool
    makes_queues: bool
    skips: bool
    #: Whether nothing is stored while another job has the lock.
    starts: bool
    #: Whether a worker may be started.


#: The options that are spans of time, by the name that each has in `JobOptions`.
_SPANS = {"timeout": "timeout", "grace": "kill_grace", "retry_delay": "retry_delay", "retry_max_delay": "retry_max_delay", "expires": "expires", "debounce": "debounce"}  # fmt: skip


def parse_options(
    *,
    delay: str | None = None,
    at: str | None = None,
    zone: str | None = None,
    past_ok: bool = False,
    retry_on_timeout: bool = False,
    skip_if_running: bool = False,
    tags: list[str] | None = None,
    hold: bool = False,
    **given: str | int | float | list[int] | None,
) -> JobOptions:
    """The options as they were typed, checked."""
    if skip_if_running:
        given["unique"] = lock_key(given.get("lock"), given.get("unique"))
    if delay is not None and at is not None:
        raise usage("give either --in or --at, not both")
    spans = {
        name: parse_duration(f"--{option.replace('_', '-')}", given.pop(option, None))  # type: ignore[arg-type]
        for option, name in _SPANS.items()
    }
    if given.get("unique") is None and (spans["debounce"] is not None or given.get("on_conflict") is not None):
        raise usage("--debounce and --on-conflict go with --unique KEY, which says of what there is to be one job")
    if spans["debounce"] is not None and (delay is not None or at is not None):
        raise usage("--debounce says when the job begins: give neither --in nor --at with it")
    times = {"delay": parse_duration("--in", delay), "eta": parse_time("--at", at, zone=zone, is_past_ok=past_ok)}
    others = {
        "retry_on_timeout": retry_on_timeout or None,
        "tags": parse_pairs("--tag", tags) if tags else None,
        "hold": hold or None,
    }
    try:
        priority = {"priority": parse_priority(given.get("priority"))}  # type: ignore[arg-type]
        return JobOptions.parse(given | spans | times | others | priority)
    except ConfigError as error:
        raise typed_wrongly(error) from None


def lock_key(lock: object, unique: object) -> str:
    """The unique key of a job that is to be added only while no other one has its lock, or waits for it."""
    if not isinstance(lock, str) or unique is not None:
        raise usage("--skip-if-running goes with --lock NAME, and without --unique")
    return f"lock {lock}"


def check_own_queues(session: Session, connection: Connection, jobs: Sequence[NewJob]) -> None:
    """As `check_queues`, for these jobs; a queue that the configuration names needs nobody to have made it."""
    named = {job.options.queue for job in jobs if job.options.queue is not None}
    check_queues(connection, named - session.declared_queues)


#: What --clean-env keeps: what login would set.
_LOGIN = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ")
#: What a job inside a job must not inherit.
_OF_A_JOB = ("FWL_JOB_ID", "FWL_ATTEMPT", "FWL_QUEUE", "FWL_DB", "FWL_SCHEDULED_FOR")


def capture_environment(is_clean: bool, file: str | None, pairs: Sequence[str]) -> dict[str, str]:
    """The variables a command will find: ours, but for those that say which job we are in; those of *file*; and *pairs*."""
    variables = {name: value for name, value in os.environ.items() if name not in _OF_A_JOB}
    if is_clean:
        variables = {name: value for name, value in variables.items() if name in _LOGIN or name.startswith("LC_")}
    return variables | _read_env_file(file) | parse_pairs("--env", list(map(_with_value, pairs)))


def _read_env_file(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    from ..commands import read_env_file

    try:
        return read_env_file(path)
    except (OSError, ValueError) as error:
        raise usage(f"--env-file: {path}: {getattr(error, 'strerror', None) or error}") from None


def _with_value(pair: str) -> str:
    if "=" in pair:
        return pair
    if pair not in os.environ:
        raise usage(f"--env: {pair} is not set here; give {pair}=VALUE")
    return f"{pair}={os.environ[pair]}"


def _submit(session: Session, jobs: list[NewJob], way: Way) -> int:
    with session.open() as connection:
        if not way.makes_queues:
            check_own_queues(session, connection, jobs)
        if way.is_dry:
            return _put_dry(session, jobs)
        if way.skips and (holder := lock_holder(connection, jobs[0])) is not None:
            say_skipped(connection, holder, jobs[0])
            return 0
        stored = store(connection, jobs)
        is_told = False
        rows = live_runners(connection)
        _put_ids(session, connection, stored, jobs, is_served=bool(rows), is_followed=way.is_followed)
        if way.skips and stored.existing:
            say_skipped(connection, stored.ids[0], jobs[0])
        elif len(stored.existing) + _say_over(connection, stored, jobs) == len(stored.ids):
            pass
        elif not rows:
            is_told = not start_or_say(session, connection, may_start=way.starts)
        else:
            from .prospects import note_missing

            note_missing(rows, jobs)
        if way.is_followed:
            return _follow(session, connection, stored, is_told=is_told)
        return _wait(session, connection, stored, is_told=is_told) if way.is_waited_for else 0


def _say_over(connection: Connection, stored: Stored, jobs: list[NewJob]) -> int:
    if not any(job.parents for job in jobs):
        return 0
    from .prospects import say_over

    return say_over(connection, stored)


def _put_dry(session: Session, jobs: list[NewJob]) -> int:
    for job in jobs:
        text = payloads.decode_command(job.payload).text if job.kind == Kind.COMMAND else job.task
        queue = job.options.queue or DEFAULT_QUEUE
        if session.is_json:
            session.put_json("fwl.submitted/1", id=None, queue=queue, kind=str(job.kind), command=text, created=False)
        else:
            print(render.clean(text))
    session.chat(f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'} would be queued")
    return 0


def _follow(session: Session, connection: Connection, stored: Stored, *, is_told: bool) -> int:
    from .reading import follow_jobs

    return follow_jobs(session, connection, list(stored.ids), is_told=is_told)


def _wait(session: Session, connection: Connection, stored: Stored, *, is_told: bool) -> int:
    from .waiting import until_ended

    return until_ended(session, connection, list(stored.ids), is_told=is_told)


def lock_holder(connection: Connection, job: NewJob) -> int | None:
    """The job that has the lock of this one now."""
    return connection.read(limits.holder, f"lock {job.options.lock}")


def say_skipped(connection: Connection, holder: int, job: NewJob) -> None:
    """Nothing was added; says for whose sake."""
    found = connection.read(queries.get, holder)
    state = "gone" if found is None else str(found.state)
    if found is not None and found.started_at is not None:
        state += f" {render.duration(time.time() - found.started_at)}"
    render.say(f'skipped: job {holder} holds lock "{render.clean(job.options.lock or "")}" ({state})')


def store(connection: Connection, jobs: Sequence[NewJob]) -> Stored:
    """Store the jobs in one transaction and wake who can run them."""
    waker = Waker()
    try:
        return producer.submit_one(connection, waker, producer.Submission(jobs))
    except JobNotFound as missing:  # one that these were to come after
        newest = connection.read(queries.newest_id)
        known = f"newest is {newest}" if newest else "none was ever submitted here"
        raise CommandError(f"--after {missing.job_id}: no such job ({known})", NOT_FOUND) from None
    finally:
        waker.close()


def _put_ids(
    session: Session,
    connection: Connection,
    stored: Stored,
    jobs: list[NewJob],
    *,
    is_served: bool,
    is_followed: bool,
) -> None:
    ids = stored.ids
    if session.is_json:
        for job_id, job in zip(ids, jobs, strict=True):
            fields = _submitted(connection, job_id, job, is_served)
            session.put_json("fwl.submitted/1", **fields | {"created": job_id not in stored.existing})
        return
    if is_followed:  # stdout is the jobs' own then
        session.chat(f"job {', '.join(map(str, ids))} - Ctrl-C leaves it running")
        return
    print("\n".join(map(str, ids)))
    render.flush()
    for job_id in sorted(stored.existing):
        _say_kept(connection, job_id)
    if len(ids) == 1 and not stored.existing and session.is_chatting:
        from .prospects import put_standing

        put_standing(session, connection, ids[0])


def _say_kept(connection: Connection, job_id: int) -> None:
    job = connection.read(queries.get, job_id)
    if job is not None:
        key = job.unique_key or job.idempotency_key or ""
        which = "unique" if job.unique_key else "idempotency"
        render.say(f'already {job.state} as job {job_id} ({which} key "{render.clean(key)}"); nothing added')


def _submitted(connection: Connection, job_id: int, job: NewJob, is_served: bool) -> dict[str, object]:
    row = connection.read(
        lambda sql: sql.execute("SELECT state, queue, due_at FROM job WHERE id = ?", (job_id,)).fetchone()
    )
    return {
        "id": job_id,
        "state": row[0],
        "queue": row[1],
        "kind": str(Kind(job.kind)),
        "ahead": connection.read(situation.count_ahead, job_id),
        "created": True,
        "unique_key": job.options.unique,
        "run_after": render.rfc3339(row[2]),
        "worker_alive": is_served,
    }
