"""The file: its gate, its guard, and the life of a job in it. Real SQLite, real processes."""

import asyncio
import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastworker_lite.errors import (
    ConfigError,
    DatabaseBusy,
    DatabaseGone,
    NotOurDatabase,
    SchemaTooNew,
    StorageError,
)
from fastworker_lite.job import POISON_DEATHS, TERMINAL, TRANSITIONS, Failure, Kind, Lane, NewJob, Outcome, State
from fastworker_lite.options import JobOptions, Policy, retry_pause
from fastworker_lite.payloads import result_checksum
from fastworker_lite.store import cancelling, due, jobs, queries, recovering, runners, selection, settling
from fastworker_lite.store.bridge import AsyncConnection, SharedCommit
from fastworker_lite.store.connection import CHECKPOINT_SIZE, Connection
from fastworker_lite.store.jobs import Wanted
from fastworker_lite.store.recovering import Death
from fastworker_lite.store.selection import Filter

ROOT = Path(__file__).parent.parent
NOW = 1_000_000.0


@pytest.fixture
def connection(database):
    opened = Connection(database)
    yield opened
    opened.close()


#: What every child script begins with; a test's own lines follow.
PRELUDE = """
import os, sys, time, signal, sqlite3
from fastworker_lite.errors import *
from fastworker_lite.job import Kind, NewJob
from fastworker_lite.options import JobOptions
from fastworker_lite.store import jobs
from fastworker_lite.store.connection import Connection

def say(*words):
    print(*words, flush=True)

def submit(connection, count=1):
    new = [NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0)] * count
    return connection.write(jobs.insert, new, 0.0)

database = sys.argv[1]
"""


@contextmanager
def child(script, *arguments):
    """Another process that runs *script*; killed at the end if it still lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def output_of(script, *arguments):
    """What another process that runs *script* to its end prints, as lines."""
    with child(script, *arguments) as process:
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 0
    return output.splitlines()


def new_job(**options):
    return NewJob(kind=Kind.CALL, task="t", payload=b"payload", checksum=0, options=JobOptions(**options))


def submit(connection, count=1, **options):
    return list(connection.write(jobs.insert, [new_job(**options)] * count, NOW))


def claim(connection, *, limit=1, worker=1, **more):
    wanted = Wanted(worker=worker, lane=Lane.SYNC, limit=limit, pick=lambda found: found, **more)
    return connection.write(jobs.claim, wanted, NOW)


def job(connection, job_id):
    return connection.read(queries.get, job_id)


def succeeded(claimed):
    return Outcome(job=claimed, started_at=NOW, finished_at=NOW + 1, result=b"result")


def failed(claimed, **more):
    return Outcome(job=claimed, started_at=NOW, finished_at=NOW + 1, failure=Failure(reason="E", error="E", **more))


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextmanager
def closing(connection):
    try:
        yield connection
    finally:
        connection.close()


# ---- the gate

HOLD = """
connection = Connection(database)
def hold(sql):
    say("inside")
    time.sleep(60)
connection.write(hold)
"""


def test_two_processes_that_write_without_pause_take_turns(database):
    script = """
connection = Connection(database, is_worker=True)
say("ready")
sys.stdin.readline()
count, worst, end = 0, 0.0, time.monotonic() + 1.5
while time.monotonic() < end:
    begin = time.monotonic()
    submit(connection)
    worst = max(worst, time.monotonic() - begin)
    count += 1
say(count, worst)
connection.close()
"""
    with child(script, database) as one, child(script, database) as other:
        for process in (one, other):
            assert process.stdout.readline() == "ready\n"
        for process in (one, other):
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [process.stdout.readline().split() for process in (one, other)]

    counts = sorted(int(count) for count, _ in found)
    assert counts[0] > counts[1] / 10
    assert max(float(worst) for _, worst in found) < 1.0


def test_a_submitter_gets_its_turn_beside_busy_workers(connection, database):
    busy = 'connection = Connection(database, is_worker=True)\nsay("ready")\nwhile True: submit(connection)\n'
    with child(busy, database) as one, child(busy, database) as other:
        assert one.stdout.readline() == other.stdout.readline() == "ready\n"
        waits = []
        for _ in range(60):
            begin = time.monotonic()
            submit(connection)
            waits.append(time.monotonic() - begin)

    assert max(waits) < 1.0


def test_a_killed_holder_frees_the_gate(connection, database):
    with child(HOLD, database) as holder:
        assert holder.stdout.readline() == "inside\n"
        holder.kill()
        begin = time.monotonic()
        submit(connection)

    assert time.monotonic() - begin < 2.0


def test_a_forked_child_does_not_keep_the_gate(connection, database):
    script = """
connection = Connection(database)
def fork(sql):
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    say(child)
    time.sleep(60)
connection.write(fork)
"""
    with child(script, database) as holder:
        grandchild = int(holder.stdout.readline())
        try:
            holder.kill()
            submit(connection)
            os.kill(grandchild, 0)
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_a_connection_cannot_be_used_in_a_forked_child(database):
    script = """
connection = Connection(database)
submit(connection)
child = os.fork()
if child == 0:
    for use in (lambda: submit(connection), lambda: connection.read(lambda sql: None), connection.checkpoint):
        try:
            use()
        except ForkedError as error:
            say(error)
    connection.close()
    os._exit(0)
os.waitpid(child, 0)
say(list(submit(connection)))
connection.close()
"""
    assert output_of(script, database) == [
        "this client was opened before a fork; open a new one in the child process"
    ] * 3 + ["[2]"]


def test_a_busy_gate_names_the_process_that_holds_it(database):
    with child(HOLD, database) as holder:
        connection = None
        try:
            assert holder.stdout.readline() == "inside\n"
            with pytest.raises(DatabaseBusy, match=rf"^database busy for 0\.2 s: process {holder.pid} holds "):
                connection = Connection(database, gate_patience=0.2)
        finally:
            if connection is not None:
                connection.close()


def test_an_interrupt_inside_the_gate_leaves_it_free(database):
    script = """
connection = Connection(database, blocks_signals=True)
def interrupted(sql):
    os.kill(os.getpid(), signal.SIGINT)
    jobs.insert(sql, [NewJob(kind=Kind.CALL, task="t", payload=b"p", checksum=0)], 0.0)
try:
    connection.write(interrupted)
except KeyboardInterrupt:
    say("interrupted")
say(list(submit(connection)))
connection.close()
"""
    assert output_of(script, database) == ["interrupted", "[2]"]


def test_what_raises_inside_is_rolled_back_and_the_gate_is_free(connection):
    def fail(sql):
        jobs.insert(sql, [new_job()], NOW)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connection.write(fail)

    assert connection.read(queries.get_many, range(10)) == []
    assert submit(connection) == [1]


# ---- the guard


def delete(path):
    os.unlink(path)


def replace_by_a_copy(path):
    shutil.copy(path, path + ".copy")
    os.rename(path + ".copy", path)


def rename(path):
    os.rename(path, path + ".old")


@pytest.mark.parametrize("harm", [delete, replace_by_a_copy, rename])
@pytest.mark.parametrize("name", ["jobs.db", "jobs.db-wal", "jobs.db-shm", "jobs.db.d/gate"])
def test_nothing_is_acknowledged_once_a_file_is_not_the_one_that_was_opened(tmp_path, name, harm):
    connection = Connection(tmp_path / "jobs.db")
    submit(connection)
    harm(str(tmp_path / name))

    acknowledged = 0
    for _ in range(5):
        with pytest.raises(DatabaseGone):
            submit(connection)
            acknowledged += 1

    assert acknowledged == 0
    connection.close()


def test_a_connection_whose_file_is_gone_stays_unusable_when_the_file_comes_back(database):
    connection = Connection(database)
    os.rename(database, database + ".old")
    with pytest.raises(DatabaseGone):
        submit(connection)
    os.rename(database + ".old", database)

    with pytest.raises(DatabaseGone, match="open it anew"):
        submit(connection)

    connection.close()


@pytest.mark.parametrize("verb", ["submit(connection)", "connection.read(lambda sql: None)", "connection.checkpoint()"])
@pytest.mark.parametrize("kept", ["connection._gate.descriptor", "None"])
def test_nothing_is_done_once_descriptors_were_closed(database, verb, kept):
    script = f"""
connection = Connection(database)
submit(connection)
for descriptor in range(3, 64):
    if descriptor != {kept}:
        try: os.close(descriptor)
        except OSError: pass
for _ in range(3):
    try:
        {verb}
    except StorageError as error:
        say(type(error).__name__)
os._exit(0)
"""
    assert output_of(script, database) == ["DatabaseGone"] * 3


def test_a_file_that_took_the_number_of_a_closed_descriptor_is_not_written_to(database, tmp_path):
    script = """
connection = Connection(database)
submit(connection)
os.closerange(3, 64)
for _ in range(12):
    os.open(sys.argv[2], os.O_RDWR)
for _ in range(3):
    try:
        submit(connection)
    except StorageError as error:
        say(type(error).__name__)
os._exit(0)
"""
    (tmp_path / "theirs").write_bytes(b"precious bytes")

    assert output_of(script, database, tmp_path / "theirs") == ["DatabaseGone"] * 3
    assert (tmp_path / "theirs").read_bytes() == b"precious bytes"


@pytest.mark.parametrize("opened", ["database", "database + '-shm'", "database + '-wal'"])
@pytest.mark.parametrize("visit", ["Connection(database).close()", "visit_with_sqlite()"])
def test_closing_a_second_descriptor_of_the_file_loses_no_acknowledged_job(database, opened, visit):
    script = f"""
connection = Connection(database)
acknowledged = []
for _ in range(20):
    try:
        acknowledged += submit(connection)
    except DatabaseGone:
        break
    open({opened}, "rb").close()        # drops every lock that SQLite holds on it in this process
    say("closed")
    sys.stdin.readline()
say(*acknowledged)
os._exit(0)
"""
    visitor = f"""
def visit_with_sqlite():
    sql = sqlite3.connect(database)
    sql.execute("SELECT count(*) FROM job").fetchone()
    sql.close()
{visit}
"""
    with child(script, database) as holder:
        while (line := holder.stdout.readline()) == "closed\n":
            output_of(visitor, database)
            holder.stdin.write("\n")
            holder.stdin.flush()

    acknowledged = {int(word) for word in line.split()}
    with closing(Connection(database)) as connection:
        kept = set(connection.read(selection.everything, Filter()))
    assert acknowledged
    assert acknowledged <= kept


def test_opening_and_closing_a_second_connection_does_no_harm_to_the_first(connection, database):
    submit(connection)
    Connection(database).close()
    output_of("Connection(database).close()", database)

    assert submit(connection) == [2]


# ---- what may be opened


def test_the_files_are_for_this_user_alone_under_any_umask(database):
    old = os.umask(0)
    try:
        with closing(Connection(database)) as connection:
            submit(connection)
            modes = {name: os.stat(database + name).st_mode & 0o777 for name in ("", "-wal", "-shm", ".d", ".d/gate")}
    finally:
        os.umask(old)

    assert modes == {"": 0o600, "-wal": 0o600, "-shm": 0o600, ".d": 0o700, ".d/gate": 0o600}


def test_a_side_folder_that_others_may_enter_is_closed_to_them(database):
    os.mkdir(database + ".d", 0o777)
    os.chmod(database + ".d", 0o777)

    Connection(database).close()

    assert os.stat(database + ".d").st_mode & 0o777 == 0o700


def test_a_link_in_the_side_folders_place_is_refused(database, tmp_path):
    (tmp_path / "theirs").mkdir()
    os.symlink(tmp_path / "theirs", database + ".d")

    with pytest.raises(StorageError, match="must be a folder of ours"):
        Connection(database)


def test_a_newer_schema_is_refused_and_the_file_is_untouched(tmp_path):
    made = tmp_path / "made.db"
    Connection(made).close()
    sql = sqlite3.connect(made)
    sql.execute("PRAGMA user_version = 99")
    sql.close()
    path = tmp_path / "apart" / "jobs.db"
    path.parent.mkdir()
    shutil.copy(made, path)
    before = digest(path)

    with pytest.raises(SchemaTooNew, match=r"has schema 99, this version knows up to 1; upgrade: pip install"):
        Connection(path)

    assert digest(path) == before
    assert os.listdir(path.parent) == ["jobs.db"]


def test_a_schema_that_becomes_newer_under_an_open_connection_stops_it(connection, database):
    output_of('sql = sqlite3.connect(database)\nsql.execute("PRAGMA user_version = 99")\nsql.close()', database)

    with pytest.raises(SchemaTooNew):
        submit(connection)

    sql = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    assert sql.execute("SELECT count(*) FROM job").fetchone() == (0,)
    sql.close()


def make_foreign_database(path):
    sql = sqlite3.connect(path)
    sql.execute("CREATE TABLE job (id INTEGER PRIMARY KEY)")
    sql.commit()
    sql.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_foreign_database, "is a database of another program"),
        (lambda path: path.write_text("Dear diary,\n" * 100), "is not a SQLite database"),
        (lambda path: path.write_bytes(b"SQLite format 3\0"), "is not a SQLite database"),
    ],
)
def test_a_file_of_somebody_else_is_refused_and_untouched(tmp_path, make, message):
    path = tmp_path / "theirs"
    make(path)
    before = digest(path)

    with pytest.raises(NotOurDatabase, match=message):
        Connection(path)

    assert digest(path) == before
    assert os.listdir(tmp_path) == ["theirs"]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(StorageError, match="is a folder; name a file for the database"):
        Connection(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_its_other_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(StorageError, match="is not a regular file"):
        Connection(tmp_path / "pipe")


def test_a_database_under_two_names_is_refused(database, tmp_path):
    Connection(database).close()
    os.link(database, tmp_path / "second.db")

    with pytest.raises(StorageError, match="has 2 hard links"):
        Connection(tmp_path / "second.db")


def test_a_folder_that_is_not_there_is_named_with_the_remedy(tmp_path):
    with pytest.raises(StorageError, match=rf"there is no such folder; create it: mkdir -p {tmp_path}/no/such"):
        Connection(tmp_path / "no" / "such" / "jobs.db")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(StorageError, match="name"):
        Connection(tmp_path / ("x" * 300))


def test_an_empty_file_becomes_a_database(database):
    Path(database).touch()

    with closing(Connection(database)) as connection:
        assert submit(connection) == [1]


def test_the_log_of_a_database_that_was_deleted_is_not_read_into_a_new_one(database):
    output_of("connection = Connection(database)\nsubmit(connection, 50)\nos._exit(0)", database)
    assert os.path.getsize(database + "-wal") > 0
    os.unlink(database)

    with closing(Connection(database)) as connection:
        assert connection.read(selection.everything, Filter()) == []


def test_a_symlink_leads_to_the_same_side_folder(database, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(database)

    with closing(Connection(link)) as through_link, closing(Connection(database)) as direct:
        assert through_link.paths == direct.paths
        assert submit(through_link) == [1]
        assert submit(direct) == [2]

    assert os.listdir(tmp_path / "elsewhere") == ["link.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("is_made_before", [False, True])
def test_a_folder_that_another_user_may_only_read_is_refused(is_made_before):
    folder = tempfile.mkdtemp()
    try:
        database = os.path.join(folder, "jobs.db")
        if is_made_before:
            Connection(database).close()
            os.chmod(database, 0o644)
        os.chmod(folder, 0o555)
        script = """
os.seteuid(65534)
try:
    Connection(database)
except StorageError as error:
    say(type(error).__name__, error)
"""
        (line,) = output_of(script, database)
    finally:
        os.chmod(folder, 0o755)
        shutil.rmtree(folder)

    assert line.startswith(f"StorageError {folder}/jobs.db.d")
    assert "belongs to user 0" in line if is_made_before else "must be writable" in line


def test_many_processes_that_create_one_database_all_get_the_same(database):
    script = "connection = Connection(database)\nsubmit(connection)\nconnection.close()"
    with child(script, database) as a, child(script, database) as b, child(script, database) as c:
        assert [process.wait(timeout=50) for process in (a, b, c)] == [0, 0, 0]

    with closing(Connection(database)) as connection:
        assert len(connection.read(selection.everything, Filter())) == 3


# ---- how it is opened

PRAGMAS = {
    "journal_mode": "wal",
    "wal_autocheckpoint": 0,
    "synchronous": 2,
    "fullfsync": 1,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "temp_store": 2,
    "busy_timeout": 10000,
    "user_version": 1,
    "auto_vacuum": 2,
}


def test_every_connection_has_our_pragmas(connection, database):
    with closing(Connection(database, is_worker=True)) as second:
        for opened in (connection, second):
            found = {name: opened.sql.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS}
            assert found == PRAGMAS


def test_durability_is_kept_in_the_file(database):
    Connection(database, durability="normal").close()

    with closing(Connection(database)) as connection:
        assert not connection.is_durable
        assert connection.sql.execute("PRAGMA synchronous").fetchone()[0] == 1


def test_a_durability_that_does_not_exist_is_refused(database):
    with pytest.raises(ConfigError, match=r"^durability must be \"full\" or \"normal\", got 'off'$"):
        Connection(database, durability="off")


def test_a_fast_write_leaves_the_next_one_durable(connection):
    ask = "PRAGMA synchronous"

    assert connection.write_fast(lambda sql: sql.execute(ask).fetchone()[0]) == 1
    assert connection.write(lambda sql: sql.execute(ask).fetchone()[0]) == 2


def test_every_checkpoint_in_the_package_is_a_truncating_one():
    for path in (ROOT / "fastworker_lite").rglob("*"):
        if path.suffix in (".py", ".sql"):
            text = path.read_text()
            assert re.findall(r"wal_checkpoint(?!\(TRUNCATE\))", text) == [], path
            assert not re.search(r"\bPASSIVE\b", text), path


def test_the_log_is_written_into_the_database_when_it_has_grown(connection, database):
    for _ in range(6):
        connection.write(jobs.insert, [NewJob(kind=Kind.CALL, task="t", payload=bytes(1 << 20), checksum=0)], NOW)

    assert os.path.getsize(database + "-wal") <= CHECKPOINT_SIZE
    assert os.path.getsize(database) >= CHECKPOINT_SIZE


def test_what_is_stored_is_acknowledged_though_the_checkpoint_after_it_fails(connection):
    def judge(action, name, *_):
        return sqlite3.SQLITE_DENY if (action, name) == (sqlite3.SQLITE_PRAGMA, "wal_checkpoint") else sqlite3.SQLITE_OK

    connection.sql.set_authorizer(judge)
    ids = connection.write(jobs.insert, [new_job()._replace(payload=bytes(2 * CHECKPOINT_SIZE))], NOW)
    assert job(connection, 1) is not None and ids
    connection.sql.set_authorizer(None)
    assert connection.checkpoint()


def test_a_checkpoint_that_a_reader_holds_up_is_not_tried_again_at_once(connection, database):
    submit(connection)
    with closing(Connection(database)) as reader:
        reader.sql.execute("BEGIN")
        reader.sql.execute("SELECT count(*) FROM job").fetchone()
        submit(connection)

        assert not connection.checkpoint()
        reader.sql.execute("ROLLBACK")
        begin = time.monotonic()
        assert not connection.checkpoint()
        assert time.monotonic() - begin < 0.05


# ---- states

STATES = list(State)


def set_state(sql, job_id, state):
    return sql.execute("UPDATE job SET state = ? WHERE id = ?", (state, job_id)).rowcount


@pytest.mark.parametrize("old", sorted(TERMINAL))
def test_a_job_that_has_ended_goes_only_where_the_table_allows(connection, old):
    for new in STATES:
        (job_id,) = submit(connection)
        connection.write(set_state, job_id, old)
        if new in TRANSITIONS[old]:
            assert connection.write(set_state, job_id, new) == 1
        else:
            with pytest.raises(sqlite3.IntegrityError, match="a job that has ended does not change"):
                connection.write(set_state, job_id, new)
            assert job(connection, job_id).state is old


def test_an_id_is_never_given_twice(connection):
    submit(connection, 3)
    connection.write(lambda sql: sql.execute("DELETE FROM job").rowcount)

    assert submit(connection) == [4]


# ---- claiming


def test_jobs_are_claimed_by_priority_and_then_by_id(connection):
    low, middle, high, second_middle = (submit(connection, priority=number)[0] for number in (-10, 0, 10, 0))

    order = [claimed.id for claimed in claim(connection, limit=10)]

    assert order == [high, middle, second_middle, low]


def test_jobs_claimed_one_by_one_have_the_same_order(connection):
    for number in (0, 5, -5, 5, 0):
        submit(connection, priority=number)

    assert [claim(connection)[0].id for _ in range(5)] == [2, 4, 1, 5, 3]
    assert claim(connection) == []


def test_a_claim_counts_an_attempt_and_a_claim(connection):
    (job_id,) = submit(connection)

    (claimed,) = claim(connection, worker=7)

    found = job(connection, job_id)
    assert (claimed.claim, claimed.attempt) == (1, 1)
    assert (found.state, found.attempt, found.worker) == (State.RUNNING, 1, 7)


def test_only_the_queues_that_are_asked_for_are_claimed_from(connection):
    submit(connection, queue="mail")
    (wanted,) = submit(connection, queue="io")

    assert [claimed.id for claimed in claim(connection, limit=10, queues=("io",))] == [wanted]


def test_a_job_that_is_due_later_is_not_claimed_before(connection):
    (job_id,) = submit(connection, delay=10.0)
    assert claim(connection) == []
    assert connection.write(due.make_due, NOW + 9.9) == [0, 0]

    assert connection.write(due.make_due, NOW + 10) == [1, 0]

    assert [claimed.id for claimed in claim(connection)] == [job_id]


def test_a_job_whose_task_is_not_known_here_is_left(connection):
    submit(connection)

    assert claim(connection, unknown='["t"]') == []
    assert len(claim(connection, unknown='["u"]')) == 1


def test_no_job_is_claimed_by_two_processes(connection, database):
    submit(connection, 200)
    script = """
from fastworker_lite.job import Lane
connection = Connection(database, is_worker=True)
wanted = jobs.Wanted(worker=os.getpid(), lane=Lane.SYNC, limit=3, pick=lambda found: found)
while claimed := connection.write(jobs.claim, wanted, 0.0):
    say(*(job.id for job in claimed))
connection.close()
"""
    with child(script, database) as one, child(script, database) as other:
        lines = [*one.stdout, *other.stdout]

    claimed = [int(word) for line in lines for word in line.split()]
    assert sorted(claimed) == list(range(1, 201))


# ---- settling


def test_a_result_is_kept_with_its_checksum(connection):
    submit(connection)
    (claimed,) = claim(connection)

    assert connection.write(settling.settle, [succeeded(claimed)]) == 1

    ended = connection.read(queries.result, claimed.id)
    assert (ended.job.state, ended.result) == (State.SUCCEEDED, b"result")
    assert ended.result_checksum == result_checksum(b"result")


@pytest.mark.parametrize("outcome", [succeeded, failed])
def test_a_result_of_an_earlier_claim_changes_nothing(connection, outcome):
    submit(connection)
    (stale,) = claim(connection, worker=1)
    connection.write(recovering.recover, Death(1, "worker died", 0, False, False), NOW)
    (current,) = claim(connection, worker=2)

    assert connection.write(settling.settle, [outcome(stale)]) == 0

    found = job(connection, current.id)
    assert (found.state, found.worker, found.failures) == (State.RUNNING, 2, 0)
    assert connection.write(settling.settle, [succeeded(current)]) == 1


def test_a_result_is_accepted_once(connection):
    submit(connection)
    (claimed,) = claim(connection)
    connection.write(settling.settle, [succeeded(claimed)])

    assert connection.write(settling.settle, [failed(claimed)]) == 0
    assert job(connection, claimed.id).state is State.SUCCEEDED


def test_stale_and_current_results_in_one_transaction_are_told_apart(connection):
    submit(connection, 2)
    one, two = claim(connection, limit=2)

    assert connection.write(settling.settle, [succeeded(one), succeeded(two._replace(claim=9))]) == 1
    assert [job(connection, claimed.id).state for claimed in (one, two)] == [State.SUCCEEDED, State.RUNNING]


def test_a_failed_job_is_tried_again_as_often_as_it_asked(connection):
    (job_id,) = submit(connection, retries=2)

    for expected in (State.QUEUED, State.QUEUED, State.FAILED):
        connection.write(settling.settle, [failed(*claim(connection))])
        assert job(connection, job_id).state is expected

    assert (job(connection, job_id).attempt, job(connection, job_id).failures) == (3, 3)


def test_a_failed_job_waits_for_its_retry_delay(connection):
    (job_id,) = submit(connection, retries=1, retry_delay=5.0)

    connection.write(settling.settle, [failed(*claim(connection))])

    found = job(connection, job_id)
    assert (found.state, found.due_at) == (State.SCHEDULED, NOW + 1 + 5)


def test_a_final_failure_is_not_tried_again(connection):
    (job_id,) = submit(connection, retries=5)

    connection.write(settling.settle, [failed(*claim(connection), is_final=True)])

    assert job(connection, job_id).state is State.FAILED


def test_a_job_given_back_has_not_used_an_attempt(connection):
    submit(connection)
    (claimed,) = claim(connection)

    connection.write(settling.give_back, [claimed])

    found = job(connection, claimed.id)
    assert (found.state, found.attempt, found.failures) == (State.QUEUED, 0, 0)
    (again,) = claim(connection)
    assert (again.attempt, again.claim) == (1, 2)


@pytest.mark.parametrize(
    "verb",
    [
        lambda sql, claimed: settling.give_back(sql, [claimed]),
        lambda sql, claimed: settling.interrupt(sql, [claimed], NOW),
        lambda sql, claimed: settling.change_lane(sql, claimed, Lane.ASYNC),
        lambda sql, claimed: settling.postpone(sql, claimed, NOW),
        lambda sql, claimed: settling.park(sql, claimed, "reason"),
    ],
    ids=["give_back", "interrupt", "change_lane", "postpone", "park"],
)
def test_an_earlier_claim_cannot_give_a_job_away(connection, verb):
    submit(connection)
    (stale,) = claim(connection)
    connection.write(settling.give_back, [stale])
    (current,) = claim(connection)

    connection.write(verb, stale)

    assert job(connection, current.id).state is State.RUNNING


def test_an_interrupted_job_keeps_its_attempt(connection):
    submit(connection)
    (claimed,) = claim(connection)

    connection.write(settling.interrupt, [claimed], NOW)

    assert (job(connection, claimed.id).state, job(connection, claimed.id).attempt) == (State.QUEUED, 1)


# ---- recovering


def die(connection, *, last_begun=0, is_blamed=True, is_many_at_once=False, ended=None, worker=1):
    death = Death(worker, "worker died, signal 9", last_begun, is_blamed, is_many_at_once, ended)
    return connection.write(recovering.recover, death, NOW)


def test_a_begun_job_of_a_dead_worker_is_queued_again_and_has_used_an_attempt(connection):
    (job_id,) = submit(connection)
    claim(connection)

    assert die(connection, last_begun=job_id) == [job_id]

    found = job(connection, job_id)
    assert (found.state, found.attempt, found.reason) == (State.QUEUED, 1, "lost: worker died, signal 9")


def test_a_job_that_was_not_begun_has_not_used_an_attempt(connection):
    one, two, three = submit(connection, 3)
    claim(connection, limit=3)

    die(connection, last_begun=two)

    assert [job(connection, job_id).attempt for job_id in (one, two, three)] == [1, 1, 0]
    assert {job(connection, job_id).state for job_id in (one, two, three)} == {State.QUEUED}


def test_a_job_that_must_not_run_twice_fails_when_it_was_begun(connection):
    begun, unbegun = submit(connection, 2, on_lost="fail")
    claim(connection, limit=2)

    die(connection, last_begun=begun)

    found = job(connection, begun)
    assert (found.state, found.reason) == (State.FAILED, "lost: worker died, signal 9")
    assert job(connection, unbegun).state is State.QUEUED


def test_a_job_that_must_not_run_twice_fails_when_nobody_knows_whether_it_was_begun(connection):
    (once,), (other,) = submit(connection, on_lost="fail"), submit(connection)
    claim(connection, limit=2)

    connection.write(recovering.recover, Death(1, "worker died", 0, False, False, is_known=False), NOW)

    assert (job(connection, once).state, job(connection, once).reason) == (State.FAILED, "lost: worker died")
    assert (job(connection, other).state, job(connection, other).attempt) == (State.QUEUED, 0)


def test_every_job_of_an_async_worker_counts_as_begun(connection):
    ids = submit(connection, 3, on_lost="fail")
    claim(connection, limit=3)

    die(connection, is_many_at_once=True)

    assert {job(connection, job_id).state for job_id in ids} == {State.FAILED}


def test_a_job_that_kills_its_worker_again_and_again_is_given_up(connection):
    (job_id,) = submit(connection)

    states = []
    for _ in range(POISON_DEATHS):
        claim(connection)
        die(connection, last_begun=job_id)
        states.append(job(connection, job_id).state)

    assert states == [State.QUEUED] * (POISON_DEATHS - 1) + [State.FAILED]
    assert job(connection, job_id).reason == f"poison: killed its worker {POISON_DEATHS} times"


def test_a_job_is_not_given_up_for_deaths_it_is_not_blamed_for(connection):
    (job_id,) = submit(connection)

    for _ in range(POISON_DEATHS + 2):
        claim(connection)
        die(connection, last_begun=job_id, is_blamed=False)

    assert job(connection, job_id).state is State.QUEUED


def test_only_the_job_that_was_running_is_blamed(connection):
    one, two = submit(connection, 2)

    for _ in range(POISON_DEATHS):
        claim(connection, limit=2)
        die(connection, last_begun=two)

    assert job(connection, one).state is State.QUEUED
    assert job(connection, two).state is State.FAILED


def test_a_job_that_the_runner_ended_fails_as_the_runner_says(connection):
    (job_id,) = submit(connection)
    (claimed,) = claim(connection)
    failure = Failure(reason="timed out after 2.0s", error="timed out after 2.0s", error_type="TimeoutError")

    die(connection, last_begun=job_id, ended=(job_id, claimed.claim, failure))

    found = job(connection, job_id)
    assert (found.state, found.reason, found.failures) == (State.FAILED, "timed out after 2.0s", 1)


def test_a_worker_that_ends_while_it_holds_a_job_is_not_forgotten(connection):
    worker = connection.write(runners.add_worker, "w-1", None, Lane.SYNC, "[]", NOW)
    submit(connection)
    (claimed,) = claim(connection, worker=worker)
    assert not connection.write(runners.remove_worker, worker)
    assert [row.id for row in connection.read(runners.workers)] == [worker]
    connection.write(settling.give_back, [claimed])
    assert connection.write(runners.remove_worker, worker)
    assert connection.read(runners.workers) == []


def test_the_jobs_of_other_workers_are_left_alone(connection):
    submit(connection, 2)
    (mine,), (other,) = claim(connection, worker=1), claim(connection, worker=2)

    assert die(connection, last_begun=mine.id, worker=1) == [mine.id]

    assert job(connection, other.id).state is State.RUNNING


def test_recovering_twice_changes_nothing_more(connection):
    (job_id,) = submit(connection)
    claim(connection)
    die(connection, last_begun=job_id)

    assert die(connection, last_begun=job_id) == []
    assert job(connection, job_id).attempt == 1


# ---- cancelling


def test_a_job_that_has_not_begun_is_cancelled(connection):
    (queued,) = submit(connection)
    (scheduled,) = submit(connection, delay=5.0)

    assert [connection.write(cancelling.cancel, job_id, NOW) for job_id in (queued, scheduled)] == [
        "queued",
        "scheduled",
    ]
    assert {job(connection, job_id).state for job_id in (queued, scheduled)} == {State.CANCELLED}
    assert claim(connection) == []


def test_an_ended_job_is_not_cancelled(connection):
    submit(connection)
    (claimed,) = claim(connection)
    connection.write(settling.settle, [succeeded(claimed)])

    assert connection.write(cancelling.cancel, claimed.id, NOW) == "succeeded"
    assert connection.write(cancelling.cancel, 999, NOW) is None
    assert job(connection, claimed.id).state is State.SUCCEEDED


@pytest.mark.parametrize(
    "come_back",
    [
        lambda sql, claimed: settling.settle(sql, [succeeded(claimed)]),
        lambda sql, claimed: settling.settle(sql, [failed(claimed)]),
        lambda sql, claimed: settling.give_back(sql, [claimed]),
        lambda sql, claimed: settling.interrupt(sql, [claimed], NOW),
        lambda sql, claimed: settling.change_lane(sql, claimed, Lane.ASYNC),
        lambda sql, claimed: settling.postpone(sql, claimed, NOW),
        lambda sql, claimed: settling.park(sql, claimed, "no worker knows task t"),
        lambda sql, claimed: recovering.recover(sql, Death(1, "worker died", claimed.id, True, False), NOW),
    ],
    ids=["succeeded", "failed", "given back", "interrupted", "other lane", "postponed", "parked", "worker died"],
)
def test_a_job_asked_to_stop_ends_as_cancelled_however_it_comes_back(connection, come_back):
    submit(connection, retries=5)
    (claimed,) = claim(connection)

    assert connection.write(cancelling.cancel, claimed.id, NOW) == "running"
    assert [asked.id for asked in connection.read(cancelling.asked_to_stop)] == [claimed.id]
    connection.write(come_back, claimed)

    found = connection.read(queries.result, claimed.id)
    assert (found.job.state, found.job.reason, found.result) == (State.CANCELLED, "cancelled", None)
    assert found.job.finished_at is not None
    assert connection.read(cancelling.asked_to_stop) == []


# ---- expiring


def test_a_job_that_has_not_started_in_time_expires(connection):
    (late, later) = submit(connection, 1, expires=NOW + 5) + submit(connection, 1, expires=NOW + 50)
    waiting = submit(connection, 1, expires=NOW + 5, delay=100.0)

    assert connection.read(due.next_due) == NOW + 5
    assert connection.write(due.expire, NOW + 10) == [late, *waiting]
    assert job(connection, late).state is State.EXPIRED
    assert connection.write(due.expire, NOW + 10) == []
    assert [claimed.id for claimed in claim(connection)] == [later]


def test_a_job_past_its_time_is_not_claimed_even_if_nobody_has_ended_it(connection):
    submit(connection, 1, expires=NOW - 1)

    assert claim(connection) == []


# ---- attempts


def test_every_attempt_is_kept_and_a_first_success_writes_none(connection):
    submit(connection, 2, retries=3)
    (first,) = claim(connection)
    connection.write(settling.settle, [failed(first, error_type="E", traceback="where")])
    (again,) = claim(connection)
    connection.write(recovering.recover, Death(1, "worker died, signal 9", again.id, True, False), NOW + 2)
    (last,) = claim(connection)
    connection.write(settling.settle, [succeeded(last)])

    tries = connection.read(queries.attempts, first.id)
    assert [(one.number, one.outcome, one.reason) for one in tries] == [
        (1, "failed", "E"),
        (2, "lost", "lost: worker died, signal 9"),
        (3, "succeeded", None),
    ]
    assert tries[0].traceback == "where" and {one.worker_pid for one in tries} == {os.getpid()}
    (other,) = claim(connection)
    connection.write(settling.settle, [succeeded(other)])
    assert connection.read(lambda sql: sql.execute("SELECT count(*) FROM attempt WHERE job = 2").fetchone()[0]) == 0
    assert [one.outcome for one in connection.read(queries.attempts, other.id)] == ["succeeded"]


def test_an_ended_job_is_tried_again_under_its_id(connection):
    submit(connection)
    (claimed,) = claim(connection)
    connection.write(settling.settle, [failed(claimed)])

    assert connection.write(cancelling.retry, claimed.id) == "failed"
    (again,) = claim(connection)
    assert (again.id, again.attempt, again.failures) == (claimed.id, 2, 0)
    connection.write(settling.settle, [succeeded(again)])
    assert connection.write(cancelling.retry, claimed.id) == "succeeded"
    assert job(connection, claimed.id).state is State.SUCCEEDED
    assert [one.outcome for one in connection.read(queries.attempts, claimed.id)] == ["failed", "succeeded"]


def test_what_a_failure_asks_for_is_what_becomes_of_the_job(connection):
    def after(failure, **options):
        (job_id,) = submit(connection, **options)
        (claimed,) = claim(connection)
        connection.write(settling.settle, [Outcome(job=claimed, started_at=NOW, finished_at=NOW + 1, failure=failure)])
        found = job(connection, job_id)
        if not found.has_ended:
            connection.write(cancelling.cancel, job_id, NOW)
        return str(found.state), found.due_at

    plain = Failure(reason="E", error="E")
    assert after(plain) == ("failed", None)
    assert after(plain, retries=1) == ("queued", None)
    assert after(plain, retries=1, retry_delay=5.0) == ("scheduled", NOW + 6)
    assert after(plain._replace(is_final=True), retries=1) == ("failed", None)
    assert after(plain._replace(is_timeout=True), retries=1) == ("failed", None)
    assert after(plain._replace(is_timeout=True), retries=1, retry_on_timeout=True) == ("queued", None)
    assert after(plain._replace(retry_after=3.0)) == ("scheduled", NOW + 4)
    assert after(plain._replace(retry_after=0.0), retries=1) == ("queued", None)
    assert after(plain._replace(is_cancel=True), retries=1) == ("cancelled", None)


@given(
    failures=st.integers(1, 500),
    delay=st.none() | st.floats(0, 1e6),
    backoff=st.floats(1, 1000),
    most=st.floats(0, 1e6),
    chance=st.floats(0, 1),
)
def test_a_growing_delay_is_a_random_part_of_the_formula_under_its_cap(failures, delay, backoff, most, chance):
    policy = Policy(retry_backoff=backoff, retry_max_delay=most)

    pause = retry_pause(failures, delay, policy, chance)

    base = 1.0 if delay is None else delay
    exact = Fraction(base) * Fraction(backoff) ** min(failures - 1, 100)
    assert pause == pytest.approx(chance * float(min(Fraction(most), exact)))
    assert 0 <= pause <= most
    assert retry_pause(failures, delay, Policy(), chance) == (delay or 0.0)


def test_connections_open_while_other_threads_open_and_close_descriptors(database):
    is_over = threading.Event()

    def churn():
        while not is_over.is_set():
            os.close(os.open(os.devnull, os.O_RDONLY))

    threads = [threading.Thread(target=churn) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(100):
            Connection(database).close()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


# ---- reading


def test_a_read_sees_one_moment(connection, database):
    submit(connection)

    def count_twice(sql):
        first = sql.execute("SELECT count(*) FROM job").fetchone()[0]
        with closing(Connection(database)) as writer:
            submit(writer)
        return first, sql.execute("SELECT count(*) FROM job").fetchone()[0]

    assert connection.read(count_twice) == (1, 1)


def test_two_threads_with_a_connection_each_lose_nothing(database):
    def work():
        with closing(Connection(database)) as mine:
            ids.extend(submit(mine)[0] for _ in range(20))

    ids = []
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ids) == list(range(1, 61))


def test_a_failing_disk_that_ends_a_read_by_itself_is_a_typed_error(connection):
    def fail(sql):
        sql.execute("ROLLBACK")  # SQLite does so when a page cannot be read
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with pytest.raises(StorageError, match="disk I/O error"):
        connection.read(fail)
    assert submit(connection) == [1]


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE job SET kind = 'calm'",
        "UPDATE job SET tags = '{'",
        "UPDATE job SET created_at = 1e300",
        "ALTER TABLE job RENAME COLUMN error TO errox",
        "UPDATE job SET task = CAST(X'C1' AS TEXT)",
    ],
)
def test_what_a_flipped_bit_makes_of_a_job_is_a_typed_error(connection, harm):
    (job_id,) = submit(connection)
    connection.write(lambda sql: sql.execute(harm))
    with pytest.raises(NotOurDatabase, match="damaged"):
        job(connection, job_id)


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(StorageError):
        Connection(tmp_path / "a\0b")


# ---- from asyncio


def add_each(connection, requests):
    return [connection.write(jobs.insert, [request], NOW)[0] for request in requests]


def test_requests_that_arrive_together_share_a_trip(database):
    trips = []

    def add(connection, requests):
        trips.append(len(requests))
        return add_each(connection, requests)

    async def submit_many():
        connection = AsyncConnection(database)
        await connection.open()
        shared = SharedCommit(connection, add)
        ids = await asyncio.gather(*(shared.submit(new_job()) for _ in range(100)))
        await connection.close()
        return ids

    assert asyncio.run(submit_many()) == list(range(1, 101))
    assert len(trips) < 20


def test_a_request_after_the_end_is_refused_every_time(database):
    async def submit_late():
        connection = AsyncConnection(database)
        await connection.open()
        shared = SharedCommit(connection, add_each)
        await connection.close()
        return await asyncio.gather(
            *(asyncio.wait_for(shared.submit(new_job()), 2) for _ in range(2)), return_exceptions=True
        )

    refusals = asyncio.run(submit_late())

    assert all(isinstance(refusal, Exception) for refusal in refusals)
    assert not any(isinstance(refusal, TimeoutError) for refusal in refusals)


def test_an_open_that_fails_raises_and_leaves_no_thread(tmp_path):
    threads = threading.active_count()

    with pytest.raises(StorageError, match="is a folder"):
        asyncio.run(AsyncConnection(tmp_path).open())

    deadline = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
