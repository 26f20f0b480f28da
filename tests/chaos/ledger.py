"""The record of what really happened, outside the database: files to which each process appends whole lines.

A job holds a kernel lock for as long as it runs, so that two executions of it at once are seen whatever the clocks say, and
one that was killed is over exactly when its process is.

Runs in: every process of a run.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import NamedTuple

#: Names the folder of the run, in the environment of all its processes.
FOLDER = "FWL_CHAOS"


class Line(NamedTuple):
    """One thing that happened."""

    kind: str
    fields: tuple[str, ...]
    pid: int
    at: float


def folder():
    return os.environ[FOLDER]


def database():
    """The database of the run; elsewhere when the file has a disk of its own."""
    path = os.path.join(folder(), "jobs.db")
    return os.path.realpath(path)


def note(kind, *fields, file="ledger"):
    """Append a line. One write to a file opened for appending is not torn by a kill, nor mixed with another."""
    line = " ".join(map(str, (kind, *fields, os.getpid(), f"{time.monotonic():.6f}"))) + "\n"
    descriptor = os.open(os.path.join(folder(), file), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                os.write(descriptor, line.encode())
                return
            except OSError as error:
                if error.errno != errno.EFBIG:  # the disk is full for a second: not for us
                    raise
            time.sleep(0.01)
    finally:
        os.close(descriptor)


def read(path):
    """The lines of a ledger, in their order."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        rows = [line.split() for line in file if line.endswith("\n")]
    return [Line(kind, tuple(fields), int(pid), float(at)) for kind, *fields, pid, at in rows]


@contextlib.contextmanager
def execution(job, attempt):
    """Record one execution of a job: O when another is alive, S before, E after."""
    alive = os.open(os.path.join(folder(), "alive", str(job)), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("O", job, attempt)
        note("S", job, attempt)
        yield
        note("E", job, attempt)
    finally:
        os.close(alive)


#: The same for a command, in the words of a shell. Its children inherit the lock: a group that outlives its worker is seen.
COMMAND = """
exec 9>>"$FWL_CHAOS/alive/$FWL_JOB_ID"
flock -n 9 || echo "O $FWL_JOB_ID $FWL_ATTEMPT $$ 0" >>"$FWL_CHAOS/ledger"
echo "S $FWL_JOB_ID $FWL_ATTEMPT $$ 0" >>"$FWL_CHAOS/ledger"
sleep {seconds}
echo "E $FWL_JOB_ID $FWL_ATTEMPT $$ 0" >>"$FWL_CHAOS/ledger"
"""
