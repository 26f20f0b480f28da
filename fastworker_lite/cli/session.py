"""What one invocation of `fwl` knows: which file it speaks to, and in which form it answers.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .. import config as configuration
from .. import leases
from ..errors import ConfigError
from ..job import Job
from ..settings import Config
from ..store import queries, runners, situation
from ..store.connection import Connection
from ..store.jobs import DEFAULT_QUEUE
from . import render
from .problems import CONFIG, NOT_FOUND, CommandError, no_such_job, usage

NO_WORKER = "queued; no worker is running. Start one: fwl worker   Or run the queue now: fwl drain"


@dataclass
class Session:
    """Made by `main`, filled in by the global options, read by the commands."""

    database_flag: str | None = None
    config_flag: str | None = None
    is_json: bool = False
    is_quiet: bool = False
    is_pass_through: bool = False
    #: Whether the exit code is the job's own, so that our troubles must be 125.

    @cached_property
    def config(self) -> Config:
        """The settings of the nearest fastworker.toml."""
        try:
            return configuration.load(self.config_flag)
        except ConfigError as error:
            raise CommandError(str(error), CONFIG) from error

    @cached_property
    def database(self) -> str:
        try:
            return configuration.database_path(self.database_flag, self.config)
        except ConfigError as error:
            raise CommandError(str(error), CONFIG) from error

    @contextlib.contextmanager
    def open(self) -> Iterator[Connection]:
        """A connection to the file, created when there is none. Ctrl-C waits until a write is over."""
        connection = Connection(self.database, durability=self.config.durability, blocks_signals=True)
        try:
            yield connection
        finally:
            connection.close()

    def chat(self, text: str) -> None:
        """A line for a person who is looking and wants to know."""
        if not self.is_quiet:
            render.chat(text)

    def say(self, text: str) -> None:
        """A line that matters also in a log or a mail."""
        if not self.is_quiet:
            render.say(text)

    def put_json(self, schema: str, **fields: Any) -> None:
        render.put_json({"schema": schema, **fields})


# ---- what commands ask the file


def live_runners(connection: Connection) -> list[runners.RunnerRow]:
    """The runners that serve the file now."""
    rows = connection.read(runners.runners)
    return [row for row in rows if not leases.is_free(connection.paths.lease(row.lease))]


def find_jobs(connection: Connection, ids: Sequence[int]) -> list[Job]:
    """These jobs in this order. Raises when one does not exist."""
    found = {job.id: job for job in connection.read(queries.get_many, ids)}
    for job_id in ids:
        if job_id not in found:
            raise no_such_job(job_id, connection.read(queries.newest_id))
    return [found[job_id] for job_id in ids]


def check_queues(connection: Connection, names: set[str]) -> None:
    """Refuse queues that nobody has made: most are slips of the pen, and nothing would serve them."""
    known = connection.read(_queue_names) | {DEFAULT_QUEUE}
    for name in sorted(names - known):
        close = difflib.get_close_matches(name, known, n=1)
        meant = f' Did you mean "{close[0]}"?' if close else " Add --new-queue to make it."
        listed = ", ".join(sorted(known))
        raise CommandError(f'no queue "{name}".{meant}  Queues: {listed}', NOT_FOUND)


def _queue_names(sql: sqlite3.Connection) -> set[str]:
    return {row[0] for row in sql.execute("SELECT name FROM queue")}


def knows_task(rows: Sequence[runners.RunnerRow], task: str) -> bool:
    """Whether a runner knows this name, or is still starting and might."""
    return any(row.tasks is None or task in json.loads(row.tasks) for row in rows)


# ---- selectors


def select_ids(connection: Connection, words: Sequence[str]) -> list[int]:
    """The jobs that a person names, each once, in this order: `45`, `40-45`, `@last`, `@failed`, `@active`, `-` for stdin."""
    ids: dict[int, None] = {}
    for word in words:
        if word == "-":
            ids.update(dict.fromkeys(select_ids(connection, _read_ids())))
        elif word in _SELECTORS:
            ids.update(dict.fromkeys(connection.read(_SELECTORS[word])))
        else:
            ids.update(dict.fromkeys(_parse_ids(word)))
    return list(ids)


#: Words that stand for the jobs that a query finds.
_SELECTORS: dict[str, Callable[[sqlite3.Connection], list[int]]] = {
    "@last": lambda sql: [queries.newest_id(sql)],
    "@failed": situation.failed_ids,
    "@active": lambda sql: [job.id for job in queries.active(sql, 2**31)],
}


def require_words(words: Sequence[str] | None, command: str) -> Sequence[str]:
    """What a person named; naming nothing does not mean everything."""
    if not words:
        raise usage(f"which jobs? Give ids: fwl {command} 45 46")
    return words


def select_some(connection: Connection, words: Sequence[str]) -> list[int]:
    """As `select_ids`, for commands that act on jobs: raises when there are none."""
    ids = select_ids(connection, words)
    if not ids:
        raise CommandError(f"no job is {' or '.join(word.removeprefix('@') for word in words)}", NOT_FOUND)
    return ids


def _read_ids() -> list[str]:
    if render.is_terminal(sys.stdin):
        raise usage("- reads ids from stdin, which is a terminal; name them instead")
    return [word for word in sys.stdin.read().split() if word != "-"]


def _parse_ids(word: str) -> Sequence[int]:
    first, dash, last = word.partition("-")
    if not (_is_id(first) and (_is_id(last) if dash else True)):
        raise usage(
            f'"{word}" is not a job; give ids (45), ranges (40-45), @last, @failed, @active, or - for ids on stdin'
        )
    if not dash:
        return [int(first)]
    if int(last) < int(first) or int(last) - int(first) >= 100_000:
        raise usage(f'"{word}" is not a range of up to 100000 ids')
    return range(int(first), int(last) + 1)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
