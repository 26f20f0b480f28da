"""Has a call of the database fail, as SQLite's calls do on a bad or full disk: the n-th one of each process.

A round begins when the file `fail` is written anew; every process counts its calls from there, and one of each fails.

Runs in: every process of a run.
"""

from __future__ import annotations

import os
import sqlite3

from tests.chaos import ledger

#: The kinds of error, and what a client is to be told.
KINDS = {
    "SQLITE_BUSY": "DatabaseBusy",
    "SQLITE_IOERR": "StorageError",
    "SQLITE_FULL": "StorageFull",
    "SQLITE_CORRUPT": "NotOurDatabase",
    "SQLITE_READONLY": "StorageError",
}

_FILE = "fail"
_round = ""
_calls = 0


def arm(folder, number, kind, call):
    """Begin a round: this call of each process is to fail so."""
    path = os.path.join(folder, _FILE)
    with open(path + ".new", "w") as file:
        file.write(f"{number} {kind} {call}")
    os.rename(path + ".new", path)


def disarm(folder):
    os.unlink(os.path.join(folder, _FILE))


def come_to_a_call(connection, statement):
    """To be called before each call of a connection."""
    global _round, _calls
    try:
        with open(os.path.join(ledger.folder(), _FILE)) as file:
            now = file.read()
    except FileNotFoundError:
        return
    if now != _round:
        _round, _calls = now, 0
    _calls += 1
    number, kind, call = now.split()
    if _calls == int(call):
        ledger.note("X", number, kind, call, statement.split()[0], file="seen")
        _fail(connection, kind, statement)


def _fail(connection, kind, statement):
    if connection.in_transaction and (statement == "ROLLBACK" or kind in ("SQLITE_IOERR", "SQLITE_FULL")):
        sqlite3.Connection.execute(connection, "ROLLBACK")  # SQLite does so itself
    error = (sqlite3.DatabaseError if kind == "SQLITE_CORRUPT" else sqlite3.OperationalError)("it was told to fail")
    error.sqlite_errorcode, error.sqlite_errorname = getattr(sqlite3, kind), kind
    raise error
