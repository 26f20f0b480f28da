"""Fourteen ways to break the package. For each a test must fail, or the tests prove nothing.

Each is applied to a copy of the package in a temporary folder, whose tests run there.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.chaos.machine import ROOT


class Change(NamedTuple):
    """A text of a file of the package, and what takes its place."""

    file: str
    old: str
    new: str


class Mutation(NamedTuple):
    """A way to break the package, and the test that has to fail then."""

    name: str
    changes: tuple[Change, ...]
    test: str


CONNECTION = "fastworker_lite/store/connection.py"
EXCHANGE = "fastworker_lite/exchange.py"
SCHEDULES = "fastworker_lite/schedules.py"
LEASES = "fastworker_lite/leases.py"

MUTATIONS = (
    Mutation(
        "synchronous=NORMAL",
        (
            Change(
                CONNECTION,
                '"PRAGMA synchronous = FULL" if self.is_durable else',
                '"PRAGMA synchronous = NORMAL" if self.is_durable else',
            ),
        ),
        "tests/test_chaos.py -k killed_submitter",
    ),
    Mutation(
        "acknowledged before the COMMIT",
        (
            Change(
                CONNECTION,
                '        self.sql.execute("BEGIN IMMEDIATE")\n        try:\n            self._check_version()\n',
                '        if self.sql.in_transaction:\n            self.sql.execute("COMMIT")\n'
                '        self.sql.execute("BEGIN IMMEDIATE")\n        try:\n            self._check_version()\n',
            ),
            Change(
                CONNECTION,
                'result = work(self.sql, *args)\n            self.sql.execute("COMMIT")\n',
                'result = work(self.sql, *args)\n            if getattr(work, "__name__", "") != "_insert":\n'
                '                self.sql.execute("COMMIT")\n',
            ),
        ),
        "tests/test_chaos.py -k killed_submitter",
    ),
    Mutation(
        "a settle without its claim",
        (
            Change(
                "fastworker_lite/store/settling.py",
                "   AND claim = ?                     -- a worker",
                "   AND ? IS NOT NULL                 -- a worker",
            ),
        ),
        "tests/test_store.py -k earlier_claim_changes_nothing",
    ),
    Mutation(
        "leases by time",
        (
            Change(
                LEASES,
                '    """Whether the holder of this lease is gone. A missing file counts as free."""\n',
                '    """Whether the holder of this lease is gone. A missing file counts as free."""\n'
                '    if os.path.basename(path).startswith("w-") and (note := read_note(path)).is_running:\n'
                "        return time.monotonic() - note.began > 0.4\n",
            ),
            Change(
                "fastworker_lite/recovery.py",
                "if not process.kill():",
                "if not process:",
            ),
            Change(
                "fastworker_lite/recovery.py",
                "            leases.end_remains(process.pid, note)  # the other",
                "            pass  # the other",
            ),
        ),
        "tests/test_chaos.py -k stopped_leader",
    ),
    Mutation(
        "a lease that forked children keep",
        (
            Change(
                LEASES,
                "            raise\n        close_in_forked_children(self)\n",
                "            raise\n",
            ),
        ),
        "tests/test_chaos.py -k forked",
    ),
    Mutation(
        "the outbox in a second transaction",
        (
            Change(
                "fastworker_lite/store/schema.sql",
                "WHEN new.finished_at IS NOT NULL\n AND (new.callback IS NOT NULL OR",
                "WHEN new.finished_at IS NOT NULL AND 0\n AND (new.callback IS NOT NULL OR",
            ),
            Change(
                EXCHANGE,
                "            return write(self._transact, report, wanted, time.time())\n        except",
                "            done = write(self._transact, report, wanted, time.time())\n"
                "            self._connection.write(_tell_afterwards, report)\n"
                "            return done\n        except",
            ),
            Change(
                EXCHANGE,
                "def _with_told(",
                "def _tell_afterwards(sql: sqlite3.Connection, report: Report) -> None:\n"
                "    sql.executemany(\n"
                '        "INSERT INTO outbox (address, job, task, attempt, state, reason, error, started_at, finished_at) "\n'
                '        "SELECT callback, id, task, attempt, state, reason, error, started_at, finished_at FROM job "\n'
                '        "WHERE id = ? AND callback IS NOT NULL AND finished_at IS NOT NULL",\n'
                "        [(outcome.job.id,) for outcome in report.outcomes],\n"
                "    )\n\n\ndef _with_told(",
            ),
        ),
        "tests/test_chaos.py -k after_settle_commit",
    ),
    Mutation(
        "the tick in a second transaction",
        (
            Change(
                "fastworker_lite/firing.py",
                "        ticks.add(self._sql, self._noted)\n",
                "        LATER[:] = self._noted\n",
            ),
            Change(
                "fastworker_lite/firing.py",
                "class Firing:\n",
                "LATER: list[tuple[str, Tick]] = []\n\n\nclass Firing:\n",
            ),
            Change(
                SCHEDULES,
                "            tell(self._waker, connection.write(fire_some, now))\n",
                "            tell(self._waker, connection.write(fire_some, now))\n"
                "            from .firing import LATER\n"
                "            from .store import ticks as late_ticks\n\n"
                "            connection.write(lambda sql: late_ticks.add(sql, LATER))\n",
            ),
        ),
        "tests/test_chaos.py -k after_tick_insert",
    ),
    Mutation(
        "no signal at the parent's death",
        (
            Change(
                "fastworker_lite/processes.py",
                "        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)\n",
                "        pass\n",
            ),
        ),
        "tests/test_chaos.py -k outlives",
    ),
    Mutation(
        "wal_autocheckpoint=1000",
        (Change(CONNECTION, '"PRAGMA wal_autocheckpoint = 0"', '"PRAGMA wal_autocheckpoint = 1000"'),),
        "tests/test_chaos.py -k killed_submitter",
    ),
    Mutation(
        "no file guard",
        (
            Change(
                "fastworker_lite/store/guard.py",
                "        for path, expected in self._paths:\n",
                "        for path, expected in list[tuple[str, Identity]]():\n",
            ),
        ),
        "tests/test_chaos.py -k once_the_gate_is_deleted",
    ),
    Mutation(
        "deferred transactions",
        (
            Change(
                CONNECTION,
                '        self.sql.execute("BEGIN IMMEDIATE")\n        try:\n            self._check_version()\n',
                '        self.sql.execute("BEGIN")\n        try:\n            self._check_version()\n',
            ),
        ),
        "tests/test_chaos.py -k killed_submitter",
    ),
    Mutation(
        "untrusted text on a terminal as it is",
        (Change("fastworker_lite/cli/render.py", "    if line.isprintable():", "    if line is not None:"),),
        "tests/test_cli_hostile.py -k listed",
    ),
    Mutation(
        "a call is loaded whatever its checksum",
        (
            Change(
                "fastworker_lite/execution.py",
                "    if payloads.checksum(job.task, job.target, job.payload) != job.checksum:",
                "    if payloads.checksum(job.task, job.target, job.payload) is None:",
            ),
        ),
        "tests/test_chaos.py -k bytes_were_changed",
    ),
    Mutation(
        "a socket made private after it is bound",
        (
            Change(
                "fastworker_lite/sockets.py",
                "        os.fchmod(one.fileno(), 0o600)  # the file gets these bits when it is bound\n"
                "        one.bind(address)\n",
                "        one.bind(address)\n        os.chmod(address, 0o600)\n",
            ),
        ),
        "tests/test_listener.py -k first_instant",
    ),
)


@contextlib.contextmanager
def broken(mutation):
    """A copy of the project that is broken in this way."""
    with tempfile.TemporaryDirectory(prefix="fwl-broken-") as name:
        folder = Path(name)
        for part in ("fastworker_lite", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for change in mutation.changes:
            text = (folder / change.file).read_text()
            if text.count(change.old) != 1:
                raise AssertionError(
                    f"{mutation.name}: {change.file} has it {text.count(change.old)} times: {change.old}"
                )
            (folder / change.file).write_text(text.replace(change.old, change.new))
        yield folder


def is_noticed(mutation):
    """Whether the test fails in the broken copy. Returns that, and the last line that pytest has printed."""
    with broken(mutation) as folder:
        file, *options = mutation.test.split()
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", file, *options]
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]
        return done.returncode == 1 and " failed" in last, last


def show():
    """Break the package in each way, and say which test notices. True when every one is."""
    caught = 0
    for mutation in MUTATIONS:
        noticed, last = is_noticed(mutation)
        caught += noticed
        print(f"{'noticed' if noticed else 'MISSED ':8} {mutation.name:42} {mutation.test}  ({last})", flush=True)
    print(f"{len(MUTATIONS)} mutations, {caught} killed", flush=True)
    return caught == len(MUTATIONS)
