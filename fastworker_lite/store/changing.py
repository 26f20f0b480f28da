"""What a person does to jobs that have not begun, or that are over: hold, release, change, copy, remove.

Each function is one step inside a transaction that its caller has opened; see `Connection.write`.

Runs in: every process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping

from ..errors import JobNotFound
from ..job import Kind, Lane, NewJob
from ..options import JobOptions
from . import dependencies, jobs, retention

#: What these functions call the state of a job that is held; and of one that waits for the last job of its schedule.
HELD, BEHIND = "held", "behind"


def _found(sql: sqlite3.Connection, job_id: int) -> str:
    """The state of a job, with the two kinds of `blocked` that matter here told apart. Raises `JobNotFound`."""
    row = sql.execute("SELECT state, waits_for, scheduled_for, reason FROM job WHERE id = ?", (job_id,)).fetchone()
    if row is None:
        raise JobNotFound(job_id)
    state, waits_for, scheduled_for, reason = row
    if state == "blocked" and waits_for == jobs.HELD:
        return HELD
    is_parked = (reason or "").startswith("no worker knows task ")
    return BEHIND if state == "blocked" and waits_for is None and scheduled_for and not is_parked else str(state)


def hold(sql: sqlite3.Connection, job_id: int) -> str:
    """Have a job that has not begun wait for `release`. Returns the state it was found in. Raises `JobNotFound`."""
    found = _found(sql, job_id)
    if found in ("queued", "scheduled", "blocked"):
        sql.execute(
            "UPDATE job SET state = 'blocked', waits_for = ?, reason = 'held' WHERE id = ?", (jobs.HELD, job_id)
        )
    return found


def release(sql: sqlite3.Connection, job_id: int, now: float) -> str:
    """Let a held job go on: to the queue, to its time, or to the jobs it waits for. Returns the state it was found in.

    Raises `JobNotFound`. `dependencies.resolve` is to be called next.
    """
    found = _found(sql, job_id)
    if found == HELD:
        parents = [parent.number for parent in dependencies.parents_of(sql, job_id)]
        waits_for, reason = (jobs.WAITS_FOR_JOBS, jobs.after(parents)) if parents else (None, None)
        sql.execute(
            """
            UPDATE job
               SET state = CASE WHEN :waits_for IS NOT NULL THEN 'blocked' WHEN due_at > :now THEN 'scheduled' ELSE 'queued' END,
                   waits_for = :waits_for, reason = :reason
             WHERE id = :id
            """,
            {"waits_for": waits_for, "reason": reason, "now": now, "id": job_id},
        )
        dependencies.look_again(sql, job_id)
    return found


#: What can be changed of a job that has not begun. A statement of one column each: they are few, and changed by hand.
_CHANGES = {
    name: f"UPDATE job SET {name} = ? WHERE id = ?"
    for name in (
        "priority",
        "queue",
        "name",
        "tags",
        "timeout",
        "retries",
        "retry_delay",
        "payload",
        "task",
        "checksum",
    )
}
#: And of one that runs: what counts when it is tried again.
WHILE_RUNNING = frozenset({"priority", "retries", "retry_delay", "name", "tags"})

_MOVE = """
UPDATE job
   SET due_at = :due_at,
       state = CASE WHEN state = 'blocked' THEN state WHEN :due_at > :now THEN 'scheduled' ELSE 'queued' END
 WHERE id = :id
"""


def change(sql: sqlite3.Connection, job_id: int, changes: Mapping[str, object], now: float) -> str:
    """Give a job these values, by column. Returns the state it was found in; one that has ended does not change.

    A running one changes only when all of *changes* are `WHILE_RUNNING`. Raises `JobNotFound`.
    """
    found = _found(sql, job_id)
    if found not in ("queued", "scheduled", "blocked", HELD, BEHIND) and not (
        found == "running" and WHILE_RUNNING.issuperset(changes)
    ):
        return found
    if isinstance(queue := changes.get("queue"), str):
        sql.execute("INSERT OR IGNORE INTO queue (name) VALUES (?)", (queue,))
    for name, value in changes.items():
        if name == "due_at":
            sql.execute(_MOVE, {"due_at": value, "now": now, "id": job_id})
        else:
            sql.execute(_CHANGES[name], (value, job_id))
    return found


_ORIGINAL = """
SELECT kind, task, payload, checksum, target, lane, park, limits, inputs, environment, policy,
       queue, priority, timeout, retries, retry_delay, on_lost, name, tags, callback, callback_data
  FROM job
 WHERE id = ?
"""
_OPTIONS = [
    "queue",
    "priority",
    "timeout",
    "retries",
    "retry_delay",
    "on_lost",
    "name",
    "tags",
    "callback",
    "callback_data",
]


def copy(sql: sqlite3.Connection, job_id: int) -> NewJob | None:
    """The job as it would be submitted anew, without its keys and its time; None for one that was given others' results.

    Raises `JobNotFound`.
    """
    row = sql.execute(_ORIGINAL, (job_id,)).fetchone()
    if row is None:
        raise JobNotFound(job_id)
    kind, task, payload, checksum, target, lane, park, limits, inputs, environment, policy, *own = row
    if inputs is not None:
        return None
    options = dict(zip(_OPTIONS, own, strict=True)) | json.loads(policy or "{}")
    return NewJob(
        kind=Kind(kind),
        task=task,
        payload=payload,
        checksum=checksum,
        target=target,
        lane=Lane(lane),
        options=JobOptions(**options),
        is_parked_if_unknown=bool(park),
        environment=None if environment is None else jobs.environment(sql, environment),
        limits=limits,
    )


def remove(sql: sqlite3.Connection, job_id: int) -> tuple[str, retention.Removed | None]:
    """Delete a job that has ended. Returns the state it was found in, and what was removed: None where it stays.

    It does while somebody is still to be told of it, and while it is the newest. Raises `JobNotFound`.
    """
    return _found(sql, job_id), retention.remove(sql, job_id)


def held(sql: sqlite3.Connection, ids: Iterable[int]) -> list[int]:
    """Those of these jobs that are held."""
    rows = sql.execute(
        "SELECT id FROM job WHERE id IN (SELECT value FROM json_each(?)) AND state = 'blocked' AND waits_for = ? ORDER BY id",
        (json.dumps(list(ids)), jobs.HELD),
    )
    return [row[0] for row in rows]
