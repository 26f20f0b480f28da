"""Damaged files: bits that flipped, pages that are gone, files cut short, the log of another database. Each is used in a
child, so that a crash or a hang is seen.

Runs in: the testing process.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

from fastworker_lite import FastWorkerError, SyncClient, execution, task
from fastworker_lite.exchange import Exchange, Report
from fastworker_lite.job import Lane, Outcome
from fastworker_lite.sockets import Waker
from fastworker_lite.store.connection import Connection
from tests.chaos import checker
from tests.chaos.faults import figure
from tests.chaos.machine import is_alive, until

#: What is typed at each damaged file.
COMMANDS = ("status -a --json", "show 1", "why 22", "health", "db check", "submit -- true", "cancel 25")
#: How `fwl` may end then: all of it documented, and none of it a fault of its own.
EXITS = {0, 1, 3, 4, 65, 69, 74, 75, 78}
PATIENCE = 20
PAGE = 4096
_executed = []


@task("damage.tell")
def tell(value):
    _executed.append(value)
    return value


def _flip(data, rng, most=8):
    for _ in range(rng.randint(1, most)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _zero_a_page(data, rng):
    page = rng.randrange(len(data) // PAGE) * PAGE
    data[page : page + PAGE] = bytes(PAGE)


def _scramble(data, rng):
    at = rng.randrange(len(data) - 512)
    data[at : at + 512] = rng.randbytes(512)


def _cut_short(data, rng):
    del data[rng.randrange(len(data)) :]


def _scramble_the_header(data, rng):
    data[rng.randrange(100)] = rng.randrange(256)


def _flip_in_text(data, rng):
    """Where something stands: between two bytes that are not 0."""
    for _ in range(rng.randint(1, 8)):
        at = rng.choice([at for at in range(1, len(data) - 1, 7) if data[at - 1] and data[at] and data[at + 1]])
        data[at] ^= 1 << rng.randrange(8)


def _flip_in_a_row(data, rng):
    """Near the name of a job's task, where the rest of the job is."""
    places = [found.start() for found in re.finditer(b"damage.tell", data)]
    for _ in range(rng.randint(1, 4)):
        at = min(max(0, rng.choice(places) + rng.randrange(-80, 200)), len(data) - 1)
        data[at] ^= 1 << rng.randrange(8)


#: What is done, and to which of the files.
DAMAGE = [
    ("", _flip),
    ("", _flip_in_text),
    ("", _flip_in_a_row),
    ("", _flip_in_a_row),
    ("", _zero_a_page),
    ("", _scramble),
    ("", _cut_short),
    ("", _scramble_the_header),
    ("-wal", _flip),
    ("-wal", _scramble),
    ("-wal", _cut_short),
]


def damage_files(seed, count=30):
    """R26 and R27: a damaged file is refused with a typed error, or works; it never crashes, hangs, or runs what was changed."""
    rng, found, ends = random.Random(seed), checker.Found(checker.Columns(), 0, 0, 0, 0, 0, 0, 0, []), Counter()
    with tempfile.TemporaryDirectory(prefix="fwl-damage-") as folder:
        sound, other = os.path.join(folder, "sound.db"), os.path.join(folder, "other.db")
        values = _make(sound, rng) | _make(other, rng)
        for number in range(count):
            place = os.path.join(folder, str(number))
            os.mkdir(place)
            database = os.path.join(place, "jobs.db")
            what = _damage(database, sound, other, rng)
            report = _use_in_a_child(database)
            ends.update(_judge(found, f"{number}, {what}", database, report, values))
            shutil.rmtree(place)
    text = (
        f"{count} damaged files: {ends['crash']} crashes, {ends['hang']} hangs, {ends['untyped']} errors of no type, "
        f"{ends['tampered']} changed payloads executed; {ends['refused']} refused at once, {ends['later']} while in use, "
        f"{ends['caught']} calls and results caught by their checksum"
    )
    return [figure("R26", text, found)]


def _make(path, rng):
    """A database with 20 jobs that have ended and 20 that wait, half of it still in the log. Returns their values."""
    values = [rng.randrange(10**6) for _ in range(40)]
    making = path + ".making"
    connection = Connection(making)
    with SyncClient(making, runner="never") as client:
        for value in values[:20]:
            client.options(tags={"for": "nothing"}).submit("damage.tell", value)
        while _work(connection, []):
            pass
        connection.checkpoint()
        for value in values[20:]:
            client.submit("damage.tell", value)
        shutil.copy(making, path)
        shutil.copy(making + "-wal", path + "-wal")
    connection.close()
    _executed.clear()
    return set(values)


def _damage(database, sound, other, rng):
    for end in ("", "-wal"):
        shutil.copy(sound + end, database + end)
    if rng.random() < 0.05:
        shutil.copy(other + "-wal", database + "-wal")
        return "the log of another database"
    end, harm = rng.choice(DAMAGE)
    data = bytearray(Path(database + end).read_bytes())
    harm(data, rng)
    Path(database + end).write_bytes(data)
    return f"{harm.__name__.strip('_')}{end}"


# ---- in the child


def _use_in_a_child(database):
    """What came of it: `exit`, None after a hang, and what the child has reported."""
    path = database + ".report"
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # this process may have threads
        child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(2 * PATIENCE)
            report = _use(database)
            Path(path).write_text(json.dumps(report))
        except BaseException:
            traceback.print_exc()
            os._exit(99)
        os._exit(0)
    try:
        until(lambda: not is_alive(child), PATIENCE, "the end of the child")
    except AssertionError:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    report = json.loads(Path(path).read_text()) if os.path.exists(path) else {}
    return report | {"exit": os.waitstatus_to_exitcode(status)}


def _use(database):
    os.environ |= {"FWL_DB": database, "XDG_STATE_HOME": os.path.dirname(database)}
    errors, executed, results = [], [], []
    try:
        connection = Connection(database, gate_patience=2.0)
    except FastWorkerError as error:
        errors.append(f"at once: {type(error).__name__}: {error}")
    except Exception as error:
        errors.append(f"untyped: {type(error).__name__}: {error} {traceback.format_exc()}")
    else:
        _try(errors, lambda: _work(connection, errors))
        executed = list(_executed)
        _try(errors, connection.checkpoint)
        _try(errors, connection.close)
        _try(errors, lambda: _read_results(database, errors, results))
    return {"errors": errors, "executed": executed, "results": results, "commands": _type_commands(database)}


def _read_results(database, errors, results):
    with SyncClient(database, runner="never") as client:
        for number in range(1, 21):
            _try(errors, lambda number=number: results.append(client.handle(number).result(timeout=0)))


def _try(errors, step):
    try:
        step()
    except FastWorkerError as error:
        errors.append(f"{type(error).__name__}: {error}")
    except Exception as error:
        errors.append(f"untyped: {type(error).__name__}: {error} {traceback.format_exc()}")


def _work(connection, errors):
    """As a worker does, three jobs."""
    exchange, report = Exchange(connection, 1, Lane.SYNC, None, Waker()), Report()
    claimed = exchange.swap(report, 3, list)
    for job in claimed:
        try:
            outcome = execution.run_call(job, execution.find_target(job), 10**6)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            outcome = Outcome(job, 0.0, 0.0, failure=execution.describe(error, job))
        report.outcomes.append(outcome)
    if report:
        exchange.tell(report)
    return claimed


def _type_commands(database):
    """Each command, how it ended, and what it said that it should not."""
    from fastworker_lite.cli import invoking

    ends = {}
    output = os.open(database + ".output", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for command in COMMANDS:
        os.ftruncate(output, 0)
        try:
            code = invoking.run(command.split())
        except SystemExit as error:
            code = error.code
        except BaseException:
            traceback.print_exc()
            code = -1
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        said = os.pread(output, 10**5, 0).decode(errors="replace")
        is_bad = code not in EXITS or "Traceback" in said or "unexpected:" in said
        ends[command] = [code, said[-1500:] if is_bad else ""]
    return ends


# ---- and outside


def _judge(found, what, database, report, values):
    ends = []

    def count(end, text):
        ends.append(end)
        found.count("wrong", f"{end}: {what}: {text}")

    if report["exit"] != 0:
        count("hang" if report["exit"] in (-signal.SIGKILL, -signal.SIGALRM) else "crash", str(report["exit"]))
        return ends
    if not os.path.exists(database):
        count("deleted", "the file is gone")
    for error in dict.fromkeys(report["errors"]):
        if error.startswith("untyped"):
            count("untyped", error)
    for command, (code, said) in report["commands"].items():
        if said:
            count("untyped", f"fwl {command} exits with {code}: {said}")
    for value in report["executed"] + report["results"]:
        if value not in values:
            count("tampered", str(value))
    if any(error.startswith("at once") for error in report["errors"]):
        ends.append("refused")
    elif any("NotOurDatabase" in error for error in report["errors"]):
        ends.append("later")
    ends += ["caught" for error in report["errors"] if "checksum" in error]
    return ends
