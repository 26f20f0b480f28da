"""Running jobs that nobody runs: their worker is gone, and no runner is there to notice it.

Runs in: the command line.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from .. import leases
from ..job import State
from ..sockets import Waker
from ..store import queries, runners
from ..store.connection import Connection
from .session import Session, live_runners


def is_gone(connection: Connection, worker_id: int | None) -> bool:
    """Whether the worker of a running job is gone."""
    row = connection.read(runners.worker, worker_id or 0)
    return row is None or leases.is_free(connection.paths.lease(row.lease))


def recover(session: Session, connection: Connection, waker: Waker, ids: Sequence[int]) -> None:
    """Do for these jobs what the next runner would do for them, where there is none now: one that was cancelled is over then."""
    if live_runners(connection):
        return
    running = [job for job in connection.read(queries.get_many, ids) if job.state is State.RUNNING]
    if any(is_gone(connection, job.worker) for job in running):
        from ..recovery import Recovery  # and with it multiprocessing, which few need

        Recovery(connection.paths, waker, session.config.max_log, time.time).recover_foreign(connection, set())
