"""`fwl` as one file: built here, and run where there is no Python."""

from __future__ import annotations

import json
import os
import plistlib
import re
import resource
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60
pytestmark = [
    pytest.mark.skipif(find_spec("cx_Freeze") is None, reason="the tools are not here: pip install -e '.[binary]'"),
    pytest.mark.skipif(sys.platform != "linux", reason="the file is tried on Linux"),
    pytest.mark.timeout(180),
]

TASKS = """
import multiprocessing, os, signal, ssl, subprocess, sys
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
def certificates():
    return len(ssl.create_default_context().get_ca_certs())

@task
def die_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
"""

#: What the libraries are that it may bring, which depends on the version of Python.
LIBRARIES = {
    "libbz2": "bzip2", "libcrypt": "libxcrypt", "libcrypto": "OpenSSL", "libffi": "libffi", "liblzma": "xz", "libmpdec": "libmpdec",
    "libncursesw": "ncurses", "libpanelw": "ncurses", "libsqlite3": "SQLite", "libssl": "OpenSSL",
    "libtinfo": "ncurses", "libuuid": "libuuid", "libz": "zlib",
}  # fmt: skip

SCHEDULES = """
[cron]
often = { every = "1s", command = ["/bin/true"] }
yearly = { schedule = "30 8 1 7 *", timezone = "Europe/Berlin", command = ["/bin/true"] }
"""

SUBMIT_FORTY = """
from fastworker_lite import SyncClient
with SyncClient(runner="never") as client:
    for number in range(1, 41):
        client.submit("mine:add", number, 1)
"""

TASKS_OF_A_PROJECT = """
import os, sys
import msgspec
from fastworker_lite import task

@task
def look():
    led = {"PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_FILE_ORIG"} & os.environ.keys()
    return [list(sys.version_info[:2]), sys.prefix, msgspec.json.encode([1]).decode(), sorted(led)]
"""

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file; built once for all tests."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, str(ROOT / ".ci" / "build_binary.py"), "--out", str(out)], check=True, timeout=60)
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

    def bundle(self) -> Path:
        """What it is unpacked to."""
        self.fwl("version")
        return self.root / "home" / ".cache" / "fwl" / self.copies()[0]

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


def shown(machine: Machine, number: int) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(machine.fwl("show", str(number), "--json").stdout)["jobs"][0]
    return job


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
    assert {one["state"] for one in jobs} == {"succeeded"}
    assert [shown(machine, number)["result"] for number in (2, 3, 4)] == [5, [1, 2], "eA==\n"]


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
    machine.path("fastworker.toml").write_text(SCHEDULES)
    listener = machine.start("listen", "--name", "ear")
    until(lambda: "ear" in machine.fwl("listeners", "--json").stdout)
    machine.start("worker", "--workers", "1")

    assert listener.stdout is not None
    told = json.loads(listener.stdout.readline())

    assert (told["task_name"], told["status"]) == ("true", "success")
    assert machine.fwl("cron", "next", "yearly", "--from", "2030-01-01").stdout.startswith("2030-07-01 08:30:00 +02:00")


def test_nothing_is_left_of_a_worker_that_is_killed(machine: Machine) -> None:
    worker = machine.start("worker", "--workers", "2")
    until(lambda: len(machine.processes()) == 3)

    os.kill(worker.pid, signal.SIGKILL)
    worker.wait(PATIENCE)

    until(lambda: not machine.processes())
    assert [name for name in machine.copies() if not name.startswith("bin-")] == []


def test_forty_starts_of_a_worker_print_what_they_should(machine: Machine) -> None:
    machine.write_tasks()
    assert machine.fwl("_python", "-c", SUBMIT_FORTY).returncode == 0

    for number in range(1, 41):
        drained = machine.fwl("drain", "--quiet", "--max-jobs", "1")
        assert (drained.returncode, drained.stdout, drained.stderr) == (0, "", "")
        assert machine.path(f".fastworker/fwl.db.d/logs/{number}.1.out").read_text() == f"{number} and 1\n"
    assert len(machine.fwl("status", "--quiet", "--state", "succeeded", "--all").stdout.split()) == 40


def test_eight_first_starts_at_once_unpack_one_copy(machine: Machine) -> None:
    starts = [machine.start("version") for _ in range(8)]

    assert {start.communicate(timeout=PATIENCE) for start in starts} == {(f"{version()}\n", "")}
    [copy] = machine.copies()
    assert stat.S_IMODE((machine.root / "home" / ".cache" / "fwl" / copy).stat().st_mode) == 0o700


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_it_starts_without_a_home_that_can_be_written(machine: Machine, home: str | None) -> None:
    scratch = "/tmp" if machine.is_apart else str(machine.root / "tmp")

    database = None if machine.is_apart and home is None else f"{machine.home}/own.db"

    for _ in range(2):
        result = machine.fwl("run", "--", "/bin/echo", "hello", HOME=home, TMPDIR=scratch, FWL_DB=database)
        assert (result.returncode, result.stdout) == (0, "hello\n"), result.stderr
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
    bundle = machine.bundle()
    (bundle / "fwl").unlink()

    assert machine.fwl("version").stdout == f"{version()}\n"
    assert machine.copies() == [bundle.name]


def test_it_needs_no_newer_c_library_than_2_17(machine: Machine) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not here")
    bundle = machine.bundle()
    files = [bundle / "fwl", *(path for path in bundle.rglob("*") if ".so" in path.name)]

    told = subprocess.run(["objdump", "-T", *map(str, files)], capture_output=True, text=True, check=False).stdout

    needed = {tuple(map(int, one.split("."))) for one in re.findall(r"GLIBC_([\d.]+)", told)}
    assert max(needed) <= (2, 17)


def test_it_starts_again_as_the_file_that_it_is(machine: Machine) -> None:
    line = machine.fwl("service", "install", "--cron").stdout
    unit = machine.fwl("service", "install", "--print").stdout
    plist = machine.fwl("service", "install", "--launchd", "--print").stdout

    assert line.split()[5:7] == [machine.program, "drain"]
    assert f"\nExecStart={machine.program} worker --db " in unit
    assert plistlib.loads(plist.encode())["ProgramArguments"][:2] == [machine.program, "worker"]


def test_all_that_it_brings_has_its_licence_told(machine: Machine) -> None:
    told = {
        one["name"].lower(): one for one in json.loads(machine.fwl("version", "--licenses", "--json").stdout)["parts"]
    }
    bundle = machine.bundle()
    libraries = {path.name.split(".")[0].split("-")[0] for path in bundle.rglob("lib*.so*")}
    packages = {path.name.split("-")[0].lower().replace("_", "-") for path in bundle.rglob("*.dist-info")}

    assert libraries <= LIBRARIES.keys()
    assert {name.lower() for name in LIBRARIES.values()} | packages <= {name.replace("_", "-") for name in told}
    for name in ("cx_Freeze", "freeze-core"):
        assert told[name.lower()]["licence"] == metadata(name)["License-Expression"]
    assert [one for one in told.values() if one["licence"] == "not said"] == []


def test_it_brings_certificates_for_tasks(machine: Machine) -> None:
    machine.write_tasks()
    machine.fwl("submit", "--task-name", "mine:certificates")
    machine.fwl("submit", "--", "/bin/sh", "-c", "echo $SSL_CERT_FILE")
    machine.fwl("drain")

    assert shown(machine, 1)["result"] > 100
    assert machine.fwl("logs", "2").stdout == "\n", "a command finds what its submitter had"


def test_a_ping_trusts_whom_the_machine_trusts(machine: Machine, tmp_path: Path) -> None:
    if not machine.is_apart or shutil.which("openssl") is None:
        pytest.skip("no root folder, or no openssl, to make certificates that are trusted there")
    trusted = machine.root / "etc" / "ssl" / "certs" / "ca-certificates.crt"
    trusted.parent.mkdir(parents=True)
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1 -keyout"
    subprocess.run(["openssl", *words.split(), tmp_path / "key", "-out", trusted], capture_output=True, check=True)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as threads:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(trusted, tmp_path / "key")
        asked = threads.submit(answer, listening, context)

        machine.fwl("run", "--ping", f"https://127.0.0.1:{listening.getsockname()[1]}/id", "--", "/bin/true")

        assert asked.result(PATIENCE) == b"POST /id/start HTTP/1.1"


def answer(listening: socket.socket, context: ssl.SSLContext) -> bytes:
    """The first line of the first request."""
    listening.settimeout(PATIENCE)
    connection, _ = listening.accept()
    with context.wrap_socket(connection, server_side=True) as stream:
        line = stream.recv(65536).partition(b"\r")[0]
        stream.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    listening.close()
    return line


@pytest.mark.parametrize("minor", [11, 13])
def test_tasks_run_in_the_python_of_the_project(
    minor: int, built: Path, environments: Callable[[tuple[int, int]], Path], tmp_path: Path
) -> None:
    environment, project = environments((3, minor)), tmp_path / "project"
    project.mkdir()
    (project / "fastworker.toml").write_text('tasks = ["mine"]\n')
    (project / "mine.py").write_text(TASKS_OF_A_PROJECT)
    (project / ".venv").symlink_to(environment)
    (tmp_path / "msgspec.py").write_text("raise SystemExit('PYTHONPATH leads astray')")
    astray = {"PYTHONHOME": "/nowhere", "PYTHONPATH": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    variables = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"} | astray

    def place(*words: str, **more: str) -> str:
        """Of the Python that runs a task when these words and variables name one."""
        for command in (["submit", "--no-start", "--task-name", "mine:look"], ["drain", *words], ["show", "@last"]):
            done = subprocess.run(
                [built, *command, "--json"], cwd=project, env=variables | more, capture_output=True, text=True,
                timeout=PATIENCE, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        version, place, packed, led = json.loads(done.stdout)["jobs"][0]["result"]
        assert (version, packed, led) == ([3, minor], "[1]", [])
        return str(place)

    assert place("--python", str(environment)) == str(environment)
    assert place(VIRTUAL_ENV=str(environment)) == str(environment)
    assert place() == str(project / ".venv")


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
