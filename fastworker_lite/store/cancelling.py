"""How the end of a running job is to be brought about: what a cancel leaves in its row for whoever looks after it.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from ..job import Policy


class Manner(NamedTuple):
    """How a running job is to end."""

    reason: str | None
    #: Why somebody asked for its end; None where nobody has.
    signal: int | None
    #: What it gets first, None for TERM.
    grace: float | None
    #: Seconds until it gets KILL, None for what the runner's configuration says.


def set_manner(sql: sqlite3.Connection, job_id: int, grace: float | None, first_signal: int | None) -> None:
    """Note how this job is to end, if it runs. To be called before `cancel` marks it."""
    sql.execute(
        """
        UPDATE job
           SET cancel_signal = ifnull(:signal, cancel_signal), cancel_grace = ifnull(:grace, cancel_grace)
         WHERE id = :id
           AND state = 'running'
        """,
        {"id": job_id, "grace": grace, "signal": first_signal},
    )


def manner(sql: sqlite3.Connection, job_id: int) -> Manner:
    """How this job is to end, as far as somebody said."""
    row = sql.execute("SELECT cancel, cancel_signal, cancel_grace, policy FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        return Manner(None, None, None)
    return Manner(row[0], row[1], Policy.read(row[3]).kill_grace if row[2] is None else row[2])


def lone_process(sql: sqlite3.Connection, job_id: int) -> str | None:
    """The process that runs this job without a runner to look after it, as `ProcessIdentity` reads it; None for others."""
    row = sql.execute(
        """
        SELECT worker.process
          FROM job JOIN worker ON worker.id = job.worker
         WHERE job.id = ?
           AND job.state = 'running'
           AND worker.runner IS NULL
        """,
        (job_id,),
    ).fetchone()
    return None if row is None else str(row[0])
