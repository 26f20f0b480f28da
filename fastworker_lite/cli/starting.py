"""Starting a worker on demand: for a job that was submitted at a terminal while no runner serves the file.

The worker has a session of its own, knows nothing of the terminal nor of the caller's variables, and ends when it has
had nothing to do for a while. Of many who want one at once, one starts it: the others wait for it.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time

from ..paths import SidePaths
from ..settings import Config
from ..sockets import wait_readable
from ..store import due, schedules
from ..store.connection import Connection
from ..watches import FileWatch, watch_process
from . import render
from .problems import CommandError
from .program import own_command
from .session import Session, live_runners
from .values import parse_duration

#: Seconds for which a submit waits until the worker is there.
PATIENCE = 2.0
#: Bytes above which the log of workers is put aside for a new one.
MOST_LOG = 5_000_000

NEEDS_LASTING_WORKER = "schedules need a lasting worker: fwl service install  (or cron: */5 * * * * fwl drain)"

#: The variables that the worker finds, beside those that begin with LC_ or FWL_.
_KEPT = ("PATH", "HOME", "USER", "LANG", "TZ", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "TMPDIR")
#: Of a job that we may be in; and paths that may be relative, which it is given as options.
_NOT_KEPT = ("FWL_JOB_ID", "FWL_ATTEMPT", "FWL_QUEUE", "FWL_SCHEDULED_FOR", "FWL_DB", "FWL_CONFIG", "FWL_IDLE_EXIT")


def start_worker(session: Session, connection: Connection) -> bool:
    """Have a worker started, if there is something for it to do. True when there is one then.

    Says what became of it. Nothing of it changes what becomes of the job: that is in the queue.
    """
    try:
        idle = _idle_exit(session.config)
        if not _has_work(connection, session.config, idle):
            return False
        pid, log_size = _start_alone(session, connection, idle)
        if not _wait_for_runner(connection, pid):
            _put_log(connection.paths, log_size)
            return False
    except (CommandError, OSError) as error:
        render.say(f"no worker is started: {render.clean(error)}")
        return False
    if pid:
        session.chat(f"started a worker (pid {pid}); it ends after {render.duration(idle)} without jobs")
        if session.config.cron or len(connection.read(schedules.names)):
            session.chat(NEEDS_LASTING_WORKER)
    return True


def _idle_exit(config: Config) -> float:
    said = parse_duration("FWL_IDLE_EXIT", os.environ.get("FWL_IDLE_EXIT") or None)
    return config.idle_exit if said is None else said


def _has_work(connection: Connection, config: Config, idle: float) -> bool:
    """Whether it would not end before anything is due."""
    moment = connection.read(due.next_work, config.queues)
    return moment is not None and moment <= time.time() + idle


# ---- one of many


def _start_alone(session: Session, connection: Connection, idle: float) -> tuple[int, int]:
    """Start a worker unless somebody else is about to. Returns its process, 0 for none, and the size of the log before."""
    paths = connection.paths
    lock = os.open(paths.starting, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0, 0
    log = _open_log(paths.worker_log)
    try:
        if live_runners(connection):  # it has come between our look and our lock
            return 0, 0
        size = os.fstat(log).st_size
        return _spawn(_command(session, idle, lock), log, lock), size
    finally:
        os.close(log)
        os.close(lock)  # the worker holds it still, until it serves the file


def _open_log(path: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        if os.path.getsize(path) > MOST_LOG:
            os.replace(path, path + ".1")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _command(session: Session, idle: float, lock: int) -> list[str]:
    command = [*own_command(), "worker", "--db", session.database]
    if session.config.path is not None:
        command += ["--config", os.path.abspath(session.config.path)]
    from .. import interpreters

    if (python := interpreters.default(session.config)) is not None:
        command += ["--python", python]  # what is near here; the worker has neither our folder nor our variables
    return [*command, "--idle-exit", f"{idle:.3f}s", "--starting-lock", str(lock)]


def _environment() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if (name in _KEPT or name.startswith(("LC_", "FWL_"))) and name not in _NOT_KEPT
    }


def _spawn(command: list[str], log: int, lock: int) -> int:
    """Run *command* as nobody's child in a session that it does not lead, with no descriptors but these. Returns its process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            worker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=_environment(), pass_fds=[lock]
            )
            os.write(writing, str(worker.pid).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        pid = int(pipe.read() or 0)
    os.waitpid(child, 0)
    if not pid:
        raise OSError("its process could not be started")
    return pid


# ---- until it is there


def _wait_for_runner(connection: Connection, pid: int) -> bool:
    """Wait until a runner serves the file. False when process *pid* (0: somebody else's) has ended, or time is up."""
    deadline = time.monotonic() + PATIENCE
    log, process = FileWatch(connection.paths.wal), watch_process(pid) if pid else None
    has_ended = bool(pid) and process is None
    try:
        while True:
            log.arm()
            if live_runners(connection):
                return True
            left = deadline - time.monotonic()
            if has_ended or left <= 0:
                return False
            ready = wait_readable([log.fileno(), *([] if process is None else [process])], left)
            has_ended = process in ready
            log.clear()
    finally:
        log.close()
        if process is not None:
            os.close(process)


def _put_log(paths: SidePaths, begin: int) -> None:
    """What the worker has said since it was started, the end of it."""
    with contextlib.suppress(OSError), open(paths.worker_log, "rb") as file:
        file.seek(begin)
        lines = os.fsdecode(file.read(65536)).splitlines()[-10:]
        render.say(f"no worker has begun; the end of {render.clean(paths.worker_log)}:")
        for line in lines:
            render.say(f"    {render.clean(line)}")
