"""The WAL-reset race of SQLite 3.7.0 to 3.51.2, forced: a writer begins the log anew while another process is between two
instructions of a checkpoint. Beside it, the same with our checkpoint.

Runs in: the testing process, and one that it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from fastworker_lite.cli.doctor_machine import has_reset_bug
from fastworker_lite.store.connection import Connection
from tests.chaos import checker
from tests.chaos.faults import Figure
from tests.chaos.machine import ROOT, until
from tests.chaos.recording import compile_library, find_compiler

#: Why the race cannot be forced here, None where it can.
OBSTACLE = (
    "the race is forced on Linux on x86-64 only"
    if (sys.platform, platform.machine()) != ("linux", "x86_64")
    else None
    if find_compiler()
    else "the race is not forced: this machine has no C compiler (apt-get install gcc)"
)

_INSERT = "INSERT INTO row (bytes) VALUES (randomblob(3000))"
_COUNT = "SELECT count(*) FROM row"


class Plain:
    """As most programs use SQLite, but that it makes its checkpoints when it is told to."""

    def __init__(self, database):
        self._sql = sqlite3.connect(database, isolation_level=None)
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA wal_autocheckpoint = 0")

    def write(self, statement):
        self._sql.execute(statement)

    def ask(self, statement):
        return self._sql.execute(statement).fetchone()[0]

    def checkpoint(self):
        self._sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self):
        with contextlib.suppress(sqlite3.Error):
            self._sql.close()


class Ours:
    def __init__(self, database):
        self._connection = Connection(database)

    def write(self, statement):
        self._connection.write(lambda sql: sql.execute(statement))

    def ask(self, statement):
        return self._connection.read(lambda sql: sql.execute(statement).fetchone()[0])

    def checkpoint(self):
        self._connection.checkpoint()

    def close(self):
        self._connection.close()


KINDS = {"plain": Plain, "ours": Ours}


def checkpoint_and_be_stopped(kind, database, library):
    """The other process. It is stopped as it looks how much is written back; for a PASSIVE one that has to be all."""
    race, connection = ctypes.CDLL(library), KINDS[kind](database)
    connection.ask(_COUNT)
    if kind == "plain":
        connection.checkpoint()
    assert race.arm()
    connection.checkpoint()
    race.disarm()


def force_the_race(seed, rounds=3):
    """R28: a PASSIVE checkpoint beside a writer damages the file, ours does not."""
    if OBSTACLE is not None:
        return [Figure("R28", OBSTACLE, checker.Columns(), [])]
    with tempfile.TemporaryDirectory(prefix="fwl-race-") as folder:
        library = compile_library(Path(__file__).with_name("race.c"), folder)
        damaged = {
            kind: [_race(kind, os.path.join(folder, f"{kind}{one}"), library) for one in range(rounds)]
            for kind in KINDS
        }
    details = [text for text in damaged["ours"] if text]
    plain = sum(map(bool, damaged["plain"]))
    columns = checker.Columns(integrity=len(details))
    if has_reset_bug(sqlite3.sqlite_version_info) and not plain:
        columns.wrong = 1
        details.append("the race is not forced: nothing is damaged without the gate")
    text = (
        f"WAL-reset race forced on SQLite {sqlite3.sqlite_version}: PASSIVE checkpoints beside a writer damage "
        f"{plain} of {rounds} files, ours {columns.integrity} of {rounds}"
    )
    return [Figure("R28", text, columns, details)]


def _race(kind, folder, library):
    """What is wrong with the file in the end, None when nothing is."""
    os.mkdir(folder)
    database, stored = os.path.join(folder, "jobs.db"), 40
    connection = KINDS[kind](database)
    connection.write("CREATE TABLE row (id INTEGER PRIMARY KEY, bytes BLOB)")
    for _ in range(stored):
        connection.write(_INSERT)
    command = [sys.executable, "-m", "tests.chaos.race", kind, database, library]
    other = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"LD_PRELOAD": library, "FWL_RACE": folder})
    try:
        until(lambda: os.path.exists(os.path.join(folder, "at")), 20, "the middle of the checkpoint")
        for _ in range(3):  # ours waits at the gate until the checkpoint is over
            connection.write(_INSERT)
            stored += 1
        Path(folder, "go").touch()
        assert other.wait(20) == 0, "the checkpoint failed"
        with contextlib.suppress(sqlite3.DatabaseError):
            for _ in range(120):
                connection.write(_INSERT)
                stored += 1
        return _damage(database, stored)
    finally:
        connection.close()
        other.kill()
        other.wait()


def _damage(database, stored):
    try:
        sql = sqlite3.connect(database)
        with contextlib.closing(sql):
            there = sql.execute(_COUNT).fetchone()[0]
            said = sql.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if (there, said) == (stored, "ok") else f"{stored} rows were stored, {there} are there: {said}"


if __name__ == "__main__":
    checkpoint_and_be_stopped(*sys.argv[1:])
