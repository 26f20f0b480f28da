"""Running one job: a function, a coroutine or a command. What comes out is a value, whatever the job did.

Runs in: a worker process, and `fwl run`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from . import payloads, serialization
from .errors import Cancel, ConfigError, Retry, SerializationError
from .job import Claimed, Command, Failure, Outcome, State, utc
from .limits import group_of, limits_of
from .options import Policy
from .serialization import Target
from .store.queries import Ended
from .tasks.registry import task_registry

#: Characters kept of an exception's text, and of its traceback.
MAX_ERROR, MAX_TRACEBACK = 8_192, 65_536


class UnknownTask(Exception):
    """This worker does not know the task of a job; another may."""


class Elsewhere(Exception):
    """Another Python has raised something, and told what: see `_describe` of shim.py."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["text"])
        self.told = told


# ---- functions

_known: dict[str, bytes] = {}


def know(tasks: dict[str, bytes]) -> None:
    """Have these names lead to these references: what the runner's process had registered when it started this worker."""
    _known.update(tasks)


def find_target(job: Claimed) -> Target:
    """The function of a job. Raises `UnknownTask`, or what its module raised when it was loaded."""
    if payloads.checksum(job.task, job.target, job.payload) != job.checksum:
        raise SerializationError("the stored call is damaged: its checksum does not match; submit it again")
    if job.target is not None:
        return _find_by_reference(job.target, job.task)
    task = task_registry.get(job.task)
    if task is not None:
        return Target.of(task)
    if job.task in _known:
        return _find_by_reference(_known[job.task], job.task)
    if ":" in job.task:
        return _find_by_reference(b"I" + job.task.encode(), job.task)
    raise UnknownTask(job.task)


def _find_by_reference(reference: bytes, name: str) -> Target:
    try:
        target = serialization.decode_target(reference)
    except ModuleNotFoundError as error:
        module = reference[1:].decode(errors="replace").partition(":")[0]
        if reference[:1] != b"I" or (error.name or "") not in _parents(module):
            raise  # the task's module is there; something that it imports is not
        task = task_registry.get(name)
        if task is None:
            raise UnknownTask(name) from error
        return Target.of(task)
    declared = task_registry.find(target.function)
    return Target.of(declared) if declared is not None else target


def _parents(module: str) -> set[str]:
    parts = module.split(".")
    return {".".join(parts[: length + 1]) for length in range(len(parts))}


def under_its_tasks_limits(job: Claimed, target: Target) -> Claimed | None:
    """The job with the limits of its task, which its submitter did not know; None when there is nothing to add.

    A key that cannot be made of the arguments leaves the limit to the task as a whole.
    """
    options = target.options
    if job.has_limits or (options.lock is None and options.concurrency is None and options.rate is None):
        return None
    try:
        args, kwargs = serialization.decode_call(job.payload)
        group = group_of(options.key, target.function, args, kwargs)
    except (SerializationError, ConfigError):
        group = None
    return job._replace(limits=limits_of(job.task, options, group))


def run_call(job: Claimed, target: Target, max_result: int, results: Sequence[Ended] = ()) -> Outcome:
    """Call the function with the job's arguments, after those that are the *results* of other jobs."""
    started = time.time()
    try:
        args, kwargs = _arguments(job, results)
        if target.before is not None:
            target.before(*args, **kwargs)
        value = target.function(*args, **kwargs)
        if target.after is not None:
            target.after(value)
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: the worker lives on
        return Outcome(job, started, time.time(), failure=describe(error, job))
    return _succeeded(job, value, started, max_result)


def parents_whose_results(job: Claimed) -> list[int]:
    """The ids of the jobs whose results this one takes."""
    wanted = json.loads(job.inputs or "[]")
    return wanted if isinstance(wanted, list) else [wanted]


def _arguments(job: Claimed, results: Sequence[Ended]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args, kwargs = serialization.decode_call(job.payload)
    if job.inputs is None:
        return args, kwargs
    values = [serialization.decode(data) for data in stored_results(job, results)]
    return (values if job.inputs.startswith("[") else values[0], *args), kwargs


def stored_results(job: Claimed, results: Sequence[Ended]) -> list[bytes]:
    """Those of *results* that this job takes, as they are stored. Raises `SerializationError` when one is not there."""
    found = {one.job.id: one for one in results}
    return [_stored_result(number, found.get(number)) for number in parents_whose_results(job)]


def _stored_result(number: int, ended: Ended | None) -> bytes:
    if ended is None or ended.job.state is not State.SUCCEEDED:
        raise SerializationError(f"the result of job {number}, which this one needs, is not there any more")
    if ended.result is None:
        return payloads.encode_json(None)  # a command's
    return serialization.checked_result(number, ended.result, ended.result_checksum)


async def run_coroutine(job: Claimed, target: Target, max_result: int, results: Sequence[Ended] = ()) -> Outcome:
    """Await the coroutine function with the job's arguments, for as long as the job may take.

    A cancellation from outside passes through.
    """
    started = time.time()
    timer = asyncio.timeout(job.timeout)
    try:
        args, kwargs = _arguments(job, results)
        async with timer:
            if target.before is not None:
                await _called(target.before, *args, **kwargs)
            value = await target.function(*args, **kwargs)
            if target.after is not None:
                await _called(target.after, value)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Outcome(job, started, time.time(), failure=describe(error, job))
    except BaseException as error:
        failure = timed_out(job.timeout or 0.0) if timer.expired() else describe(error, job)
        return Outcome(job, started, time.time(), failure=failure)
    return _succeeded(job, value, started, max_result)


async def _called(hook: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    value = hook(*args, **kwargs)
    if inspect.isawaitable(value):
        await value


def _succeeded(job: Claimed, value: object, started: float, max_result: int) -> Outcome:
    try:
        result = serialization.encode_result(value, payloads.is_json(job.payload))
    except BaseException as error:
        return Outcome(job, started, time.time(), failure=unstorable(str(error)))
    if len(result) > max_result:
        return Outcome(job, started, time.time(), failure=too_large(len(result), max_result))
    told = serialization.tell(value) if job.is_told else None
    return Outcome(job, started, time.time(), result=result, told=told)


def too_large(size: int, max_result: int) -> Failure:
    """What is said of a job whose result takes too much room."""
    return unstorable(f"it takes {size} bytes, more than max_result = {max_result}; return a path or a key to the data")


def unstorable(text: str) -> Failure:
    """What is said of a job whose result is the trouble."""
    message = f"result cannot be stored: {clean(text, MAX_ERROR)}"
    return Failure(reason="result cannot be stored", error=message, error_type="SerializationError", is_final=True)


# ---- failures


def describe(error: BaseException, job: Claimed) -> Failure:
    """An exception as text that is safe to store, whatever its `__str__` does, and what it means for the job."""
    if isinstance(error, Elsewhere):
        return _failure(error.told, job)
    text = _text_of(error)
    if isinstance(error, Cancel):
        return Failure(reason=clean(text, 200) or "cancelled", error=clean(text, MAX_ERROR), is_cancel=True)
    name = clean(type(error).__name__, 200)
    is_worth_it = Policy.read(job.policy).is_worth_retrying(error)
    return Failure(
        reason=name,
        error=clean(text, MAX_ERROR) or name,
        error_type=name,
        traceback=_traceback(error),
        is_final=isinstance(error, SerializationError) or not is_worth_it,
        retry_after=error.after if isinstance(error, Retry) else None,
    )


def _failure(told: dict[str, Any], job: Claimed) -> Failure:
    text, name, trace = told["text"], clean(told["type"], 200), told["traceback"]
    if told["is_cancel"]:
        return Failure(reason=clean(text, 200) or "cancelled", error=clean(text, MAX_ERROR), is_cancel=True)
    return Failure(
        reason=name,
        error=clean(text, MAX_ERROR) or name,
        error_type=name,
        traceback=None if trace is None else clean(trace, MAX_TRACEBACK),
        is_final=told["is_final"] or not Policy.read(job.policy).is_worth_it_after(set(told["names"])),
        retry_after=told["retry_after"],
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:
        return f"<unprintable {type(error).__name__}: its __str__ raised {type(broken).__name__}>"


def timed_out(seconds: float) -> Failure:
    """What is said of a job that took longer than its timeout."""
    text = f"timed out after {seconds:.1f}s"
    return Failure(reason=text, error=text, error_type="TimeoutError", is_timeout=True)


def _traceback(error: BaseException) -> str | None:
    try:
        frames = error.__traceback__.tb_next if error.__traceback__ else None  # the first frame is this module's
        lines = traceback.format_exception(type(error), error, frames)
    except BaseException:
        return None
    return clean("".join(lines), MAX_TRACEBACK)


def clean(text: str, limit: int) -> str:
    """*text* as SQLite can store it, cut to about *limit* characters in the middle."""
    whole = _cut(text, limit).encode("utf-8", "backslashreplace").decode()
    return _cut(whole, limit)  # what cannot be encoded has become longer


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n… {len(text) - limit} characters left out …\n{text[-(limit // 2) :]}"


# ---- commands


def command_environment(job: Claimed, stored: bytes | None, database: str) -> dict[str, str]:
    """The environment of a command: the submitter's, and what says which job it is."""
    variables = dict(os.environ) if stored is None else payloads.decode_environment(stored)
    if (tick := utc(job.scheduled_for)) is not None:
        precision = "milliseconds" if tick.microsecond else "seconds"
        variables["FWL_SCHEDULED_FOR"] = tick.isoformat(timespec=precision).replace("+00:00", "Z")
    return variables | {
        "FWL_JOB_ID": str(job.id),
        "FWL_ATTEMPT": str(job.attempt),
        "FWL_QUEUE": job.queue,
        "FWL_DB": database,
    }


def start_command(
    command: Command,
    variables: dict[str, str],
    stdout: int,
    stderr: int,
    script: str,
    in_child: Callable[[], None] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own. Raises `OSError`.

    The text of a program is written to the file *script*, which `forget_script` removes once it has ended. *in_child* is
    called in the new process before the command is. It makes a start four times as long, and only one thread may run.
    """
    environment = {
        name.encode(errors="surrogateescape"): value.encode(errors="surrogateescape")
        for name, value in variables.items()
    }
    with contextlib.ExitStack() as until_started:
        stdin = _open_input(command, script)
        until_started.callback(os.close, stdin)
        return subprocess.Popen(
            [os.fsencode(word) for word in _words(command, script)],
            cwd=os.fsencode(command.cwd),
            env=environment,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
            preexec_fn=in_child,
        )


def _words(command: Command, script: str) -> list[str]:
    if command.script is not None:
        with open(script, "w", errors="surrogateescape", opener=_private) as file:
            file.write(command.script)
        interpreter = [] if command.script.startswith("#!") else ["/bin/sh"]  # as a shell would have it
        return [*interpreter, script, *(command.argv or [])[1:]]
    return command.argv if command.argv is not None else ["/bin/sh", "-c", command.shell or ""]


def _open_input(command: Command, beside: str) -> int:
    if command.input is None:
        return os.open(os.fsencode(command.stdin or os.devnull), os.O_RDONLY | os.O_CLOEXEC)
    descriptor = _private(f"{beside}-input", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.unlink(f"{beside}-input")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(command.input.encode(errors="surrogateescape"))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)


def forget_script(command: Command, script: str) -> None:
    """Remove the file that a program's text was written to."""
    if command.script is not None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(script)


def command_outcome(job: Claimed, started: float, returncode: int) -> Outcome:
    """How a command ended, from what the system says."""
    now = time.time()
    if returncode == 0:
        return Outcome(job, started, now, exit_code=0)
    if returncode > 0:
        text = f"exit {returncode}"
        return Outcome(job, started, now, exit_code=returncode, failure=Failure(reason=text, error=text))
    text = f"signal {-returncode} ({_signal_name(-returncode)})"
    return Outcome(job, started, now, signal=-returncode, failure=Failure(reason=text, error=text))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def not_started(job: Claimed, started: float, command: Command, error: OSError) -> Outcome:
    """How a command ended that could not be started: 127 when there is no such program, else 126, as in a shell."""
    is_unread = command.stdin is not None and error.filename == os.fsencode(command.stdin)
    is_missing = isinstance(error, FileNotFoundError) and os.path.isdir(command.cwd) and not is_unread
    what = command.stdin if is_unread else command.argv[0] if command.argv else "/bin/sh"
    where = (
        f"{what}: {error.strerror}" if os.path.isdir(command.cwd) else f"cannot enter {command.cwd}: {error.strerror}"
    )
    code = 127 if is_missing else 126
    failure = Failure(reason=f"exit {code}", error=clean(where, MAX_ERROR), is_final=True)
    return Outcome(job, started, time.time(), exit_code=code, failure=failure)
