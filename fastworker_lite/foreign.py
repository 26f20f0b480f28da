"""Functions in another Python: one child process that runs them, and what is said to it over a socket.

The worker claims, settles and minds the time as ever; only the call goes to the child, as the bytes that are stored.
Nothing of ours is installed there: the child gets the text of shim.py. It belongs to the worker's process group and dies
with it; and a worker whose child dies in a job dies the same way, so that whoever minds workers need not know.

Frames are two lengths, JSON, and bytes. Nothing that the child says is unpickled here.

Runs in: a worker process; `survey` in the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import time
from _signal import signal as set_handler  # type: ignore[import-not-found]  # signal's own makes enums: 3 µs each
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

from . import execution, interpreters, payloads
from .current import running_job
from .errors import ImportTrouble, SerializationError
from .execution import Elsewhere, UnknownTask
from .job import Claimed, Outcome
from .limits import limits_of
from .options import JobOptions
from .serialization import StandIn, Target
from .store.queries import Ended
from .tasks.registry import task_registry
from .watches import watch_process

_TERM, _DEFAULT = int(signal.SIGTERM), int(signal.SIG_DFL)
_HEAD = struct.Struct("!II")
_START = (
    "import sys,types;m=sys.modules['fastworker_lite']=types.ModuleType('fastworker_lite');"
    "exec(compile(sys.stdin.read(),'<fastworker_lite>','exec'),m.__dict__);m._serve(int(sys.argv[1]))"
)
#: Functions that are remembered; a function by value that is forgotten loses what it has kept in its globals.
_MOST_TARGETS = 1_000
#: Seconds that an idle child has to end by itself.
_PATIENCE = 1.0


class Setup(NamedTuple):
    """What the child is told when it is started."""

    python: str
    path: tuple[str, ...]
    #: Folders in which it looks for modules, before its own.
    modules: tuple[str, ...]
    output: tuple[str, ...] = ()
    #: The files that stdout and stderr of jobs go to.
    max_result: int = 0


class _Gone(Exception):
    """The child has ended, or speaks no more."""


class _Child:
    """The process, and the socket to it."""

    def __init__(self, setup: Setup, stdout: int | None = None, patience: float | None = None) -> None:
        """Start it, and have it import the tasks within *patience* seconds. Raises `ImportTrouble`."""
        self._socket, theirs = socket.socketpair()
        self._buffer = bytearray()
        with theirs:
            self._process = _start(setup.python, theirs.fileno(), stdout)
        self.pid = self._process.pid
        self._watch = watch_process(self.pid)
        self._poll = select.poll()
        for descriptor in (self._socket.fileno(), -1 if self._watch is None else self._watch):
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
        try:
            self.send(setup._asdict() | {"parent": os.getpid()})
            if patience is not None and not self._poll.poll(patience * 1000):
                self.kill()
                raise ImportTrouble(f"{', '.join(setup.modules)} took more than {patience:g} s to import")
            told, _ = self.receive()
        except (_Gone, OSError):
            code = self.end()
            raise ImportTrouble(
                f"{setup.python} ended with {code} before it was ready; is it Python 3.9 or later?"
            ) from None
        if "trouble" in told:
            self.end()
            raise ImportTrouble(told["trouble"], tuple(told["sys_path"]))
        self.tasks: list[dict[str, Any]] = told["tasks"]

    def is_alive(self) -> bool:
        """Whether it waits for us to say something."""
        return not self._poll.poll(0)

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        text = json.dumps(header).encode()
        self._socket.sendall(_HEAD.pack(len(text), len(body)) + text + body)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """What it says next. Raises `_Gone`."""
        text, body = _HEAD.unpack(self._take(_HEAD.size))
        return json.loads(self._take(text)), self._take(body)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            # Not by the socket alone: something that a task has started may hold its other end open.
            ready = [descriptor for descriptor, _ in self._poll.poll()]
            data = self._socket.recv(65536) if self._socket.fileno() in ready else b""
            if not data:
                raise _Gone
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def end(self) -> int:
        """Let it end by itself, which it does when it is idle, or kill it. Returns its exit status."""
        self._socket.close()
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None
        try:
            return self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        self._process.kill()
        return self._process.wait()


def _start(python: str, descriptor: int, stdout: int | None) -> subprocess.Popen[bytes]:
    source = pkgutil.get_data(__package__, "shim.py")
    assert source is not None
    try:
        process = subprocess.Popen(
            [python, "-c", _START, str(descriptor)],
            stdin=subprocess.PIPE, stdout=stdout, pass_fds=[descriptor], env=interpreters.variables(),
        )  # fmt: skip
    except OSError as error:
        raise ImportTrouble(f"{python} cannot be started: {error.strerror}") from error
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(source)
        process.stdin.close()
    return process


# ---- what a runner knows of it


def survey(setup: Setup, patience: float | None = None) -> None:
    """Have the tasks of the other Python known here by name, with their options. Raises `ImportTrouble`, `ConfigError`.

    What their modules print goes to stderr.
    """
    child = _Child(setup, stdout=2, patience=patience)
    child.end()
    for one in child.tasks:
        task_registry.register(StandIn(one["reference"]), one["name"], **_declared(one["declared"]))


def _declared(told: dict[str, Any]) -> dict[str, Any]:
    return {name: _read(value) for name, value in told.items()}


def _read(value: Any) -> Any:
    return datetime.fromisoformat(value["datetime"]) if isinstance(value, dict) and "datetime" in value else value


# ---- what a worker has of it


class Interpreter:
    """Finds and calls functions in another Python: what execution.py does in ours."""

    def __init__(self, setup: Setup, references: dict[str, bytes]) -> None:
        """*references* are the names that the runner has registered. Raises `ImportTrouble`."""
        self._setup = setup
        self._references = references
        self._start()

    def _start(self) -> None:
        self._child = _Child(self._setup)
        self._targets: dict[tuple[str, bytes | None], tuple[int, Target]] = {}
        self._last = 0

    @property
    def pid(self) -> int:
        return self._child.pid

    def close(self) -> None:
        """Have the child end."""
        self._child.end()

    # ---- as in execution.py

    def find_target(self, job: Claimed) -> Target:
        """The function of a job. Raises `UnknownTask`, or `Elsewhere`: what was raised when it was looked for."""
        if payloads.checksum(job.task, job.target, job.payload) != job.checksum:
            raise SerializationError("the stored call is damaged: its checksum does not match; submit it again")
        if not self._child.is_alive():  # it ended between jobs, through no fault of theirs
            self._child.kill()
            self._start()
        key = job.task, job.target
        if key not in self._targets:
            if len(self._targets) >= _MOST_TARGETS:
                self._targets.clear()
            self._targets[key] = self._find(job)
        self._last, target = self._targets[key]
        return target

    def _find(self, job: Claimed) -> tuple[int, Target]:
        reference = (
            job.target or self._references.get(job.task) or (b"I" + job.task.encode() if ":" in job.task else b"")
        )
        told, _ = self._ask(
            {"do": "find", "task": job.task, "is_named": job.target is None, "is_first": not self._targets}, reference
        )
        if "is_unknown" in told:
            raise UnknownTask(job.task)
        if "failure" in told:
            raise Elsewhere(told["failure"])
        options = JobOptions.parse_for_tasks(_options(told["declared"]))
        return told["target"], Target(StandIn(job.task), None, None, False, options)

    def under_its_tasks_limits(self, job: Claimed, target: Target) -> Claimed | None:
        """As in execution.py."""
        options = target.options
        if job.has_limits or (options.lock is None and options.concurrency is None and options.rate is None):
            return None
        told, _ = self._ask({"do": "group", "target": self._last}, job.payload)
        return job._replace(limits=limits_of(job.task, options, told["group"]))

    def run_call(self, job: Claimed, target: Target, max_result: int, results: Sequence[Ended] = ()) -> Outcome:
        """Have the function called with the job's arguments, after those that are the *results* of other jobs."""
        started = time.time()
        # Whoever sends it to our process group sends it to the child as well, which ends, or has a handler for it.
        set_handler(_TERM, _leave_it_to_the_child)
        try:
            parts = [job.payload, *execution.stored_results(job, results)]
            told, result = self._ask(_call(job, self._last, parts), b"".join(parts))
        except SerializationError as error:
            return Outcome(job, started, time.time(), failure=execution.describe(error, job))
        finally:
            set_handler(_TERM, _DEFAULT)
        current = running_job()
        if told["progress"] and current is not None:
            current.progress(*told["progress"])
        ended = time.time()
        if "failure" in told:
            return Outcome(job, started, ended, failure=execution.describe(Elsewhere(told["failure"]), job))
        if "too_large" in told:
            return Outcome(job, started, ended, failure=execution.too_large(told["too_large"], max_result))
        if "unstorable" in told:
            return Outcome(job, started, ended, failure=execution.unstorable(told["unstorable"]))
        return Outcome(job, started, ended, result=result, told=told["told"])

    # ---- the conversation

    def _ask(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """What the child answers, once it has answered what it asked in between."""
        try:
            self._child.send(request, body)
            while True:
                told, data = self._child.receive()
                answer = _answer(told)
                if answer is None:
                    return told, data
                self._child.send({"answer": answer})
        except (_Gone, OSError, ValueError):
            _end_as(self._child.kill())


def _options(declared: dict[str, Any]) -> dict[str, Any]:
    """Those of what a task declares that are options of its jobs; the others say when it is called by the clock."""
    return {name: _read(value) for name, value in declared.items() if name in JobOptions._fields}


def _call(job: Claimed, target: int, parts: Sequence[bytes]) -> dict[str, Any]:
    inputs = None if job.inputs is None else "list" if job.inputs.startswith("[") else "one"
    return {
        "do": "call", "target": target, "id": job.id, "attempt": job.attempt, "queue": job.queue,
        "scheduled_for": job.scheduled_for, "inputs": inputs, "sizes": [len(part) for part in parts],
    }  # fmt: skip


def _answer(told: dict[str, Any]) -> bool | None:
    """The answer to what the child asks in the middle of a job; None when it says how a request ended."""
    current = running_job()
    if "is_cancelled" in told:
        return current is not None and current.cancelled
    if len(told) == 1 and told.get("progress") and current is not None:
        current.progress(*told["progress"])
        return True
    return None


def _leave_it_to_the_child(*_: object) -> None:
    pass


def _end_as(code: int) -> NoReturn:
    """End the way the child did: by its signal, or with its exit status."""
    if code < 0:
        with contextlib.suppress(OSError):  # KILL needs no permission
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code > 0 else 1)
