"""Compares what the file says with what the ledger says, and counts what must be 0.

Runs in: the testing process.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from dataclasses import dataclass, fields

from fastworker_lite import SyncClient
from fastworker_lite.store.connection import Connection
from tests.chaos import ledger, tasks

ENDED = ("succeeded", "failed", "cancelled", "expired")

_TABLE = """
CREATE TABLE IF NOT EXISTS chaos_audit (
    seq     INTEGER PRIMARY KEY,
    job     INTEGER NOT NULL,
    old     TEXT    NOT NULL,
    new     TEXT    NOT NULL,
    passed  INTEGER NOT NULL     -- 1 when it was claimed although another one had its turn
) STRICT
"""

_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS chaos_audit_of_a_job
AFTER UPDATE OF state ON job
BEGIN
    INSERT INTO chaos_audit (job, old, new, passed)
    VALUES (new.id, old.state, new.state,
            new.state = 'running' AND EXISTS (SELECT 1
                                                FROM job AS other
                                               WHERE other.state = 'queued'
                                                 AND other.queue = new.queue
                                                 AND other.lane = new.lane
                                                 AND (other.priority > new.priority
                                                      OR (other.priority = new.priority AND other.id < new.id))));
END
"""


@dataclass(slots=True)
class Columns:
    """What must be 0."""

    lost: int = 0
    #: Acknowledged, and not in the file.
    stuck: int = 0
    #: Not ended although there was time.
    dup_terminal: int = 0
    #: Ended more than once.
    double_accept: int = 0
    #: The file took a result of an execution that was not the current one, or two.
    overlap: int = 0
    #: Executions that began while another one of the same job was alive.
    wrong: int = 0
    #: The result is not what the function makes of the arguments; or it failed for no reason that was given it.
    order: int = 0
    #: Claimed although another one had its turn.
    orphans: int = 0
    #: Processes that are left when all is over.
    fds: int = 0
    #: Descriptors of the runner's process that were not there at its start.
    integrity: int = 0
    #: What SQLite finds wrong with the file.
    twice: int = 0
    #: At most once was asked, and it was begun more often.
    untold: int = 0
    #: Ended, and its callback never came.
    forbidden: int = 0
    #: What watching.py saw that must not be: checkpoints outside the gate, PASSIVE ones, and the like.

    def total(self):
        return sum(getattr(self, one.name) for one in fields(self))

    def __add__(self, other):
        return Columns(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def __str__(self):
        return "  ".join(f"{one.name}={getattr(self, one.name)}" for one in fields(self))


@dataclass(slots=True)
class Found:
    """What a run came to."""

    columns: Columns
    jobs: int
    acknowledged: int
    again: int
    #: Executions of a job after its first.
    at_most_once: int
    lost_at_most_once: int
    poison: int
    checkpoints: int
    details: list[str]

    def count(self, name, text):
        setattr(self.columns, name, getattr(self.columns, name) + 1)
        self.details.append(f"{name}: {text}")


def prepare(database, durability="full"):
    """Create the database, with a record of every change of state."""
    connection = Connection(database, durability=durability)
    connection.write(_record_changes)
    connection.close()


def _record_changes(sql):
    sql.execute(_TABLE)
    sql.execute(_TRIGGER)


def ask(database, statement, *parameters):
    """The first value of a query."""
    connection = Connection(database)
    try:
        return connection.read(lambda sql: sql.execute(statement, parameters).fetchone()[0])
    finally:
        connection.close()


def unfinished(database):
    """How many jobs have not ended."""
    return ask(database, "SELECT count(*) FROM job WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'expired')")


def waiting_callbacks(database):
    """How many callbacks have not been acknowledged."""
    return ask(database, "SELECT count(*) FROM outbox WHERE dead IS NULL")


def check(folder):
    """Look at a run that is over."""
    database = os.path.join(folder, "jobs.db")
    lines = ledger.read(os.path.join(folder, "ledger"))
    seen = ledger.read(os.path.join(folder, "seen"))
    acknowledged = {int(line.fields[0]): line.fields[1:] for line in lines if line.kind == "A"}
    begun = Counter(int(line.fields[0]) for line in lines if line.kind == "S")
    told = {int(line.fields[0]) for line in lines if line.kind == "T"}
    rows = _read(database, "SELECT id, state, reason, attempt, on_lost, callback FROM job")
    once = {row[0] for row in rows if row[4] == "fail"}
    found = Found(
        columns=Columns(),
        jobs=len(rows),
        acknowledged=len(acknowledged),
        again=sum(begun.values()) - len(begun),
        at_most_once=len(once),
        lost_at_most_once=sum(1 for row in rows if row[0] in once and str(row[2]).startswith("lost: ")),
        poison=sum(1 for row in rows if str(row[2]).startswith("poison: ")),
        checkpoints=sum(line.kind == "K" for line in seen),
        details=[],
    )
    for job, count in Counter(int(line.fields[0]) for line in lines if line.kind == "A").items():
        if count > 1:  # the first one was undone, and the next submission was given its id
            found.count("lost", f"job {job} was acknowledged {count} times")
    _check_rows(found, rows, set(acknowledged), told)
    _check_results(found, database, acknowledged, {row[0]: row for row in rows})
    _check_audit(found, _read(database, "SELECT job, old, new, passed FROM chaos_audit ORDER BY seq"), begun)
    _check_executions(found, lines)
    for job in once:
        if begun[job] > 1:
            found.count("twice", f"job {job} was begun {begun[job]} times")
    for line in seen:
        if line.kind == "F" or (line.kind == "K" and line.fields != ("TRUNCATE", "inside")):
            found.count("forbidden", " ".join(line.fields))
    _check_file(found, database)
    return found


def _read(database, statement):
    connection = Connection(database)
    try:
        return connection.read(lambda sql: sql.execute(statement).fetchall())
    finally:
        connection.close()


def _check_rows(found, rows, acknowledged, told):
    for job in acknowledged - {row[0] for row in rows}:
        found.count("lost", f"job {job} was acknowledged and is not there")
    for job, state, reason, _, _, callback in rows:
        if state not in ENDED:
            found.count("stuck", f"job {job} is {state}: {reason}")
            continue
        if state != "succeeded" and not str(reason).startswith(("lost: ", "poison: ")):
            found.count("wrong", f"job {job} is {state}: {reason}")
        if callback is not None and job not in told:
            found.count("untold", f"job {job}")


def _check_results(found, database, acknowledged, row_of):
    with SyncClient(database, runner="never") as client:
        for job, (value, kind, *_) in acknowledged.items():
            if job not in row_of or row_of[job][1] != "succeeded" or kind == "command":
                continue
            result, attempt = client.handle(job).result(timeout=0)
            if result != tasks.expected(int(value)):
                found.count("wrong", f"job {job}: {result}")
            if attempt != row_of[job][3]:
                found.count("double_accept", f"job {job}: the result is of attempt {attempt}")


def _check_audit(found, audit, begun):
    for job, count in Counter(job for job, _, new, _ in audit if new in ENDED).items():
        if count > 1:
            found.count("dup_terminal", f"job {job} ended {count} times")
    for job, count in Counter(job for job, old, new, _ in audit if (old, new) == ("running", "succeeded")).items():
        if count > 1 or not begun[job]:
            found.count("double_accept", f"job {job}: accepted {count}, begun {begun[job]}")
    for job, _, _, passed in audit:
        if passed:
            found.count("order", f"job {job}")


def _check_executions(found, lines):
    """The lines stand in the order in which they were written, by whichever process."""
    last_begun = {}
    for line in lines:
        if line.kind == "O":
            found.count("overlap", f"job {line.fields[0]}, attempt {line.fields[1]}: another one was alive")
        elif line.kind == "S":
            last_begun[line.fields[0]] = line.fields[1]
        elif line.kind == "E" and last_begun[line.fields[0]] != line.fields[1]:
            found.count("overlap", f"job {line.fields[0]}, attempt {line.fields[1]} ended after the next one had begun")


def _check_file(found, database):
    sql = sqlite3.connect(database)
    try:
        for (text,) in sql.execute("PRAGMA integrity_check"):
            if text != "ok":
                found.count("integrity", text)
        for row in sql.execute("PRAGMA foreign_key_check"):
            found.count("integrity", str(row))
    finally:
        sql.close()
