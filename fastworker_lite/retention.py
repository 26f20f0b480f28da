"""Removes jobs that ended long ago, with their logs, a thousand rows at a time.

Runs in: the runner's process that leads, and `fwl prune`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from .output import STREAMS
from .settings import Keep
from .store import retention
from .store.connection import Connection


def moments(keep: Keep, now: float) -> dict[str, float]:
    """For each state in which a job can end, the moment from which on such jobs are kept."""
    spans = {"succeeded": keep.succeeded, "failed": keep.failed, "cancelled": keep.cancelled, "expired": keep.expired}
    return {state: now - span for state, span in spans.items()}


def prune(
    connection: Connection,
    before: Mapping[str, float],
    most: int,
    *,
    results_before: float | None = None,
    is_dry: bool = False,
) -> Iterator[int]:
    """Remove, step by step, what ended before the moment for its state, and the oldest of more than *most* ended jobs.

    Yields after each step how many jobs it removed.
    """
    last, surplus = 0, connection.read(retention.surplus, most)
    while True:
        if is_dry:
            step = connection.read(_dry_page, last, before, surplus)
        else:
            step = connection.write_fast(retention.prune_page, last, before, surplus)
            remove_logs(connection, step.removed)
            if results_before is not None:
                connection.write_fast(retention.forget_results, last, results_before)
            if step.removed:
                connection.vacuum()
        yield len(step.removed)
        if not step.last:
            return
        last = step.last


def _dry_page(sql: sqlite3.Connection, last: int, before: Mapping[str, float], surplus: int) -> retention.Pruned:
    return retention.prune_page(sql, last, before, surplus, is_dry=True)


def remove_logs(connection: Connection, removed: Iterable[retention.Removed]) -> int:
    """Remove the logs of jobs that are gone. Returns how many bytes they were."""
    total = 0
    for job in removed:
        for attempt in range(1, job.attempts + 1):
            for stream in (*STREAMS, "script"):  # a worker that was killed leaves one
                path = connection.paths.log(job.id, attempt, stream)
                with contextlib.suppress(FileNotFoundError):
                    total += os.stat(path).st_size
                    os.unlink(path)
    return total
