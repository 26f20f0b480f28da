"""`fwl run`: a job now, here, with its output and its exit code.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Annotated

import typer

from .. import changing
from ..job import Job, NewJob, State
from ..sockets import Waker
from ..store import queries
from ..store.connection import Connection
from . import options, render
from .ordering import Order, build
from .parents import read_parents
from .problems import usage
from .records import ending, exit_code
from .session import Session, live_runners
from .submitting import (
    capture_environment,
    check_own_queues,
    lock_holder,
    parse_options,
    say_skipped,
    store,
)

if TYPE_CHECKING:
    from .signals import Signals
    from .terminals import Shown

#: Seconds between two looks at whether anybody is there to run the job.
LOOK_FOR_RUNNER = 1.0
#: Seconds before the next look at a job that somebody else has taken, who is not to be seen.
PAUSE = 0.05


def run(
    context: typer.Context,
    words: options.Words = None,
    shell: options.Shell = None,
    script: options.Script = None,
    quiet_unless_failed: Annotated[
        bool, typer.Option("--quiet-unless-failed", help="Show the output only of a job that failed.")
    ] = False,
    no_pty: Annotated[
        bool, typer.Option("--no-pty", help="Give the command pipes, where it would find a terminal as we do.")
    ] = False,
    queue: options.Queue = None,
    new_queue: options.NewQueue = False,
    priority: options.Priority = None,
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
    ping: Annotated[
        str | None,
        typer.Option("--ping", metavar="URL", help="Post to URL/start, and to URL/CODE with the end of its output."),
    ] = None,
) -> int:
    """Queue a command, run it, show its output, and exit with its code.

    fwl run -- make -j4
    fwl run --timeout 2h --quiet-unless-failed -- backup.sh
    fwl run --retries 3 --retry-delay 5s --retry-backoff 2 -- ./fetch.sh

    A running worker takes it; without one it runs in this process, and finds a terminal if there is one. Ctrl-C is passed
    on to the command; a second one ends it. With --skip-if-running a job that is killed with its worker is not tried again,
    unless --on-lost says so: it would keep the lock until then.
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    if session.is_json:
        raise usage("run has no --json: its stdout is the job's. Use fwl submit --wait --json")
    order = Order(
        verb="run",
        words=words or [],
        shell=shell,
        script=script,
        stdin=stdin,
        cwd=os.path.abspath(cwd or "."),
        environment=capture_environment(clean_env, env_file, env or []),
        is_checked=False,
        options=parse_options(
            queue=queue, priority=priority, name=name, timeout=timeout, grace=grace, retries=retries,
            retry_delay=retry_delay, retry_backoff=retry_backoff, retry_max_delay=retry_max_delay,
            retry_on_timeout=retry_on_timeout, expires=expires, callback=notify,
            on_lost=on_lost or session.config.job.on_lost or ("fail" if skip_if_running else None),
            after=read_parents(session, "--after", after), after_any=read_parents(session, "--after-any", after_any),
            after_failure=read_parents(session, "--after-fail", after_fail),
            lock=lock, skip_if_running=skip_if_running, concurrency=concurrency, rate=rate, key=key,
            tags=tag,
        ).over(session.config.job),
    )  # fmt: skip
    from .terminals import Shown

    jobs = build(order)
    if ping is not None:
        from . import pinging

        pinging.check(ping)
    with session.open() as connection:
        if not new_queue:
            check_own_queues(session, connection, jobs)
        _recover_holder(session, connection, jobs[0])
        if skip_if_running and (holder := lock_holder(connection, jobs[0])) is not None:
            say_skipped(connection, holder, jobs[0])
            return 0
        stored = store(connection, jobs)
        [job_id] = stored.ids
        if stored.existing:
            say_skipped(connection, job_id, jobs[0])
            return 0
        shown = Shown(is_output=not quiet_unless_failed, is_terminal=not no_pty)
        if ping is None:
            return _run(session, connection, job_id, shown)[1]
        pinging.tell_start(session, ping)
        job, code = _run(session, connection, job_id, shown)
        pinging.tell_end(session, connection, ping, job, code)
        return code


def _run(session: Session, connection: Connection, job_id: int, shown: Shown) -> tuple[Job, int]:
    from .signals import Signals

    job = None
    with Signals() as signals:
        while job is None:  # whoever served the file may be gone a moment later
            is_served = bool(live_runners(connection))
            if is_served:
                job = _watch(connection, job_id, signals, is_shown=shown.is_output)
            else:
                job = _run_here(session, connection, job_id, signals, shown)
    if not is_served and session.config.hooks.is_wanted:
        from .. import hooks

        for problem in hooks.run_for(session.config.hooks, connection, job_id):
            session.say(render.clean(problem))
    if not shown.is_output and job.state is not State.SUCCEEDED:
        _replay(connection, job)
    code = exit_code(job)[0]
    if job.state is State.CANCELLED and signals.last is not None:
        code = 128 + signals.last
    _put_end(session, job, code, is_told=not shown.is_output)
    return job, code


def _recover_holder(session: Session, connection: Connection, job: NewJob) -> None:
    """Who has the lock may be dead, and nobody has noticed."""
    if job.options.lock is not None and (holder := lock_holder(connection, job)) is not None:
        from . import abandoned

        waker = Waker()
        abandoned.recover(session, connection, waker, [holder])
        waker.close()


def _run_here(session: Session, connection: Connection, job_id: int, signals: Signals, shown: Shown) -> Job | None:
    from . import abandoned
    from .here import run_here

    if session.config.hooks.is_wanted:
        from .. import hooks

        connection.write(hooks.register, time.time())
    waker = Waker()
    abandoned.recover(
        session, connection, waker, [job_id]
    )  # its worker may have died with its runner, and we come next
    waker.close()
    job = run_here(session, job_id, signals, shown)
    if job is None:
        time.sleep(PAUSE)
    return job


def _watch(connection: Connection, job_id: int, signals: Signals, *, is_shown: bool) -> Job | None:
    """Show the output of a job that a worker runs until it has ended. None when nobody is left who would run it."""
    from .following import follow
    from .terminals import write_all

    looked = time.monotonic()
    with contextlib.closing(follow(connection, [job_id], [signals.fileno()])) as pieces:
        for _, stream, data in pieces:
            if data and is_shown:
                write_all(1 if stream == "out" else 2, data)
            elif not data:
                _pass_on(connection, job_id, signals)
                if time.monotonic() - looked > LOOK_FOR_RUNNER:
                    looked = time.monotonic()
                    job = connection.read(queries.get, job_id)
                    if job is not None and job.state is State.QUEUED and not live_runners(connection):
                        return None
    return connection.read(queries.get, job_id)


def _pass_on(connection: Connection, job_id: int, signals: Signals) -> None:
    """A worker's command gets our signals by being cancelled: the first time with its grace, the second at once."""
    from .signals import ENDING

    for number in signals.take():
        if number in ENDING:
            signals.count += 1
            waker = Waker()
            grace = None if signals.count == 1 else 0.0
            changing.cancel(connection, waker, job_id, grace=grace, first_signal=number)
            waker.close()


def _replay(connection: Connection, job: Job) -> None:
    """Show the output of a job's last attempt, after the fact."""
    from .. import logs
    from .terminals import write_all

    for stream, data in logs.follow(connection, job.id, is_followed=False):
        write_all(1 if stream == "out" else 2, data)


def _put_end(session: Session, job: Job, code: int, *, is_told: bool) -> None:
    line = f"job {job.id} {render.clean(ending(job))}. Log: fwl logs {job.id}"
    if code in (125, 126, 127) and job.error and job.error != job.reason:
        render.say(f"error: {render.clean(job.error.splitlines()[0])}")
    elif code and is_told:
        session.say(line)
    else:
        session.chat(line)
