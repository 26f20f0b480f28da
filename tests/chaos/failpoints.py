"""Fourteen places at which a process is killed. Nothing in the package knows of them: they are put around its functions here.

A place is armed by making the file `armed`; the first process that comes to it takes the file away and dies. So one arming is
one kill.

Runs in: every process of a run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import sqlite3
import threading
import time

from tests.chaos import ledger

#: In the environment of the processes that are to come to a place: its name.
PLACE = "FWL_CHAOS_PLACE"
ARMED = "armed"


def arm(folder):
    with open(os.path.join(folder, ARMED), "w"):
        pass


def is_armed(folder):
    return os.path.exists(os.path.join(folder, ARMED))


def _die():
    """Be killed here, if the place is armed and nobody was faster."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(ledger.folder(), ARMED))
        ledger.note("D", os.environ[PLACE], file="seen")
        os.kill(os.getpid(), signal.SIGKILL)


def install():
    if PLACE in os.environ:
        PLACES[os.environ[PLACE]]()


def _around(owner, name):
    """Put the decorated function around a method: it is given the method, and what that is called with."""

    def replace(function):
        original = getattr(owner, name)

        @functools.wraps(original)
        def around(self, *args):
            return function(original, self, *args)

        setattr(owner, name, around)

    return replace


# ---- in the exchange: the one transaction of a worker


def _before_commit(*, is_claim):
    from fastworker_lite.exchange import Exchange

    @_around(Exchange, "_transact")
    def transact(original, self, sql, report, wanted, now):
        done = original(self, sql, report, wanted, now)
        if done[0] if is_claim else report:
            _die()
        return done


def _after_commit(*, is_claim):
    from fastworker_lite.exchange import Exchange
    from fastworker_lite.store.connection import Connection

    @_around(Connection, "_transact")
    def transact(original, self, work, args):
        done = original(self, work, args)
        if isinstance(getattr(work, "__self__", None), Exchange) and (done[0] if is_claim else args[0]):
            _die()
        return done


# ---- around the run of a job


def _before_start():
    from fastworker_lite.leases import Lease

    @_around(Lease, "note_begun")
    def note_begun(original, self, *args):
        original(self, *args)
        _die()


def _after_run():
    from fastworker_lite.leases import Lease

    @_around(Lease, "note_ended")
    def note_ended(original, self, *args):
        _die()
        original(self, *args)


def _after_command_start():
    from fastworker_lite import execution

    original = execution.start_command

    def start_command(*args):
        process = original(*args)
        _die()
        return process

    execution.start_command = start_command


def _after_wake():
    from fastworker_lite.worker import Worker

    @_around(Worker, "_wait")
    def wait(original, self):
        original(self)
        _die()  # the datagram is gone with it


# ---- in the store


def _mid_checkpoint():
    from fastworker_lite.store import connection

    connection.CHECKPOINT_SIZE = 200_000

    @_around(connection.Connection, "_checkpoint")
    def checkpoint(original, self):
        if self._log_size > connection.CHECKPOINT_SIZE and is_armed(ledger.folder()):
            seconds = random.uniform(0.0, 0.002)
            threading.Thread(target=lambda: (time.sleep(seconds), _die()), daemon=True).start()
        return original(self)


def _mid_migration():
    """There is one version so far, so nothing migrates: in the middle of making a database."""

    class Creating(sqlite3.Connection):
        count = 0

        def see(self, statement):
            self.count += statement.lstrip().startswith("CREATE")
            if self.count == 12:
                _die()

    plain = sqlite3.connect

    def connect(path, **options):
        if not str(path).endswith("new.db"):
            return plain(path, **options)
        connection = plain(path, factory=Creating, **options)
        connection.set_trace_callback(connection.see)
        return connection

    sqlite3.connect = connect


def _after_tick_insert():
    from fastworker_lite.store import ticks

    original = ticks.add

    def add(sql, noted):
        original(sql, noted)
        if noted:
            _die()

    ticks.add = add


def _after_recover():
    from fastworker_lite.recovery import Recovery

    @_around(Recovery, "_recover")
    def recover(original, self, connection, death):
        original(self, connection, death)
        _die()


def _before_ack():
    from fastworker_lite.reception import Reception

    @_around(Reception, "acknowledge")
    def acknowledge(original, self, deliveries):
        if deliveries:
            _die()
        original(self, deliveries)


def _after_submit():
    """Right after a job was acknowledged: it must be there, whatever its submitter would have done next."""
    original = ledger.note

    def note(kind, *fields, **more):
        original(kind, *fields, **more)
        if kind == "A":
            _die()

    ledger.note = note


PLACES = {
    "after_submit": _after_submit,
    "before_claim_commit": functools.partial(_before_commit, is_claim=True),
    "after_claim_commit": functools.partial(_after_commit, is_claim=True),
    "before_start": _before_start,
    "after_command_start": _after_command_start,
    "after_run": _after_run,
    "before_settle_commit": functools.partial(_before_commit, is_claim=False),
    "after_settle_commit": functools.partial(_after_commit, is_claim=False),
    "after_wake": _after_wake,
    "mid_checkpoint": _mid_checkpoint,
    "mid_migration": _mid_migration,
    "after_tick_insert": _after_tick_insert,
    "after_recover": _after_recover,
    "before_ack": _before_ack,
}
