"""What one invocation of `fwl` knows: which file it speaks to, and in which form it answers.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Any, TypeVar

from .. import config as configuration
from ..errors import ConfigError
from ..job import Job
from ..settings import Config
from ..store import queries, runners
from ..store.connection import Connection
from ..store.create import read_header
from ..store.jobs import DEFAULT_QUEUE
from . import render
from .problems import CONFIG, NOT_FOUND, CommandError, no_such_job

_PAGE = 5_000
_T = TypeVar("_T")

NO_WORKER = "queued; no worker is running. Start one: fwl worker   Or run the queue now: fwl drain"


class Session:
    """Made by `main`, filled in by the global options, read by the commands."""

    database_flag: str | None = None
    config_flag: str | None = None
    is_pass_through = False
    #: Whether the exit code is the job's own, so that our troubles must be 125.

    def __init__(
        self,
        *,
        is_json: bool = False,
        is_quiet: bool = False,
        is_verbose: bool = False,
        is_debugged: bool = False,
        is_unattended: bool = False,
    ) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.is_verbose = is_verbose
        self.is_debugged = is_debugged
        #: Whether an error is to be shown with where it arose.
        self.is_unattended = is_unattended
        #: Whether nobody is to be asked anything, see `can_ask`.
        self.filters: dict[str, Any] = {}
        #: The conditions for jobs that were given; selecting.py reads them.

    def renewed(self) -> Session:
        """The same, with nothing read yet."""
        other = copy(self)
        other.__dict__.pop("config", None)
        other.__dict__.pop("database", None)
        return other

    @cached_property
    def config(self) -> Config:
        """The settings of the nearest fastworker.toml."""
        try:
            return configuration.load(self.config_flag)
        except ConfigError as error:
            is_set = self.config_flag is None and bool(os.environ.get("FWL_CONFIG"))
            raise CommandError(str(error), CONFIG, "FWL_CONFIG names this file" if is_set else None) from error

    @cached_property
    def database(self) -> str:
        try:
            return configuration.database_path(self.database_flag, self.config)
        except ConfigError as error:
            raise CommandError(str(error), CONFIG) from error

    @property
    def declared_queues(self) -> set[str]:
        """The queues that the settings name, which a runner makes when it starts."""
        return {one.name for one in self.config.queue} | {
            *(self.config.queues or ()),
            *filter(None, [self.config.job.queue]),
        }

    @property
    def is_usual_database(self) -> bool:
        """Whether it is this user's own, which does not depend on the folder or the environment."""
        is_named = self.database_flag is not None or bool(os.environ.get("FWL_DB"))
        return not is_named and self.config.db is None and self.config.path is None

    def find_database(self) -> str:
        """As `database`, for commands that only look: no folder is made for it."""
        try:
            return configuration.expected_database(self.database_flag, self.config)
        except ConfigError as error:
            raise CommandError(str(error), CONFIG) from error

    @contextlib.contextmanager
    def open_existing(self) -> Iterator[Connection | None]:
        """A connection to the file as it is; None when there is none yet."""
        path = self.find_database()
        if not has_database(path):
            yield None
            return
        connection = Connection(path, blocks_signals=True)
        try:
            yield connection
        finally:
            connection.close()

    @contextlib.contextmanager
    def open(self) -> Iterator[Connection]:
        """A connection to the file, created when there is none. Ctrl-C waits until a write is over."""
        if self.is_verbose:
            render.say(f"database {render.clean(self.database)}, settings {render.clean(self.config.path or 'none')}")
        connection = Connection(self.database, durability=self.config.durability, blocks_signals=True)
        try:
            yield connection
        finally:
            connection.close()

    @property
    def can_ask(self) -> bool:
        """Whether a person is there to answer a question."""
        return not self.is_unattended and render.is_terminal(sys.stdin) and render.is_terminal(sys.stderr)

    @property
    def is_chatting(self) -> bool:
        """Whether a person is looking and wants to know."""
        return not self.is_quiet and render.is_terminal(sys.stderr)

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


def has_database(path: str) -> bool:
    """Whether there is a database of ours. Raises when there is something else in its place."""
    return os.path.exists(path) and read_header(path) is not None


def live_runners(connection: Connection) -> list[runners.RunnerRow]:
    """The runners that serve the file now."""
    rows = connection.read(runners.runners)
    if not rows:
        return []
    from .. import leases

    return [row for row in rows if not leases.is_free(connection.paths.lease(row.lease))]


def in_pages(everything: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """So many at a time that no read keeps others from a checkpoint for long."""
    return (everything[start : start + _PAGE] for start in range(0, len(everything), _PAGE))


def read_jobs(connection: Connection, ids: Sequence[int]) -> list[Job]:
    """Those of these jobs that exist, by id in each page."""
    return [job for page in in_pages(ids) for job in connection.read(queries.get_many, page)]


def find_jobs(connection: Connection, ids: Sequence[int]) -> list[Job]:
    """These jobs in this order. Raises when one does not exist."""
    found = {job.id: job for job in read_jobs(connection, ids)}
    for job_id in ids:
        if job_id not in found:
            raise no_such_job(job_id, connection.read(queries.newest_id))
    return [found[job_id] for job_id in ids]


def check_queues(connection: Connection, names: set[str], *, is_made: bool = False) -> None:
    """Refuse queues that nobody has made: most are slips of the pen, and nothing would serve them.

    *is_made* where there is no --new-queue, for the command is about queues that are there.
    """
    known = connection.read(_queue_names) | {DEFAULT_QUEUE}
    for name in sorted(names - known):
        close = difflib.get_close_matches(name, known, n=1)
        remedy = "" if is_made else " Add --new-queue to make it."
        meant = f' Did you mean "{close[0]}"?' if close else remedy
        listed = ", ".join(sorted(known))
        raise CommandError(f'no queue "{name}".{meant}  Queues: {listed}', NOT_FOUND)


def _queue_names(sql: sqlite3.Connection) -> set[str]:
    return {row[0] for row in sql.execute("SELECT name FROM queue")}


def serves(rows: Sequence[runners.RunnerRow], queue: str) -> bool:
    """Whether one of these runners takes jobs of this queue."""
    return any(row.queues is None or queue in json.loads(row.queues) for row in rows)


def worker_for(queue: str) -> str:
    """What to type to have jobs of this queue run."""
    from shlex import quote

    return f"fwl worker --queue {quote(queue)}"


def knows_task(rows: Sequence[runners.RunnerRow], task: str) -> bool:
    """Whether a runner knows this name, or is still starting and might."""
    return any(row.tasks is None or task in json.loads(row.tasks) for row in rows)
