"""Tasks in another Python, where nothing of ours is installed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastworker_lite import (
    ConfigError,
    JobFailed,
    SyncClient,
    call,
    config,
    foreign,
    interpreters,
    payloads,
    serialization,
)
from fastworker_lite.errors import ImportTrouble
from fastworker_lite.foreign import Setup, survey
from fastworker_lite.job import Claimed
from fastworker_lite.settings import Config
from fastworker_lite.tasks.registry import task_registry

from .environments import environment_of

ROOT = Path(__file__).resolve().parent.parent
OTHER = (3, 13) if sys.version_info[:2] != (3, 13) else (3, 11)

TASKS = """
    import asyncio, logging, os, signal, subprocess, sys, threading, time
    from fastworker_lite import Cancel, Retry, TaskPriority, current_job, task

    @task
    def where():
        return list(sys.version_info[:2]), sys.prefix

    @task("pack", priority=TaskPriority.HIGH)
    def packed(value):
        import msgspec
        return msgspec.json.encode(value).decode()

    @task
    def add(a, b=0):
        return a + b

    @task
    def broken(text):
        return helper(text)

    def helper(text):
        raise LookupError(text)

    @task(retries=3)
    def again():
        if current_job().attempt < 3:
            raise Retry(after=0.01)
        return current_job().attempt

    @task
    def refused():
        raise Cancel("not today")

    @task(retries=1, give_up_on=[LookupError])
    def hopeless():
        print("tried")
        raise KeyError("x")

    @task
    async def awaited(x):
        await asyncio.sleep(0)
        return x

    @task
    def talk():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.system("echo from a shell")
        current_job().log.info("to the log")

    @task
    def whisper(text):
        print(text)
        os.close(1)

    @task
    def untidy():
        os.chdir("/")
        os.environ["LEFT"] = "behind"
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout = None

    @task
    def look():
        return os.getcwd(), os.environ.get("LEFT"), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    @task
    def variables(*names):
        return [os.environ.get(name) for name in names]

    @task
    def unstorable():
        return threading.Lock()

    @task
    def own_kind():
        return Point()

    class Point:
        x = 1

    @task
    def sleep(path):
        child = subprocess.Popen(["sleep", "60"])
        with open(path, "w") as file:
            file.write(f"{os.getpid()} {child.pid}\\n")
        time.sleep(60)

    @task(timeout=0.3)
    def too_long():
        time.sleep(60)

    @task
    def until_cancelled(path):
        open(path, "w").close()
        while not current_job().cancelled:
            time.sleep(0.01)
        raise Cancel("as asked")

    @task
    def half(path):
        current_job().progress(1, 2, "half")
        open(path, "w").close()
        while os.path.exists(path):
            time.sleep(0.01)

    @task
    def crash():
        os.kill(os.getpid(), signal.SIGSEGV)

    @task
    def close_everything():
        os.closerange(3, 100)

    @task
    def fork():
        if os.fork() == 0:
            return "child"
        os.wait()
        return "parent"

    @task
    def pids():
        return os.getppid(), os.getpid()

    @task(concurrency=1, key="{host}")
    def limited(host, other=None):
        return host

    @task
    def nothing():
        pass

    def plain(x):
        return x * 2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tasks are."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "theirs.py").write_text(textwrap.dedent(TASKS))
    return folder


@pytest.fixture(scope="session")
def other(environments: Callable[[tuple[int, int]], Path]) -> Path:
    """A virtual environment of another version than ours."""
    return environments(OTHER)


@pytest.fixture(scope="session")
def same(environments: Callable[[tuple[int, int]], Path]) -> Path:
    """A virtual environment of our own version."""
    return environments((sys.version_info[0], sys.version_info[1]))


@pytest.fixture
def start(database: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SyncClient]]:
    """Start a client with a worker that runs its tasks in the given environment."""
    monkeypatch.chdir(folder)
    with contextlib.ExitStack() as until_end:

        def start(environment: Path | str, **options: object) -> SyncClient:
            given = {"workers": 1, "runner": "own", "durability": "normal", "kill_grace": 1.0, "tasks": ["theirs"]}
            return until_end.enter_context(SyncClient(database, python=str(environment), **(given | options)))

        yield start


@pytest.fixture
def there(start: Callable[..., SyncClient], other: Path) -> SyncClient:
    return start(other)


def logged(database: str, job: object, stream: str) -> str:
    return Path(f"{database}.d/logs/{job}.1.{stream}").read_text()


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- what runs, and where


@pytest.mark.parametrize("environment", ["other", "same"])
def test_a_native_package_of_the_other_environment_is_at_hand(environment, request, start):
    path = request.getfixturevalue(environment)
    client = start(path)

    version, prefix = client.submit("where").result(timeout=20)

    assert (Path(prefix), tuple(version)) == (path, OTHER if environment == "other" else sys.version_info[:2])
    assert client.submit("pack", {"a": [1, None]}).result(timeout=10) == '{"a":[1,null]}'


def test_a_python_as_old_as_3_9_runs_tasks(start, tmp_path):
    path = environment_of((3, 9), tmp_path)

    assert start(path).submit("where").result(timeout=20) == ([3, 9], str(path))


def test_nothing_of_ours_is_installed_there(other):
    (packages,) = other.glob("lib/python*/site-packages")

    assert not [one for one in os.listdir(packages) if "fastworker" in one or "cloudpickle" in one]


def test_results_and_arguments_come_through_by_name_and_by_module(there):
    assert there.submit("add", 2, b=b"\0\xff"[0]).result(timeout=10) == 2
    assert there.submit("theirs:plain", "ab").result(timeout=10) == "abab"
    assert there.submit("theirs:add", [1], b=[2]).result(timeout=10) == [1, 2]
    assert there.submit("add", "x" * 900_000, b="y").result(timeout=10) == "x" * 900_000 + "y"


def test_a_coroutine_is_awaited(there):
    assert there.submit("awaited", 5).result(timeout=10) == 5


def test_a_job_takes_the_result_of_another(there):
    assert there.chain(call("add", 1, 2), call("add", 10)).result(timeout=10) == 13
    assert there.chord([call("add", 1), call("add", 2)], call("add", [3])).result(timeout=10) == [1, 2, 3]


# ---- what fails


def test_a_failure_has_the_traceback_of_the_other_python(there):
    with pytest.raises(JobFailed) as raised:
        there.submit("broken", "nobody knows").result(timeout=10)

    assert (raised.value.error_type, raised.value.error) == ("LookupError", "nobody knows")
    assert [line for line in raised.value.remote_traceback.splitlines() if ", in " in line] == [
        f'  File "{os.getcwd()}/theirs.py", line 20, in broken',
        f'  File "{os.getcwd()}/theirs.py", line 23, in helper',
    ]


def test_a_task_can_ask_for_another_try(there):
    assert there.submit("again").result(timeout=10) == 3


def test_a_result_that_cannot_be_pickled_fails_its_job(there):
    with pytest.raises(JobFailed, match="result cannot be stored: lock cannot be pickled"):
        there.submit("unstorable").result(timeout=10)


def test_a_task_is_not_tried_again_after_what_it_gives_up_on(there, database):
    job = there.submit("hopeless")

    with pytest.raises(JobFailed):
        job.result(timeout=10)
    assert logged(database, job.id, "out") == "tried\n"
    assert len(job.attempts()) == 1


def test_a_function_by_value_of_another_version_fails_and_says_why(there):
    with pytest.raises(JobFailed, match=r"pickled by value in cpython-3.* cannot be read in cpython-3.*use one Python"):
        there.submit(lambda: 1).result(timeout=10)


def test_a_function_by_value_needs_cloudpickle_there(start, same):
    with pytest.raises(JobFailed, match=f"needs cloudpickle in {same}/bin/python; install it there"):
        start(same).submit(lambda: 1).result(timeout=20)


def test_a_function_by_value_runs_where_the_version_is_the_same_and_cloudpickle_is_there(start, tmp_path):
    import cloudpickle

    same = environment_of((sys.version_info[0], sys.version_info[1]), tmp_path)
    (packages,) = same.glob("lib/python*/site-packages")
    shutil.copytree(Path(cloudpickle.__file__).parent, packages / "cloudpickle")
    factor = 3

    assert start(same).submit(lambda x: x * factor, 2).result(timeout=20) == 6


# ---- what it prints and leaves behind


def test_what_it_prints_is_in_its_own_log(there, database):
    job, second = there.submit("talk"), there.submit("whisper", "the second")
    third = there.submit("whisper", "the third")
    for one in (job, second, third):
        one.result(timeout=10)

    assert logged(database, job.id, "out") == "to stdout\nfrom a shell\n"
    assert "to stderr\n" in logged(database, job.id, "err")
    assert "to the log" in logged(database, job.id, "err")
    assert [logged(database, one.id, "out") for one in (second, third)] == ["the second\n", "the third\n"]


def test_what_one_job_changes_the_next_one_finds_as_it_was(there, folder):
    there.submit("untidy").result(timeout=10)

    assert there.submit("look").result(timeout=10) == (str(folder), None, True)


def test_a_fork_that_comes_back_is_not_taken_for_the_job(there):
    assert there.submit("fork").result(timeout=10) == "parent"
    assert there.submit("add", 1, 1).result(timeout=10) == 2


# ---- ends


def test_progress_is_seen_while_it_runs(there, tmp_path):
    path = tmp_path / "running"
    job = there.submit("half", str(path))
    wait_until(path.exists)

    wait_until(job.progress)
    assert job.progress()[:3] == (1.0, 2.0, "half")
    path.unlink()
    job.result(timeout=10)


def test_a_task_that_looks_is_told_of_a_cancel(there, tmp_path):
    path = tmp_path / "running"
    job = there.submit("until_cancelled", str(path))
    wait_until(path.exists)

    job.cancel()

    wait_until(lambda: job.status() == "cancelled")
    assert there.submit("add", 1, 1).result(timeout=10) == 2


def test_a_timeout_ends_it_and_what_it_has_started(there, tmp_path):
    with pytest.raises(JobFailed, match=r"timed out after 0\.3s"):
        there.submit("too_long").result(timeout=10)

    assert there.submit("add", 1, 1).result(timeout=10) == 2


def test_a_cancel_ends_a_task_that_does_not_look(there, tmp_path):
    path = tmp_path / "pids"
    job = there.submit("sleep", str(path))
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))

    job.cancel()

    wait_until(lambda: job.status() == "cancelled")
    assert [pid for pid in map(int, path.read_text().split()) if is_running(pid)] == []


@pytest.mark.parametrize("what", ["crash", "close_everything"])
def test_a_job_that_ends_its_interpreter_fails_and_the_next_one_runs(there, what):
    with pytest.raises(JobFailed, match="killed its worker 3 times"):
        there.submit(what).result(timeout=20)

    assert there.submit("add", 1, 1).result(timeout=10) == 2


def test_an_interpreter_that_ends_between_jobs_is_started_again(there):
    worker, child = there.submit("pids").result(timeout=10)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: not is_running(child))

    again, other_child = there.submit("pids").result(timeout=10)

    assert again == worker
    assert other_child != child


def test_kill_9_of_the_worker_leaves_no_child(there, tmp_path):
    path = tmp_path / "pids"
    job = there.submit("sleep", str(path))
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    pids = [int(pid) for pid in path.read_text().split()]
    worker = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(worker, signal.SIGKILL)

    wait_until(lambda: not any(map(is_running, pids)))
    job.cancel()


def test_kill_9_of_the_runner_leaves_no_child(database, folder, other):
    program = "import sys, time; from fastworker_lite import SyncClient\n" + textwrap.dedent(
        f"""
        client = SyncClient({database!r}, python={str(other)!r}, workers=1, tasks=["theirs"])
        client.start()
        print(*client.submit("pids").result(timeout=20), flush=True)
        time.sleep(60)
        """
    )
    runner = subprocess.Popen([sys.executable, "-c", program], cwd=folder, stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in runner.stdout.readline().split()]

    runner.kill()
    runner.wait()
    runner.stdout.close()

    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_stop_ends_what_runs_there_and_gives_it_back(start, other, database, tmp_path):
    path = tmp_path / "pids"
    client = start(other, stop_timeout=0.1)
    job = client.submit("sleep", str(path))
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))

    client.close()

    wait_until(lambda: not any(is_running(int(pid)) for pid in path.read_text().split()))
    with SyncClient(database, runner="never") as looker:
        assert looker.handle(job.id).status() == "queued"


def test_a_limit_of_the_tasks_own_is_heeded(there, database):
    jobs = [there.submit("limited", "a", path) for path in (None, None, None)]

    assert [job.result(timeout=10) for job in jobs] == ["a", "a", "a"]
    with contextlib.closing(sqlite3.connect(database)) as sql:
        assert {row[0] for row in sql.execute("SELECT limits FROM job")} == {'[["concurrency limited[a]", 1, null]]'}


def test_a_coroutine_whose_submitter_knows_that_it_is_one_is_awaited_too(there, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(task_registry, "_tasks", {})
    import theirs

    try:
        assert there.submit(theirs.awaited, 3).result(timeout=10) == 3
    finally:
        del sys.modules["theirs"]


# ---- how it is said


def test_what_is_meant_for_our_own_python_is_taken_from_its_environment(start, other, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/bundle/lib")
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/their/lib")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setenv("PYTHONHOME", "/bundle")
    monkeypatch.setenv("PYTHONPATH", "/bundle/lib/python")

    found = interpreters.variables()

    assert found["LD_LIBRARY_PATH"] == "/their/lib"
    assert not {"PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH_ORIG"} & set(found)


def test_what_leads_our_own_python_leads_no_other_one_astray(start, other, monkeypatch, tmp_path):
    (tmp_path / "msgspec.py").write_text("raise SystemExit('astray')")
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, str(tmp_path))
    client = start(other)

    assert client.submit("variables", "PYTHONPATH", "LD_LIBRARY_PATH").result(timeout=20) == [None, None]
    assert client.submit("pack", 1).result(timeout=10) == "1"
    monkeypatch.setenv("PYTHONHOME", "/elsewhere")
    assert "PYTHONHOME" not in interpreters.variables()


def test_the_nearest_environment_is_the_active_one_then_that_of_a_folder_above(tmp_path, monkeypatch):
    project, active = tmp_path / "project", tmp_path / "active"
    for environment in (project / ".venv", active):
        (environment / "bin").mkdir(parents=True)
        (environment / "bin/python").symlink_to(sys.executable)
    (project / "src").mkdir()
    monkeypatch.chdir(project / "src")

    monkeypatch.setenv("VIRTUAL_ENV", str(active))
    assert interpreters.nearest() == str(active / "bin/python")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "gone"))
    assert interpreters.nearest() == str(project / ".venv/bin/python")


def test_a_python_in_the_configuration_is_relative_to_its_file(tmp_path, monkeypatch):
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").symlink_to(sys.executable)
    (tmp_path / "fastworker.toml").write_text('python = "env"\n')
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    assert interpreters.chosen(config.load()) == str(tmp_path / "env/bin/python")
    assert interpreters.chosen(Config(python="built-in")) is None
    with pytest.raises(ConfigError, match=r"python nope: there is no .*/nope; name a Python"):
        interpreters.chosen(Config(python="nope"))


def fwl(*words: object, cwd: Path, database: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastworker_lite", *map(str, words)]
    environment = os.environ | {"FWL_DB": database, "FWL_AUTOSTART": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_the_command_line_tells_at_once_what_cannot_be_imported_there(other, database, tmp_path):
    (tmp_path / "bad.py").write_text("import not_there\n")
    (tmp_path / "old").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "old").chmod(0o755)

    missing = fwl("drain", "--python", other, "--tasks", "bad", cwd=tmp_path, database=database)
    no_python = fwl("drain", "--python", "./old", cwd=tmp_path, database=database)
    nobody = fwl("drain", "--python", "./gone", cwd=tmp_path, database=database)

    assert missing.returncode == no_python.returncode == 2
    assert "error: cannot import bad: ModuleNotFoundError: No module named 'not_there'" in missing.stderr
    assert "old ended with 3 before it was ready" in no_python.stderr
    assert "there is no" in nobody.stderr
    assert "Traceback" not in missing.stderr + no_python.stderr + nobody.stderr


def test_drain_runs_tasks_and_schedules_of_the_other_python(other, database, tmp_path):
    (tmp_path / "clock.py").write_text(
        "import sys\nfrom fastworker_lite import task\n"
        "@task(cron='* * * * *', timezone='UTC', retries=2)\ndef tick():\n    print('tick', sys.prefix)\n"
    )
    submitted = fwl("submit", "--task", "tick", cwd=tmp_path, database=database)

    drained = fwl("drain", "--python", other, "--tasks", "clock", "--json", cwd=tmp_path, database=database)
    known = fwl("cron", "list", "--json", cwd=tmp_path, database=database)

    assert submitted.returncode == drained.returncode == 0, drained.stderr
    assert json.loads(drained.stdout)["succeeded"] >= 1
    assert logged(database, submitted.stdout.strip(), "out") == f"tick {other}\n"
    assert '"tick"' in known.stdout


def test_a_survey_knows_the_tasks_with_their_options(other, folder, monkeypatch):
    monkeypatch.setattr(task_registry, "_tasks", {})

    survey(Setup(str(other / "bin/python"), (str(folder),), ("theirs",)))

    assert {"add", "pack", "again"} <= set(task_registry.list_tasks())
    assert task_registry.get("again").options.retries == 3
    assert task_registry.get("hopeless").options.give_up_on == ("LookupError",)
    assert task_registry.get("pack").options.priority == 10


def test_a_name_that_is_not_there_for_tasks_is_refused_with_those_that_are(other, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)  # which may lead to this checkout
    (tmp_path / "wants.py").write_text("from fastworker_lite import SyncClient\n")

    with pytest.raises(ImportTrouble, match=r"fastworker_lite\.SyncClient is not there .* current_job, task"):
        survey(Setup(str(other / "bin/python"), (str(tmp_path),), ("wants",)))


def test_where_the_package_is_installed_after_all_its_other_names_are_there(same, tmp_path, monkeypatch):
    (tmp_path / "wants.py").write_text(
        "from fastworker_lite import JobFailed, Retry, TaskStatus, task\n"
        "@task(name=TaskStatus.SUCCESS.value + Retry.__module__ + JobFailed.__module__)\ndef f(): pass\n"
    )
    monkeypatch.setattr(task_registry, "_tasks", {})

    survey(Setup(str(same / "bin/python"), (str(tmp_path), str(ROOT)), ("wants",)))

    assert task_registry.list_tasks() == ["successfastworker_litefastworker_lite._installed.errors"]


def test_functions_that_are_forgotten_are_found_again(same, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "_MOST_TARGETS", 2)
    output = tuple(str(tmp_path / stream) for stream in ("out", "err"))
    for path in output:
        Path(path).touch()
    setup = Setup(str(same / "bin/python"), (str(folder),), ("theirs",), output, 1000)
    interpreter = foreign.Interpreter(setup, {})

    results = []
    for name in ("add", "theirs:plain", "theirs:add", "add", "theirs:plain"):
        job = claimed(name, 4)
        results.append(interpreter.run_call(job, interpreter.find_target(job), 1000).result)

    assert [serialization.decode(result) for result in results] == [4, 8, 4, 4, 8]
    interpreter.close()


def claimed(task_name: str, *args: object) -> Claimed:
    payload = serialization.encode_call(args, {})
    given = dict.fromkeys(Claimed._fields) | {"id": 1, "attempt": 1, "queue": "default", "payload": payload}
    given |= {"task": task_name, "checksum": payloads.checksum(task_name, None, payload)}
    return Claimed(**given)


# ---- what it costs


def test_a_job_in_the_other_python_costs_little_more_than_in_our_own(
    tmp_path, folder, other, same, monkeypatch, capsys
):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    rates = {}
    for name, python in (("own", None), ("same version", same), ("other version", other)):
        given = {} if python is None else {"python": str(python)}
        with SyncClient(str(tmp_path / f"{name}.db"), workers=1, runner="own", durability="normal", **given) as client:
            client.submit("theirs:nothing").result(timeout=20)
            began = time.monotonic()
            jobs = client.submit_calls([call("theirs:nothing")] * 5000)
            for job in jobs:
                job.result(timeout=30)
            rates[name] = len(jobs) / (time.monotonic() - began)

    with capsys.disabled():
        print("\n  no-op jobs/s, one worker: " + ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items()))
    assert rates["other version"] > rates["own"] / 5
