"""Against other users, and against what others have put into the file: whose files are used, what is read, what is let out."""

from __future__ import annotations

import ast
import os
import random
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastworker_lite import SyncClient, intake, leases, serialization
from fastworker_lite.errors import FastWorkerError, SerializationError
from fastworker_lite.store import jobs, queries
from fastworker_lite.store.connection import Connection
from tests.chaos.machine import children
from tests.test_architecture import ROOT, SOURCES
from tests.test_cli_endings import PATIENCE, Site, wait_until
from tests.test_store import NOW, new_job

#: Who wants to harm us.
STRANGER = 65533

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")

# ---- what somebody else has put where our files go


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as /tmp is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of ours that nothing here is to change."""
    path = tmp_path / "precious"
    path.write_text("precious")
    path.chmod(0o640)
    return path


def put_file(path: Path, precious: Path) -> None:
    path.write_bytes(b"theirs" * 1000)


def put_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def put_dangling_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious.parent / "made by a link")


def put_hard_link(path: Path, precious: Path) -> None:
    os.link(precious, path)


def put_pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path, 0o666)


def put_socket(path: Path, precious: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def put_folder(path: Path, precious: Path) -> None:
    path.mkdir(0o777)


PLANTS = [put_file, put_link, put_dangling_link, put_hard_link, put_pipe, put_socket, put_folder]
Plant = Callable[[Path, Path], None]


def use(database: Path) -> str | None:
    """Open it and store a job. Returns the refusal."""
    try:
        connection = Connection(database, gate_patience=1.0)
    except FastWorkerError as error:
        return str(error)
    try:
        connection.write(jobs.insert, [new_job()], NOW)
        assert [job.task for job in connection.read(queries.active, 100)] == ["t"] * connection.read(queries.newest_id)
    finally:
        connection.close()
    return None


def use_for(seconds: float, database: Path) -> str | None:
    """As `use`, in another process: SQLite waits for the other end of a pipe in its place, and nothing interrupts that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it failed"
        try:
            said = use(database) or ""
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        is_told = bool(select.select([told], [], [], seconds)[0])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert is_told, f"it hangs for {seconds} s"
        return told.read() or None


@as_root
@pytest.mark.parametrize("is_made_before", [False, True], ids=["before the first use", "between two uses"])
@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".d"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_somebody_else_has_put_in_our_place_is_not_used(
    shared: Path, precious: Path, plant: Plant, ending: str, is_made_before: bool
) -> None:
    """It is refused by a line, or taken away; it is not followed, not changed, and not waited for."""
    database, place = shared / "jobs.db", shared / f"jobs.db{ending}"
    if is_made_before:
        assert use(database) is None
        if ending == "":
            database.unlink()
        elif ending == ".d":
            place.rename(shared / "away")
    plant(place, precious)
    if plant is not put_hard_link:  # which is still the file that it is
        os.chown(place, STRANGER, STRANGER, follow_symlinks=False)

    refusal = use_for(5.0, database)

    assert refusal is None or (refusal != "it failed" and "\n" not in refusal)
    if refusal is None:
        for name in shared.iterdir():
            status = name.lstat()
            assert (status.st_uid, status.st_nlink == 1 or name.is_dir(), stat.S_IMODE(status.st_mode) & 0o077) == (
                0,
                True,
                0,
            )
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    assert precious.read_text() == "precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o640
    assert not (precious.parent / "made by a link").exists()


@as_root
@pytest.mark.parametrize("files", [("",), ("-wal",), ("", "-wal", "-shm")], ids=" and ".join)
def test_a_job_that_somebody_else_has_put_there_is_not_ours(shared: Path, files: tuple[str, ...]) -> None:
    """A database, and a log that SQLite would read into our database, both of them sound: only their owner is wrong."""
    theirs, ours = shared / "theirs.db", shared / "jobs.db"
    assert use(ours) is None
    connection = Connection(theirs)
    connection.write(jobs.insert, [new_job(name="evil")], NOW)
    copies = {ending: Path(f"{theirs}{ending}").read_bytes() for ending in files}
    connection.close()
    for ending, content in copies.items():
        place = Path(f"{ours}{ending}")
        place.write_bytes(content)
        os.chown(place, STRANGER, STRANGER)

    assert f"belongs to user {STRANGER}, not to you" in str(use(ours))


# ---- a real run, in which every process is watched

#: What is in the arguments of the jobs, and is to be nowhere else.
CANARY = "canary-that-nobody-is-to-hear"

#: Each process of the run reads this at its start: it writes down when it unpickles, and when it makes a socket of the network.
WATCH = """
import os, pickle, socket, sys

def note(what):
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().replace(b"\\0", b" ").replace(b"\\n", b" ").decode(errors="replace")
    descriptor = os.open(os.environ["SEEN"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what} {os.getpid()} {words}\\n".encode())
    os.close(descriptor)

def noted(function):
    def wrapper(*args, **options):
        note("unpickles")
        return function(*args, **options)
    return wrapper

class Unpickler(pickle.Unpickler):
    def __init__(self, *args, **options):
        note("unpickles")
        super().__init__(*args, **options)

pickle.loads, pickle.load, pickle.Unpickler = noted(pickle.loads), noted(pickle.load), Unpickler
NETWORK = (socket.AF_INET, socket.AF_INET6)
sys.addaudithook(lambda event, args: event == "socket.__new__" and args[1] in NETWORK and note("network"))
"""

TASKS = """
import time
from fastworker_lite import task

class Thing:
    pass

@task
def keeps(secret):
    return Thing()

@task(retries=1)
def fails(secret):
    raise ValueError("no")

@task
async def naps(secret):
    return Thing()

@task
def waits(secret):
    time.sleep(60)
"""

CLIENT = """
import os, sys, socket
import holding
from fastworker_lite import SyncClient
with SyncClient(os.environ["FWL_DB"], runner="never") as client:
    handles = [client.submit(name, sys.stdin.readline()) for name in ("keeps", "fails", "naps", "waits")]
    for handle in handles[:3]:
        assert handle.wait(timeout=20)
    assert isinstance(handles[0].result(), holding.Thing)
socket.socket(socket.AF_INET).close()
"""

VERBS = [
    "status", "status -a", "status -a --json", "show 1", "show 2", "show 4", "show 2 --json", "why 2", "why 4", "logs 2",
    "wait 1 2 3", "top --json", "health", "workers", "queue list", "listeners", "events", "cancel 4", "retry 2",
    "doctor", "db check",
]  # fmt: skip


class Run:
    """What was seen of it."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder)
        self.seen = folder / "seen"
        self.loose: set[str] = set()
        self.said = b""
        self.modes: dict[str, int] = {}
        self.sockets: list[str] = []
        self.surroundings: dict[int, bytes] = {}
        self.runner, self.workers, self.verbs = 0, set[int](), set[int]()

    def lines(self, what: str) -> dict[int, str]:
        """The processes that did this, and what they were called."""
        found = [line.split(" ", 2) for line in self.seen.read_text().splitlines()]
        return {int(pid): words for kind, pid, words in found if kind == what}

    def files(self) -> Iterator[tuple[str, os.stat_result]]:
        """Those beside the database, and itself."""
        for path in [*self.site.folder.glob("fwl.db*"), *(self.site.folder / "fwl.db.d").rglob("*")]:
            try:
                yield str(path.relative_to(self.site.folder)), path.lstat()
            except FileNotFoundError:
                continue

    def watch(self, must_end: threading.Event) -> None:
        while not must_end.is_set():
            self.loose |= {name for name, status in self.files() if status.st_mode & 0o077}

    def look(self) -> None:
        self.modes = {name: stat.S_IMODE(status.st_mode) for name, status in self.files()}
        self.workers |= set(children(self.runner))
        inodes = set()
        for pid in (self.runner, *self.workers):
            for number in os.listdir(f"/proc/{pid}/fd"):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{number}"))
            self.surroundings[pid] = b"".join(
                Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")
            )
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        self.sockets = [row[7] for row in rows if len(row) > 7 and f"socket:[{row[6]}]" in inodes]


def run_watched(folder: Path) -> Run:
    run = Run(folder)
    (folder / "holding.py").write_text(TASKS)
    (folder / "watch").mkdir()
    (folder / "watch" / "sitecustomize.py").write_text(WATCH)
    run.site.variables["PYTHONPATH"] += f":{folder}:{folder / 'watch'}"
    run.site.variables["SEEN"] = str(run.seen)
    words = ["worker", "--workers", "2", "--tasks", "holding"]
    must_end = threading.Event()
    watcher = threading.Thread(target=run.watch, args=(must_end,))
    watcher.start()
    try:
        with run.site.start("listen", "--json") as listener, run.site.start(*words, stderr=subprocess.STDOUT) as worker:
            run.runner = worker.pid
            wait_until(lambda: len(children(worker.pid)) >= 2)
            run.workers |= set(children(worker.pid))
            client = [sys.executable, "-c", CLIENT]
            subprocess.run(client, env=run.site.variables, input=f"{CANARY}\n" * 4, text=True, check=True, cwd=folder)
            run.site.until("4", "running")
            run.look()
            must_end.set()
            for verb in VERBS:
                with run.site.start(*verb.split(), stderr=subprocess.STDOUT) as process:
                    out, _ = process.communicate(timeout=PATIENCE)
                run.verbs.add(process.pid)
                run.said += out
            for process in (worker, listener):
                process.terminate()
                run.said += b"".join(part or b"" for part in process.communicate(timeout=PATIENCE))
            run.verbs.add(listener.pid)
    finally:
        must_end.set()
        watcher.join()
    return run


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/net/unix"), reason="needs /proc")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A worker, a listener, a client, and the commands that look and act, all under a umask that hides nothing."""
    before = os.umask(0)
    try:
        return run_watched(tmp_path_factory.mktemp("watched"))
    finally:
        os.umask(before)


@needs_proc
def test_every_file_of_a_run_is_for_this_user_alone_from_its_first_instant(watched: Run) -> None:
    kinds = ("fwl.db", "fwl.db-wal", "fwl.db-shm", "fwl.db.d", "fwl.db.d/gate", "fwl.db.d/leases", "fwl.db.d/sockets")
    print(
        f"{len(watched.modes)} files, {sum(mode & 0o077 != 0 for mode in watched.modes.values())} with bits for others"
    )
    assert set(kinds) <= watched.modes.keys() and len(watched.modes) > 15
    assert {name: oct(mode) for name, mode in watched.modes.items() if mode & 0o077} == {}
    assert watched.loose == set()


@needs_proc
def test_no_socket_of_a_run_is_one_that_other_users_can_reach(watched: Run) -> None:
    assert any("fwl.db.d/sockets/" in path for path in watched.sockets)
    assert [path for path in watched.sockets if not path.startswith("/")] == []


@needs_proc
def test_only_clients_and_workers_unpickle(watched: Run) -> None:
    pids = watched.lines("unpickles")
    assert any("import holding" in words for words in pids.values())
    assert watched.workers & pids.keys()  # others have come in the place of one that was killed
    assert watched.runner not in pids
    assert len(watched.verbs) > len(VERBS) and not watched.verbs & pids.keys()
    assert [words for words in pids.values() if "spawn_main" not in words and "import holding" not in words] == []


@needs_proc
def test_nothing_of_a_run_uses_the_network(watched: Run) -> None:
    assert ["import holding" in words for words in watched.lines("network").values()] == [
        True
    ]  # the client's, to see it seen


@needs_proc
def test_what_jobs_are_given_is_in_the_database_and_nowhere_else(watched: Run) -> None:
    """Not in what commands, the worker and the listener say, not in the environment or the words of a process, not in a log."""
    assert CANARY.encode() not in watched.said and watched.said.count(b"no") > 3
    assert not any(CANARY.encode() in text for text in watched.surroundings.values()) and len(watched.surroundings) >= 3
    holders = {
        path.name for path in watched.site.folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    }
    assert holders and holders <= {"fwl.db", "fwl.db-wal"}


# ---- what a command does with what it finds where it is called


def test_a_command_imports_nothing_from_the_folder_it_is_called_in(tmp_path: Path) -> None:
    for name in ("json", "sqlite3", "typer", "socket", "rich", "fastworker_lite", "cloudpickle"):
        (tmp_path / f"{name}.py").write_text("import os\nopen(os.environ['HOME'] + '/imported', 'a').write(__name__)\n")
    program = Path(sys.executable).parent / "fwl"
    if not program.exists():
        pytest.skip("fwl is not installed")
    site = Site(tmp_path)
    del site.variables["PYTHONPATH"]
    for words in ("submit -- true", "status", "drain --no-cron", "show 1", "doctor"):
        done = subprocess.run(
            [program, *words.split()], cwd=tmp_path, env=site.variables, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "imported").exists()


def test_a_fault_of_ours_is_told_in_a_line_and_kept_without_what_jobs_were_given(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.variables |= {"XDG_STATE_HOME": str(tmp_path / "state")}
    with SyncClient(site.variables["FWL_DB"], runner="never", durability="normal") as client:
        client.submit(print, CANARY)
    site.sql("UPDATE job SET policy = '{'")  # which no version has written

    done = site.fwl("clone", "1")  # has the call at hand when it fails

    [crash] = tmp_path.rglob("crash-*.txt")
    assert done.returncode == 70 and done.stderr.count(b"\n") == 2 and b"Traceback" not in done.stderr
    assert "Traceback" in crash.read_text() and stat.S_IMODE(crash.stat().st_mode) == 0o600
    assert CANARY not in crash.read_text() and CANARY.encode() not in done.stdout + done.stderr


# ---- what somebody has changed in the file


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def test_no_call_of_which_a_bit_was_changed_is_run(tmp_path: Path) -> None:
    """In its arguments, in the function itself, in the name of its task, and in the checksum."""
    site, marks, count = Site(tmp_path), tmp_path / "marks", 60
    marks.mkdir()
    rng = random.Random(1)

    def mark(name: str) -> None:
        (marks / name).touch()

    with SyncClient(site.variables["FWL_DB"], runner="never", durability="normal") as client:
        handles = [client.submit(mark, str(number)) for number in range(count)]
        for number, (job, payload, target) in enumerate(site.sql("SELECT id, payload, target FROM job ORDER BY id")):
            changes: list[tuple[str, object]] = [
                ("UPDATE job SET payload = ? WHERE id = ?", flip(payload, rng)),
                ("UPDATE job SET target = ? WHERE id = ?", flip(target, rng)),
                ("UPDATE job SET task = ? WHERE id = ?", "mark"),
                ("UPDATE job SET checksum = checksum + 1 WHERE id = ? + ?", 0),
            ]
            statement, value = changes[number % 4]
            if number:  # one is left as it is, so that it is seen that they could run
                site.sql(statement, *((job, value) if number % 4 == 3 else (value, job)))
        with SyncClient(site.variables["FWL_DB"], workers=1, runner="own"):
            assert all(handle.wait(timeout=20) for handle in handles)
        errors = [handle._job().error for handle in handles[1:]]
    print(f"executed {len(os.listdir(marks)) - 1}/{count - 1}")
    assert os.listdir(marks) == ["0"]
    assert [error for error in errors if "checksum" not in str(error)] == []


def test_a_result_of_which_a_bit_was_changed_is_not_loaded(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with SyncClient(site.variables["FWL_DB"], workers=1, runner="own", durability="normal") as client:
        handle = client.submit(divmod, 7, 2)
        assert handle.result(timeout=20) == (3, 1)
        [(result,)] = site.sql("SELECT result FROM job")
        rng = random.Random(1)
        for _ in range(20):
            site.sql("UPDATE job SET result = ?", flip(result, rng))
            with pytest.raises(SerializationError, match="the result of job 1 is damaged"):
                handle.result(timeout=0)


#: What would be something else than a text if it ever stood in a statement.
STATEMENTS = [
    "'); DROP TABLE job;--", "' OR '1'='1", '" OR ""="', "x' UNION SELECT sql FROM sqlite_schema--", "';VACUUM INTO 'x';--",
    "'||(SELECT 1)||'", "%", "_", "a%b_c", "\\", "\\'", "''", '""', "``", "[x]", ";", "--", "/*", "NULL", "?", "?1", ":id", "@id",
    "$id", "%s", "{0}", "0x27", "\u02bc", "\uff07", "1; DELETE FROM job", "rowid", "*", "a'b\"c`d", "x\\x00y", "1e999", "-1", "~",
]  # fmt: skip


def test_a_text_is_never_part_of_a_statement(tmp_path: Path) -> None:
    """As a queue, a name and a tag it finds its own job and no other; as anything else it changes nothing."""
    site = Site(tmp_path)
    with SyncClient(site.variables["FWL_DB"], runner="never", durability="normal") as client:
        ids = [client.options(queue=text, name=text, tags={text: text}).submit(abs, 1).id for text in STATEMENTS]
    schema, everything = (
        "SELECT * FROM sqlite_schema ORDER BY name",
        "SELECT id, state, queue, name, tags, task FROM job",
    )
    before = site.sql(schema), site.sql(everything)

    for job, text in zip(ids, STATEMENTS, strict=True):
        assert site.told("status", "-q", "--queue", text).split() == [job], text
        if not set("*?[") & set(text):
            assert site.told("status", "-q", "--name", text).split() == [job], text
        if "=" not in text:
            assert site.told("status", "-q", "--tag", f"{text}={text}").split() == [job], text
        for words in (
            ["status", "--state", text], ["status", "--fields", text], ["status", "--sort", text], ["show", f"no{text}"],
            ["queue", "remove", f"no{text}"], ["listeners", "remove", text], ["cron", "run", text], ["prune", "--state", text],
            ["wait", "--queue", f"no{text}", "--drained"], ["status", "--since", text], ["cancel", "--name", f"no{text}"],
        ):  # fmt: skip
            site.told(*words)
    print(
        f"{len(STATEMENTS)} strings, {sum(site.sql(one) != was for one, was in zip((schema, everything), before, strict=True))} effects"
    )
    assert (site.sql(schema), site.sql(everything)) == before


# ---- sizes


def call_of(size: int) -> bytes:
    """An argument with which a call takes so many bytes."""
    more = len(serialization.encode_call((b"x" * size,), {})) + len(b"Ibuiltins:len") - size
    return b"x" * (size - more)


def result_of(size: int) -> int:
    """Bytes that are stored in so many."""
    return 2 * size - len(serialization.encode(b"x" * size))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncClient]:
    path = tmp_path_factory.mktemp("limited") / "jobs.db"
    with SyncClient(path, workers=1, runner="own", durability="normal", max_result=100_000) as client:
        client.set_queue("short", max_length=3)
        yield client


def submit_with(option: str) -> Callable[[SyncClient, Any], object]:
    return lambda client, value: client.options(**{option: value}, hold=True).submit(abs, 1)


def fill(client: SyncClient, count: int) -> None:
    client.pause_queue("short")
    client.options(queue="short").map(abs, range(count))


LIMITS: list[tuple[str, Callable[[SyncClient, Any], object], Any, Any]] = [
    ("a call", lambda client, size: client.options(hold=True).submit(len, call_of(size)), 1_048_576, 1_048_577),
    ("callback_data", submit_with("callback_data"), "x" * 65_534, "x" * 65_535),
    ("priority", submit_with("priority"), 1_000_000_000, 1_000_000_001),
    ("priority below", submit_with("priority"), -1_000_000_000, -1_000_000_001),
    ("callback", submit_with("callback"), "/" + "x" * 106, "/" + "x" * 107),
    ("result", lambda client, size: client.submit(bytes, result_of(size)).result(timeout=20), 100_000, 100_001),
    ("queue", fill, 3, 4),
]


@pytest.mark.parametrize(("name", "act", "most", "too_much"), LIMITS, ids=[row[0] for row in LIMITS])
def test_what_is_as_large_as_may_be_is_taken_and_no_more(
    limited: SyncClient, name: str, act: Callable[[SyncClient, Any], object], most: Any, too_much: Any
) -> None:
    with pytest.raises((FastWorkerError, ValueError)):
        act(limited, too_much)
    act(limited, most)


@settings(derandomize=True, max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda value: repr(value).encode())
)
@example(b"[" * 100_000)
@example(b'{"event_id": ' + b"9" * 5_000 + b"}")
@example(b'{"event_id": "1", "event_id": NaN}')
@example(b'{"event_id": "\\ud800"}')
def test_a_line_is_an_event_or_refused_in_a_few_words(line: bytes) -> None:
    try:
        event_id, event = intake.read_event(line)
    except ValueError as reason:
        assert 0 < len(str(reason)) < 100 and str(reason).isprintable()
    else:
        assert event["event_id"] == event_id


# ---- the package itself

#: What reads archives or code, or pickles from whoever connects.
NEVER = {
    "tarfile",
    "zipfile",
    "marshal",
    "shelve",
    "multiprocessing.connection",
    "multiprocessing.managers",
    "socketserver",
}


def test_nothing_in_the_package_unpacks_archives_or_unpickles_from_a_socket() -> None:
    found = {name for path in SOURCES for _, name in imports_of(path) if name in NEVER}
    assert found == set()


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_readme_says_who_runs_code_as_you() -> None:
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "whoever can write the database runs code as you" in text


# ---- a process that has no descriptor left


def test_who_can_open_no_more_files_takes_nobody_for_dead(tmp_path: Path) -> None:
    """A lease that cannot be opened for that is not free, and what a worker has begun is not taken for not begun."""
    lease = leases.Lease(str(tmp_path / "w-1"))
    lease.note_begun(7, 1, None, 5.0)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        for look in (leases.is_free, leases.read_note):
            with pytest.raises(OSError, match="Too many open files"):
                look(lease.path)
        assert lease.read().job == 7
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (leases.is_free(lease.path), leases.read_note(lease.path).job) == (False, 7)
    lease.remove()
    assert (leases.is_free(lease.path), leases.read_note(lease.path).job) == (True, 0)
