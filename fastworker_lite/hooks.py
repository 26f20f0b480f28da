"""Commands, a dead man's ping and a notice on the desktop when jobs end: for people at a terminal.

What is to be told waits in the outbox, as for any listener, under an address that no socket can have. A hook that fails
is logged, and fails nothing else.

Runs in: the runner's process that leads, on the scheduler's thread; `fwl run`, for the job that it runs itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import sqlite3
import sys
from typing import NamedTuple

from . import pings
from .errors import FastWorkerError
from .paths import SidePaths
from .settings import Hooks
from .store import events, listeners, outbox
from .store.bridge import AsyncConnection
from .store.connection import Connection
from .store.outbox import Message
from .watches import FileWatch

log = logging.getLogger("fastworker_lite")

#: Stands in the outbox in place of a socket's path.
ADDRESS = "hooks"
#: The registration's name.
NAME = "hooks"
#: Seconds for which a runner that stops waits for its hooks.
PARTING = 2.0


class HookRunner:
    """Runs what is configured for each ended job, one after another."""

    def __init__(self, hooks: Hooks, connection: AsyncConnection, paths: SidePaths, lease: str) -> None:
        """*lease* is the runner's: what is registered for the hooks is so for its lifetime."""
        self._lease = lease
        self.settings = hooks
        self._connection = connection
        self._paths = paths
        self._news = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None]

    def start(self) -> None:
        """Begin with what waits."""
        self._task = asyncio.get_running_loop().create_task(self._work())
        self._starts = asyncio.get_running_loop().create_task(self._ping_starts()) if self.settings.ping else None

    def wake(self) -> None:
        """There may be something new."""
        self._news.set()

    async def close(self) -> None:
        """Finish what runs, and what waits for a moment; the rest is for the next runner."""
        self._is_closing = True
        self._news.set()
        if self._starts is not None:
            self._starts.cancel()
            await asyncio.wait([self._starts])
        _, late = await asyncio.wait([self._task], timeout=PARTING)
        if late:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while True:
            self._news.clear()
            try:
                messages = await self._connection.read(outbox.pending, ADDRESS, 0, 1)
                for message in messages:
                    await self._run_all(message)
                    await self._connection.write(outbox.remove, [message.id])
            except FastWorkerError as error:
                log.warning("hooks are run again in %g s: %s", PARTING, error)
                await asyncio.sleep(PARTING)
                continue
            if messages:
                continue
            if self._is_closing:
                return
            await self._news.wait()

    async def _run_all(self, message: Message) -> None:
        for problem in await run_all(self.settings, self._paths, await self._connection.read(_ended, message)):
            log.warning("%s", problem)

    async def _ping_start(self, job: int) -> None:
        if problem := await ping(self.settings, "start"):
            log.warning("the ping of job %d: %s", job, problem)

    async def _ping_starts(self) -> None:
        """Ping for each job that begins, as long as this runner leads. Only the log of events tells of that."""
        happened = asyncio.Event()
        watch = FileWatch(self._paths.wal)
        asyncio.get_running_loop().add_reader(watch.fileno(), happened.set)
        try:
            await self._connection.write(events.follow, NAME, self._lease)
            offset = await self._connection.read(events.newest)
            while True:
                watch.clear()
                watch.arm()
                happened.clear()
                page = await self._connection.read(events.after, offset, 100)
                for event in page:
                    offset = event.offset
                    if event.event == "started":
                        await self._ping_start(event.job)
                if not page:
                    await happened.wait()
        except FastWorkerError as error:
            log.warning("no more starts are pinged: %s", error)
        finally:
            asyncio.get_running_loop().remove_reader(watch.fileno())
            watch.close()
            with contextlib.suppress(FastWorkerError):
                await self._connection.write(events.unfollow, NAME)


class Ended(NamedTuple):
    """What hooks need to know of a job that has ended."""

    message: Message
    had_failed: bool
    #: Whether the last job of the same task before this one failed.
    exit_status: int
    #: A command's; 0 and 1 for everything else.


def run_for(hooks: Hooks, connection: Connection, job: int) -> list[str]:
    """Run what is configured for a job that ran in this process, where no runner does. Returns what went wrong."""
    problems = []
    for message in connection.read(outbox.pending, ADDRESS, 0, 1000):
        if message.job == job:
            problems += asyncio.run(run_all(hooks, connection.paths, connection.read(_ended, message)))
            connection.write(outbox.remove, [message.id])
    return problems


def register(sql: sqlite3.Connection, now: float) -> None:
    """Have the hooks told of every end from now on."""
    listeners.register(sql, NAME, ADDRESS, "*", None, listeners.ENDS, None, now)


async def run_all(hooks: Hooks, paths: SidePaths, ended: Ended) -> list[str]:
    """Run what is configured for an ended job, one after another. Returns what went wrong."""
    found, job = [], ended.message.job
    for argv in _commands(hooks, ended):
        if problem := await run_command(argv, ended.message, paths, hooks.timeout):
            found.append(f"the hook of job {job}: {problem}")
    if hooks.ping and (problem := await ping(hooks, str(ended.exit_status))):
        found.append(f"the ping of job {job}: {problem}")
    return found


def _commands(hooks: Hooks, ended: Ended) -> list[tuple[str, ...]]:
    message = ended.message
    if message.state == "succeeded":
        wanted = [hooks.on_success, hooks.on_recovered if ended.had_failed else ()]
    elif message.state == "failed":
        text = f"{message.task}: {message.reason or message.error}"
        notice = desktop_notice(f"job {message.job} failed", text) if hooks.desktop else None
        wanted = [hooks.on_failure, notice or ()]
    else:
        wanted = []
    return [argv for argv in wanted if argv]


async def run_command(
    argv: tuple[str, ...], message: Message, paths: SidePaths, seconds: float, *, is_shown: bool = False
) -> str | None:
    """Run one hook to its end, or to the end of its time. Returns what went wrong; *is_shown*: what it prints, on stderr."""
    printed = 2 if is_shown else asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=os.environ | _variables(message, paths),
            stdin=asyncio.subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
    except OSError as error:
        return f"{argv[0]} did not start: {error.strerror or error}"
    try:
        async with asyncio.timeout(seconds):
            await process.communicate(json.dumps(as_dict(message)).encode() + b"\n")
        return f"{argv[0]} ended with {process.returncode}" if process.returncode else None
    except TimeoutError:
        return f"{argv[0]} took more than {seconds:g} s"
    except OSError:
        return None  # it does not read what it is told
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()


def _variables(message: Message, paths: SidePaths) -> dict[str, str]:
    return {
        "FWL_JOB_ID": str(message.job),
        "FWL_JOB_NAME": message.task,
        "FWL_JOB_STATE": message.state,
        "FWL_JOB_REASON": message.reason or "",
        "FWL_JOB_LOG": paths.log(message.job, message.attempt, "err"),
        "FWL_ATTEMPT": str(message.attempt),
        "FWL_DB": paths.database,
    }


async def ping(hooks: Hooks, what: str) -> str | None:
    """Post to the configured URL: `start`, or how it ended. Returns what went wrong."""
    return await asyncio.to_thread(pings.post, hooks.ping, what, hooks.timeout)


async def try_hooks(hooks: Hooks, database: str, sample: Message) -> list[str]:
    """Run everything that is configured once, with a job that never was. Returns what went wrong."""
    paths = SidePaths.of(database)
    notice = desktop_notice("fwl notify test", "This is how a failed job would be shown.") if hooks.desktop else None
    commands = [hooks.on_success, hooks.on_failure, hooks.on_recovered, notice or ()]
    problems = [await run_command(argv, sample, paths, hooks.timeout, is_shown=True) for argv in commands if argv]
    if hooks.desktop and notice is None:
        problems.append("desktop: there is no notify-send on PATH")
    if hooks.ping:
        problems += [await ping(hooks, "start"), await ping(hooks, "0")]
    return [problem for problem in problems if problem is not None]


def as_dict(message: Message) -> dict[str, object]:
    """How a job ended, for a hook's stdin."""
    return {
        "task_id": str(message.job),
        "task_name": message.task,
        "state": message.state,
        "reason": message.reason,
        "error": message.error,
        "attempt": message.attempt,
        "started_at": message.started_at,
        "finished_at": message.finished_at,
    }


def desktop_notice(title: str, text: str) -> tuple[str, ...] | None:
    """The command that shows a notice, None where there is none."""
    if sys.platform == "darwin":
        script = f"display notification {json.dumps(text)} with title {json.dumps(title)}"
        return ("osascript", "-e", script)
    program = shutil.which("notify-send")
    return (program, "--", title, text) if program else None


def _ended(sql: sqlite3.Connection, message: Message) -> Ended:
    return Ended(message, _had_failed(sql, message), _exit_status(sql, message))


def _exit_status(sql: sqlite3.Connection, message: Message) -> int:
    """A command's exit status; 0 and 1 for everything else."""
    row = sql.execute(
        "SELECT exit_code FROM job WHERE id = ? AND attempt = ?", (message.job, message.attempt)
    ).fetchone()
    if row is not None and row[0] is not None:
        return int(row[0])
    return 0 if message.state == "succeeded" else 1


def _had_failed(sql: sqlite3.Connection, message: Message) -> bool:
    """Whether the last job of the same task before this one failed."""
    row = sql.execute(
        """
        SELECT state
          FROM job
         WHERE task = ?
           AND id < ?
           AND finished_at IS NOT NULL
         ORDER BY id DESC
         LIMIT 1
        """,
        (message.task, message.job),
    ).fetchone()
    return row is not None and row[0] == "failed"
