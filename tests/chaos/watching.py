"""Watches every connection of a process: what is never to be done with the file is written down when it is done.

Lines in the file `seen`: W for a process that is watched, K for each checkpoint (its mode, and whether it was inside the
gate), F for a thing that must not be.

Runs in: every process of a run.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import struct

from tests.chaos import failing, ledger

_CHECKPOINT = re.compile(r"wal_checkpoint\s*(?:\(\s*(\w+)\s*\))?", re.I)
_STORES_A_JOB = re.compile(r"\s*INSERT\s+INTO\s+job\b", re.I)
_WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)\b", re.I)
_FULL = 2


def install():
    sqlite3.connect = _connect
    ledger.note("W", file="seen")


class WatchedConnection(sqlite3.Connection):
    """As any connection, for one who looks on."""

    database = ""
    begun = ""
    has_stored_a_job = False

    def see(self, statement):
        if found := _CHECKPOINT.search(statement):
            mode = (found[1] or "PASSIVE").upper()
            ledger.note("K", mode, "inside" if self.is_inside() else "outside", file="seen")
        elif statement.startswith("BEGIN"):
            self.begun, self.has_stored_a_job = statement, False
        elif _WRITES.match(statement):  # what triggers do begins with --
            self.has_stored_a_job = self.has_stored_a_job or bool(_STORES_A_JOB.match(statement))
            if self.begun == "BEGIN":
                ledger.note("F", "deferred-write", file="seen")
            if not self.is_inside():
                ledger.note("F", "write-outside-the-gate", file="seen")

    def is_inside(self):
        """Whether the gate is closed, and it was this process that went in last."""
        try:
            descriptor = os.open(self.database + ".d/gate", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # deleted by the nemesis: nobody can tell
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return struct.unpack("=q", os.pread(descriptor, 8, 0))[0] == os.getpid()
        finally:
            os.close(descriptor)

    def execute(self, statement, *parameters):
        failing.come_to_a_call(self, statement)
        if statement == "COMMIT":
            self._see_commit()
        return super().execute(statement, *parameters)

    def executemany(self, statement, parameters):
        failing.come_to_a_call(self, statement)
        return super().executemany(statement, parameters)

    def executescript(self, script):
        failing.come_to_a_call(self, script)
        return super().executescript(script)

    def _see_commit(self):
        if super().execute("PRAGMA wal_autocheckpoint").fetchone()[0] != 0:
            ledger.note("F", "autocheckpoint", file="seen")
        if self.has_stored_a_job and super().execute("PRAGMA synchronous").fetchone()[0] < _FULL:
            ledger.note("F", "a-job-is-not-on-disk-when-acknowledged", file="seen")

    def close(self):
        if self.database and not self.is_inside():  # the last one to close makes a checkpoint
            ledger.note("F", "closed-outside-the-gate", file="seen")
        super().close()


def _connect(database, *args, **options):
    """As sqlite3.connect; the database of the run is watched, others (one being created, a copy) are not."""
    if os.fspath(database) != ledger.database():
        return _plain_connect(database, *args, **options)
    connection = _plain_connect(database, *args, factory=WatchedConnection, **options)
    connection.database = os.fspath(database)
    connection.set_trace_callback(connection.see)
    return connection


_plain_connect = sqlite3.connect
