"""`fwl` as one file: built here, and run where there is no Python."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60
pytestmark = [
    pytest.mark.skipif(find_spec("cx_Freeze") is None, reason="the tools are not here: pip install -e '.[binary]'"),
    pytest.mark.skipif(sys.platform != "linux", reason="the file is tried on Linux"),
    pytest.mark.timeout(180),
]

TASKS = """
import multiprocessing, os, signal, subprocess, sys
from fastworker_lite import task

@task
def add(a, b):
    print(a, "and", b)
    return a + b

@task
def double_elsewhere(numbers):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return pool.map(abs, numbers)

@task
def ask_python():
    return subprocess.run([sys.executable, "-m", "base64", "-e"], input=b"x", capture_output=True).stdout.decode()

@task
def die_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
"""

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; built once for all tests."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, str(ROOT / ".ci" / "build_binary.py"), "--out", str(out)], check=True, timeout=150)
    return out / "fwl"


class Machine:
    """A root folder with busybox, the C library and the kernel's /proc; or this machine's, with an empty PATH."""

    def __init__(self, folder: Path, built: Path) -> None:
        self._started: list[subprocess.Popen[str]] = []
        self.root = folder / "root"
        for name in ("bin", "home", "tmp", "dev/shm", "proc"):
            (self.root / name).mkdir(parents=True)
        (self.root / "tmp").chmod(0o1777)
        busybox = shutil.which("busybox")
        self.is_apart = bool(busybox and shutil.which("chroot")) and self._mount_proc()
        self.home = "/home" if self.is_apart else str(self.root / "home")
        shutil.copy(built, self.root / "bin" / "fwl")
        self.program = "/bin/fwl" if self.is_apart else str(self.root / "bin" / "fwl")
        if busybox and self.is_apart:
            self._fill(busybox)

    def _mount_proc(self) -> bool:
        mount = ["mount", "-t", "proc", "proc", str(self.root / "proc")]
        return os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0

    def _fill(self, busybox: str) -> None:
        shutil.copy(busybox, self.root / "bin" / "busybox")
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if name != "busybox":
                (self.root / "bin" / name).symlink_to("busybox")
        listed = subprocess.run(["ldd", "/bin/true"], capture_output=True, text=True, check=True).stdout
        loader = Path(next(path for path in re.findall(r"/\S+", listed) if "/ld-" in path))
        library = Path(next(path for path in re.findall(r"/\S+", listed) if "libc.so" in path)).parent
        names = "libc.so.6 libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libcrypt.so.1 libnsl.so.1 libresolv.so.2"
        for path in [loader, *(library / name for name in names.split())]:
            if path.exists():
                copy = self.root / str(path).lstrip("/")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path.resolve(), copy)
        for name, numbers in {"null": (1, 3), "urandom": (1, 9), "zero": (1, 5)}.items():
            os.mknod(self.root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(*numbers))

    def write_tasks(self) -> None:
        self.path("mine.py").write_text(TASKS)
        self.path("fastworker.toml").write_text('tasks = ["mine"]\n')

    def words(self, *words: str, **changed: str | None) -> list[str]:
        variables = {"HOME": self.home, "PATH": "/bin" if self.is_apart else ""} | changed
        given = [f"{name}={value}" for name, value in variables.items() if value is not None]
        inside = ["chroot", str(self.root)] if self.is_apart else []
        env = ["/bin/env" if self.is_apart else "/usr/bin/env", "-i", *given]
        place = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "-", self.home]
        return [*inside, *env, *place, self.program, *words]

    def fwl(self, *words: str, **changed: str | None) -> Result:
        return subprocess.run(
            self.words(*words, **changed), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
            check=False,
        )  # fmt: skip

    def start(self, *words: str, **changed: str | None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.words(*words, **changed), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def end(self) -> None:
        """Leave no process."""
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.communicate()
        if self.is_apart:
            subprocess.run(["umount", str(self.root / "proc")], check=True)

    def path(self, name: str) -> Path:
        """A file of the home folder, as seen from here."""
        return self.root / "home" / name

    def copies(self) -> list[str]:
        """What is unpacked in it, and what is left of unpacking."""
        places = [self.root / "home" / ".cache" / "fwl", *(self.root / "tmp").glob("fwl-*")]
        return sorted(entry.name for place in places if place.is_dir() for entry in place.iterdir())

    def processes(self) -> list[int]:
        """Those that run the program of this machine."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/exe"):
            try:
                if entry.readlink().is_relative_to(self.root):
                    found.append(int(entry.parent.name))
            except OSError:
                pass
        return found


@pytest.fixture
def machine(tmp_path: Path, built: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path, built)
    yield machine
    machine.end()


def until(is_so: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_there_is_no_python(machine: Machine) -> None:
    if not machine.is_apart:
        pytest.skip("busybox, chroot or the right to mount /proc is not here: all is tried with an empty PATH instead")

    assert machine.fwl("run", "--", "python3", "-c", "").returncode == 127


def test_it_says_what_it_brings(machine: Machine) -> None:
    lines = machine.fwl("--version", "--verbose").stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["fastworker_lite", "Python", "SQLite", "OpenSSL"]
    assert tuple(map(int, lines[2].split()[1].split("."))) >= (3, 51, 3), "a SQLite with the WAL-reset bug"
    licences = json.loads(machine.fwl("version", "--licenses", "--json").stdout)["parts"]
    assert {"fastworker-lite", "rich", "typer", "cloudpickle", "Python", "OpenSSL"} <= {one["name"] for one in licences}
    assert [one for one in licences if one["licence"] == "not said"] == []


def test_jobs_of_the_shell_and_of_python_run_where_there_is_no_python(machine: Machine) -> None:
    machine.write_tasks()

    assert machine.fwl("submit", "--", "/bin/sh", "-c", "echo from the shell").returncode == 0
    for words in (["add", "--args", "2", "3"], ["double_elsewhere", "--args", "[-1, -2]"], ["ask_python"]):
        result = machine.fwl("submit", "--task-name", f"mine:{words[0]}", *words[1:])
        assert result.returncode == 0, result.stderr
    drained = machine.fwl("drain")

    assert drained.returncode == 0, drained.stderr
    assert machine.fwl("logs", "1").stdout == "from the shell\n"
    jobs = json.loads(machine.fwl("status", "--all", "--json").stdout)["jobs"]
    results = [json.loads(machine.fwl("show", str(number), "--json").stdout)["jobs"][0] for number in (2, 3, 4)]
    assert {one["state"] for one in jobs} == {"succeeded"}
    assert [one["result"] for one in results] == [5, [1, 2], "eA==\n"]


def test_a_worker_outlives_the_death_of_one_of_its_processes(machine: Machine) -> None:
    machine.write_tasks()
    worker = machine.start("worker", "--workers", "1")

    submitted = machine.fwl("submit", "--task-name", "mine:die_once", "--args", f"{machine.home}/died")
    assert submitted.returncode == 0, submitted.stderr
    assert machine.fwl("wait", "1", "--timeout", "30s").returncode == 0

    assert machine.path("died").exists()
    worker.terminate()
    worker.wait(PATIENCE)
    assert worker.stderr is not None and "Traceback" not in worker.stderr.read()


def test_schedules_make_jobs_and_listeners_are_told_of_them(machine: Machine) -> None:
    machine.path("fastworker.toml").write_text('[cron.often]\nevery = "1s"\ncommand = ["/bin/sh", "-c", "true"]\n')
    machine.fwl("status")
    listener = machine.start("listen", "--json", "--count", "1")
    worker = machine.start("worker", "--workers", "1")

    told, _ = listener.communicate(timeout=PATIENCE)

    assert json.loads(told.splitlines()[0])
    worker.kill()
    worker.wait(PATIENCE)


def test_nothing_is_left_of_a_worker_that_is_killed(machine: Machine) -> None:
    worker = machine.start("worker", "--workers", "2")
    until(lambda: len(machine.processes()) == 3)

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(PATIENCE)

    until(lambda: not machine.processes())
    assert [name for name in machine.copies() if not name.startswith("bin-")] == []


def test_forty_starts_of_a_worker_print_what_they_should(machine: Machine) -> None:
    machine.write_tasks()
    for number in range(1, 41):
        machine.fwl("submit", "--task-name", "mine:add", "--args", str(number), "1")
        drained = machine.fwl("drain", "--quiet")
        assert (drained.returncode, drained.stdout, drained.stderr) == (0, "", "")

    lines = [machine.fwl("logs", str(number)).stdout for number in (1, 40)]
    assert lines == ["1 and 1\n", "40 and 1\n"]
    assert len(machine.fwl("status", "--quiet", "--state", "succeeded", "--all").stdout.split()) == 40


def test_eight_first_starts_at_once_unpack_one_copy(machine: Machine) -> None:
    starts = [machine.start("version") for _ in range(8)]

    assert {start.communicate(timeout=PATIENCE) for start in starts} == {(f"{version()}\n", "")}
    [copy] = machine.copies()
    assert stat.S_IMODE((machine.root / "home" / ".cache" / "fwl" / copy).stat().st_mode) == 0o700


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_it_starts_without_a_home_that_can_be_written(machine: Machine, home: str | None) -> None:
    scratch = "/tmp" if machine.is_apart else str(machine.root / "tmp")

    for _ in range(2):
        assert machine.fwl("version", HOME=home, TMPDIR=scratch).stdout == f"{version()}\n"
    assert len(machine.copies()) == 1


def test_a_folder_of_somebody_else_is_not_trusted(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    scratch = "/tmp" if machine.is_apart else str(machine.root / "tmp")
    place = machine.root / "tmp" / "fwl-0"
    place.mkdir()
    os.chown(place, 12345, 12345)

    result = machine.fwl("version", HOME=None, TMPDIR=scratch)

    assert result.returncode == 74
    assert "set XDG_CACHE_HOME" in result.stderr


def test_a_copy_of_which_a_part_was_removed_is_unpacked_again(machine: Machine) -> None:
    machine.fwl("version")
    [copy] = machine.copies()
    (machine.root / "home" / ".cache" / "fwl" / copy / "fwl").unlink()

    assert machine.fwl("version").stdout == f"{version()}\n"
    assert machine.copies() == [copy]


def test_it_needs_no_newer_c_library_than_2_17(machine: Machine) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not here")
    machine.fwl("version")
    bundle = machine.root / "home" / ".cache" / "fwl" / machine.copies()[0]
    files = [bundle / "fwl", *(path for path in bundle.rglob("*") if ".so" in path.name)]

    told = subprocess.run(["objdump", "-T", *map(str, files)], capture_output=True, text=True, check=False).stdout

    needed = {tuple(map(int, one.split("."))) for one in re.findall(r"GLIBC_([\d.]+)", told)}
    assert max(needed) <= (2, 17)


def test_it_starts_again_as_the_file_that_it_is(machine: Machine) -> None:
    command = machine.fwl("service", "install", "--cron").stdout.split()

    assert command[5:7] == [machine.program, "drain"]


def test_the_whole_standard_library_is_there(machine: Machine) -> None:
    absent = {
        "ensurepip",
        "readline",
        "tkinter",
        "turtle",
        "turtledemo",
        "idlelib",
        "this",
        "antigravity",
        "_ios_support",
    }
    names = sorted(name for name in sys.stdlib_module_names - absent if is_here(name))
    script = f"import warnings\nwarnings.simplefilter('ignore')\nfor name in {names!r}: __import__(name)\nprint('all')"

    result = machine.fwl("_python", "-c", script)

    assert (result.stdout, result.stderr) == ("all\n", "")


def is_here(name: str) -> bool:
    return name not in ("_gdbm", "_dbm", "_tkinter", "nt") and find_spec(name) is not None


def test_it_starts_nearly_as_quickly_as_an_installed_one(built: Path, tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "FWL_DB": str(tmp_path / "fwl.db")}
    one_file, installed = [str(built)], [sys.executable, "-m", "fastworker_lite"]
    for command in (one_file, installed):
        subprocess.run([*command, "status"], env=variables, capture_output=True, check=True)

    costs = {
        str(command): min(cpu([*command, "status"], variables) for _ in range(9)) for command in (one_file, installed)
    }

    mine, others = costs.values()
    assert mine <= 1.5 * others


def cpu(command: list[str], variables: dict[str, str]) -> float:
    """Seconds of CPU that it takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=variables, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def version() -> str:
    from fastworker_lite import __version__

    return f"fastworker_lite {__version__}"
