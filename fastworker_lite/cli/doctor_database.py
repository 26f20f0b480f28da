"""What `fwl doctor` finds out about the database and who serves it.

Runs in: the command line.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from shlex import quote

from ..errors import DatabaseBusy, FastWorkerError, NotOurDatabase, SchemaTooNew
from ..paths import SidePaths
from ..store import checking, situation
from ..store.connection import Connection
from ..store.create import read_header
from . import render
from .findings import Finding, ok, problem, warning
from .workers import Present, find_present

#: Larger files take too long to be read through here.
_SMALL = 64 * 1024 * 1024
#: Seconds to wait for the write gate.
_PATIENCE = 2.0
#: Seconds that a job's time may lie ahead: clocks are set right by steps.
_AHEAD = 60.0


def database(paths: SidePaths) -> Iterator[Finding]:
    """The file itself, and what it says where opening it would change nothing."""
    if not os.path.lexists(paths.database):
        yield ok("database", f"there is none yet at {paths.database}; the first job makes it: fwl submit -- echo hello")
        return
    try:
        if read_header(paths.database) is None:
            yield ok("database", f"{paths.database} is empty; the first job makes a database of it")
            return
        if not _is_ready(paths):
            yield ok("database", f"{paths.database} is one of ours, and was not opened: that would change something")
            return
        connection = Connection(paths.database, gate_patience=_PATIENCE)
        try:
            yield from _look(connection)
        finally:
            connection.close()
    except FastWorkerError as error:
        yield problem("database", str(error).partition("\n")[0], _remedy(paths, error))


def _remedy(paths: SidePaths, error: FastWorkerError) -> str:
    if isinstance(error, SchemaTooNew):
        return "pip install -U fastworker-lite"
    if isinstance(error, NotOurDatabase):
        return f"See what it is: file {quote(paths.database)}\nName another one: fwl --db FILE doctor"
    if isinstance(error, DatabaseBusy):
        return f"See who has it: fuser -v {quote(paths.gate)}"
    return f"ls -ld {quote(paths.database)} {quote(os.path.dirname(paths.database))}"


def _is_ready(paths: SidePaths) -> bool:
    """Whether a connection would find all that it needs as it must be, and so would make or mend nothing."""
    try:
        status = os.lstat(paths.directory)
    except OSError:
        return False
    is_private = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return is_private and os.access(paths.database, os.W_OK) and os.access(os.path.dirname(paths.database), os.W_OK)


def _look(connection: Connection) -> Iterator[Finding]:
    whole = _damage(connection)
    yield whole
    if whole.level == "problem":
        return
    present = find_present(connection)
    yield _served(connection, present)
    yield from _left_behind(connection, present)
    newest = connection.read(checking.newest_moment)
    if newest is not None and newest > time.time() + _AHEAD:
        text = f"the newest job is of {render.local_time(newest)}, which is still to come: the clock was set back"
        yield warning("clock", text, "Is it right now: timedatectl status")


def _damage(connection: Connection) -> Finding:
    path = connection.paths.database
    size = os.stat(path).st_size
    if size > _SMALL:
        return ok("database", f"{path} has {render.size(size)}; to read all of it: fwl db check")
    found = connection.read(lambda sql: checking.damage(sql, is_quick=True) or checking.missing(sql))
    if found:
        return problem("database", f"{path} is damaged: {found[0]}", "fwl db check\nThen go back to a backup")
    return ok("database", f"{path} has {render.size(size)}, and is whole")


def _served(connection: Connection, present: Present) -> Finding:
    count = len(present.runners)
    if count:
        return ok("runners", f"{count} runner{'' if count == 1 else 's'}, {len(present.workers)} worker processes")
    if connection.read(checking.has_queued):
        return warning("runners", "jobs are queued, and no runner is running", "fwl worker")
    return ok("runners", "no runner is running, and nothing is queued")


def _left_behind(connection: Connection, present: Present) -> Iterator[Finding]:
    alive = {row.id for row in present.workers}
    lost = [job.id for job in connection.read(situation.running) if job.worker not in alive]
    if not present.stale and not lost:
        return
    text = f"stale rows of runners and workers that are gone: {present.stale}; of jobs that they ran: {len(lost)}"
    yield warning(
        "stale", text, "The next runner sees to them: fwl worker   Or fwl drain, which exits when the queue is empty"
    )


CHECKS = (database,)
