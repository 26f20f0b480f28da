"""The producer's side without asyncio: what a call becomes, and how it gets into the file and its result out of it.

`Client` ships these functions to a thread, `SyncClient` and the command line call them directly.

Runs in: every process that submits.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from . import serialization
from .errors import (
    ConfigError,
    FastWorkerError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    PayloadTooLarge,
    QueueFull,
    SerializationError,
)
from .job import Command, Job, Kind, Lane, NewJob, Parent, State, task_status, utc
from .limits import group_of, limits_of
from .options import NO_OPTIONS, QUEUE_RULES, JobOptions, parse_queue
from .serialization import Target
from .sockets import Waker
from .store import cancelling, dependencies, listeners, queries, queues, runners, submitting, waiters
from .store import jobs as job_store
from .store.connection import Connection
from .store.listeners import ENDS
from .store.queries import Ended
from .store.submitting import Stored
from .tasks.registry import Task, task_registry

if TYPE_CHECKING:
    from .tasks.models import TaskResult

#: Bytes that a call's arguments may take, unless the configuration says otherwise.
MAX_PAYLOAD = 1024 * 1024

# ---- building


class _Known(NamedTuple):
    name: str
    target: bytes
    is_async: bool


_registered: dict[int, tuple[Task, _Known]] = {}


def build_call(
    task: str | Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    options: JobOptions,
    *,
    defaults: JobOptions = NO_OPTIONS,
    max_payload: int = MAX_PAYLOAD,
    is_parked_if_unknown: bool = True,
) -> NewJob:
    """A call of a registered name, of `module:function`, or of a function itself, ready to be stored.

    *defaults* are the options where neither *options* nor the task's own say anything.

    Raises `SerializationError` (a `PayloadTooLarge` above *max_payload* bytes) or `ConfigError`.
    """
    name, target, is_async, options = _resolve(task, options)
    options = options.over(defaults)
    payload = serialization.encode_call(tuple(args), kwargs)
    return _sized(
        NewJob(
            kind=Kind.CALL,
            task=name,
            payload=payload,
            target=target,
            checksum=serialization.checksum(name, target, payload),
            lane=Lane.ASYNC if is_async else Lane.SYNC,
            options=_with_path(options),
            is_parked_if_unknown=is_parked_if_unknown,
            limits=_limits(name, options, _function(task), args, kwargs),
            parents=_parents(options),
        ),
        max_payload,
    )


def _limits(
    name: str,
    options: JobOptions,
    function: Callable[..., Any] | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> str | None:
    if options.lock is None and options.concurrency is None and options.rate is None:
        return None
    return limits_of(name, options, group_of(options.key, function, args, kwargs))


def _function(task: str | Callable[..., Any]) -> Callable[..., Any] | None:
    return task_registry.get_task(task) if isinstance(task, str) else task


def _parents(options: JobOptions) -> tuple[Parent, ...]:
    if options.after is options.after_any is options.after_failure is None:
        return ()
    kinds = {"any": options.after_any, "failure": options.after_failure, "success": options.after}
    strictest = {number: kind for kind, numbers in kinds.items() for number in numbers or ()}
    return tuple(Parent(number, kind) for number, kind in strictest.items())


def _resolve(task: str | Callable[..., Any], options: JobOptions) -> tuple[str, bytes | None, bool, JobOptions]:
    if isinstance(task, str):
        if not task or "\0" in task or len(task) > 500:
            raise ConfigError(f"a task's name must be a text of 1 to 500 characters, got {task!r:.80}")
        declared = task_registry.get(task)
        if declared is None:
            return task, None, False, options  # a worker may know it
    elif callable(task):
        declared = task_registry.find(task)
        if declared is None:
            target = Target.make(task)
            return serialization.function_name(task), serialization.encode_target(target), target.is_async, options
    else:
        raise ConfigError(f"a task must be a name, module:function or a function, got {task!r:.80}")
    known = _known(declared)
    return known.name, known.target, known.is_async, options.over(declared.options)


def _known(task: Task) -> _Known:
    """The reference to a registered task: made once, so that the workers need to read it once."""
    found = _registered.get(id(task))
    if found is None:
        target = Target.of(task)
        found = task, _Known(task.name, serialization.encode_target(target), target.is_async)
        _registered[id(task)] = found
    return found[1]


def registered_targets() -> dict[str, bytes]:
    """References to every task this process has registered and a worker could find, for the workers it starts."""
    found = {}
    for task in task_registry.tasks():
        try:
            found[task.name] = _known(task).target
        except SerializationError:
            continue  # refused with the reason when it is submitted
    return found


def build_json_call(name: str, args: list[Any], kwargs: dict[str, Any], options: JobOptions) -> NewJob:
    """A call by name whose arguments are JSON, and whose result will be, if it can."""
    payload = serialization.encode_json_call(args, kwargs)
    job = NewJob(
        kind=Kind.CALL,
        task=name,
        payload=payload,
        checksum=serialization.checksum(name, None, payload),
        options=_with_path(options),
        limits=_limits(name, options),
        parents=_parents(options),
    )
    return _sized(job, MAX_PAYLOAD)


def build_command(command: Command, environment: bytes | None, options: JobOptions) -> NewJob:
    """A command, ready to be stored.

    *environment* is what it will find, from `serialization.encode_environment`; None leaves that to the worker.
    """
    payload = serialization.encode_command(command)
    task = os.path.basename(command.argv[0]) if command.argv else "sh"
    task = task.encode(errors="replace").decode()[:200] or "command"
    job = NewJob(
        kind=Kind.COMMAND,
        task=task,
        payload=payload,
        checksum=serialization.checksum(task, None, payload),
        options=_with_path(options),
        environment=environment,
        limits=_limits(task, options),
        parents=_parents(options),
    )
    return _sized(job, MAX_PAYLOAD)


def _with_path(options: JobOptions) -> JobOptions:
    """A callback's address is resolved where the job is submitted: what it means may depend on the environment."""
    if options.callback is None:
        return options
    from .streams import callback_path

    return replace(options, callback=callback_path(options.callback))


def _sized(job: NewJob, limit: int) -> NewJob:
    size = len(job.payload) + len(job.target or b"")
    if size > limit:
        raise PayloadTooLarge(size, limit)
    return job


# ---- submitting


class Submission(NamedTuple):
    """Jobs to be stored together, and who wants to be told when they end."""

    jobs: Sequence[NewJob]
    waiter: str | None = None


def submit(connection: Connection, waker: Waker, submissions: Sequence[Submission]) -> list[Stored | FastWorkerError]:
    """Store all *submissions* in one transaction and wake whoever can run them.

    They are durable when this returns. For each there is what was stored, or why nothing of it was: `QueueFull`, `JobExists`
    or `JobNotFound`. Raises what `Connection.write` raises, and `StorageFull`.
    """
    connection.check_room()
    stored, addresses, waiting = connection.write(_insert, submissions, time.time())
    waker.poke_all(waiting)
    _wake(waker, addresses, [job for submission in submissions for job in submission.jobs])
    return stored


def submit_one(connection: Connection, waker: Waker, submission: Submission) -> Stored:
    """As `submit`, for one; raises what kept it from being stored."""
    [stored] = submit(connection, waker, [submission])
    if isinstance(stored, FastWorkerError):
        raise stored
    return stored


def _insert(
    sql: sqlite3.Connection, submissions: Sequence[Submission], now: float
) -> tuple[list[Stored | FastWorkerError], list[runners.Addresses], set[str]]:
    everything = [job for submission in submissions for job in submission.jobs]
    stored: list[Stored | FastWorkerError] = []
    if all(job.is_plain for job in everything):
        with contextlib.suppress(QueueFull):  # for somebody's jobs: then each submission by itself
            stored += _insert_together(sql, submissions, everything, now)
    if not stored:
        stored = [_insert_alone(sql, submission.jobs, now) for submission in submissions]
    waiting: set[str] = set()
    for submission, one in zip(submissions, stored, strict=True):
        if isinstance(one, Stored):
            if submission.waiter is not None:
                waiters.add(sql, one.ids, submission.waiter)
            if one.ended:
                waiting |= waiters.take(sql, one.ended)
    return stored, runners.addresses(sql), waiting


def _insert_together(
    sql: sqlite3.Connection, submissions: Sequence[Submission], everything: Sequence[NewJob], now: float
) -> list[Stored]:
    inserted = job_store.insert(sql, everything, now) if everything else range(0)
    stored, start = [], 0
    for submission in submissions:
        stored.append(Stored(inserted[start : start + len(submission.jobs)]))
        start += len(submission.jobs)
    return stored


def _insert_alone(sql: sqlite3.Connection, jobs: Sequence[NewJob], now: float) -> Stored | FastWorkerError:
    """All of one submission or nothing of it, whatever becomes of the others in the transaction."""
    sql.execute("SAVEPOINT submission")
    try:
        return submitting.insert(sql, jobs, now)
    except FastWorkerError as refused:
        sql.execute("ROLLBACK TO submission")
        return refused
    finally:
        sql.execute("RELEASE submission")


def _wake(waker: Waker, addresses: Iterable[runners.Addresses], submitted: Sequence[NewJob]) -> None:
    due = [job.lane for job in submitted if job.is_due_at_once]
    in_lane = [due.count(Lane.SYNC), due.count(Lane.ASYNC)]
    for where in addresses:
        waker.poke(where.wake, in_lane[Lane.SYNC])
        waker.poke(where.wake_async, in_lane[Lane.ASYNC])
        if not all(
            job.is_plain and job.is_due_at_once for job in submitted
        ):  # it may be due later, or may begin at once, or have ended another
            waker.poke_all(where)


class _Cancelled(NamedTuple):
    found: str | None
    waiting: set[str]
    runners: list[runners.Addresses]
    process: str | None
    #: Who runs it without a runner, see `cancelling.lone_process`.


def cancel(
    connection: Connection,
    waker: Waker,
    job_id: int,
    *,
    grace: float | None = None,
    first_signal: int | None = None,
) -> str:
    """Cancel a job that has not begun, or ask for the end of one that runs. Returns the state it was found in.

    A running job gets *first_signal* (TERM), and KILL *grace* seconds later; None leaves that to its `kill_grace`.
    Raises `JobNotFound`.
    """

    def transact(sql: sqlite3.Connection) -> _Cancelled:
        cancelling.set_manner(sql, job_id, grace, first_signal)
        now = time.time()
        found = cancelling.cancel(sql, job_id, now)
        waiting = waiters.take(sql, [job_id, *dependencies.resolve(sql, now).cancelled])
        return _Cancelled(found, waiting, runners.addresses(sql), cancelling.lone_process(sql, job_id))

    cancelled = connection.write(transact)
    waker.poke_all(cancelled.waiting)
    for where in cancelled.runners:
        if cancelled.found == State.RUNNING:
            waker.poke(where.wake_async)
            waker.poke(where.control)
        else:
            waker.poke_all(where)  # it is over: somebody may listen, or have waited for it
    if cancelled.process is not None:
        _tell_to_end(cancelled.process)
    if cancelled.found is None:
        raise JobNotFound(job_id)
    return cancelled.found


def _tell_to_end(process: str) -> None:
    """A process that runs its job itself looks into the file when it is told to end, and does as the cancel says."""
    import signal

    from .leases import ProcessIdentity  # and with it subprocess, which no other submitter needs

    ProcessIdentity.parse(process).signal(signal.SIGTERM)


def retry(connection: Connection, waker: Waker, job_id: int) -> str:
    """Queue a failed, cancelled or expired job again, under its own id. Returns the state it was found in.

    Raises `JobNotFound`.
    """

    def transact(sql: sqlite3.Connection) -> tuple[str | None, list[runners.Addresses]]:
        return cancelling.retry(sql, job_id), runners.addresses(sql)

    found, everybody = connection.write(transact)
    if found is None:
        raise JobNotFound(job_id)
    for where in everybody:
        waker.poke(where.wake)
        waker.poke(where.wake_async)
    return found


#: The states that a job leaves when it is cancelled, at once; and those in which it can be tried again.
UNBEGUN = frozenset({"queued", "scheduled", "blocked"})
RETRIED = frozenset({"failed", "cancelled", "expired"})


# ---- queues


def queue_settings(given: Mapping[str, object]) -> dict[str, int | str | None]:
    """The settings of a queue, checked: `workers`, `max_length`, `rate`; None takes one away. Raises `ConfigError`."""
    unknown = given.keys() - QUEUE_RULES.keys()
    if unknown:
        raise ConfigError(f'a queue has no setting "{min(unknown)}"; it may have {", ".join(QUEUE_RULES)}')
    return {name: None if value is None else QUEUE_RULES[name](name, value) for name, value in given.items()}


def change_queue(connection: Connection, waker: Waker, name: str, settings: Mapping[str, int | str | None]) -> None:
    """Give a queue these settings, and have every runner look at it anew. Makes it if there is none of this name."""

    def transact(sql: sqlite3.Connection) -> list[runners.Addresses]:
        queues.change(sql, name, settings)
        return runners.addresses(sql)

    for where in connection.write(transact):
        waker.poke_all((where.wake, where.wake_async), times=11)
        waker.poke(where.control)


# ---- listeners


class NewListener(NamedTuple):
    """A registration, checked."""

    name: str
    address: str
    task: str
    queue: str | None
    ends: tuple[str, ...]
    lease: str | None = None


def new_listener(address: str, task: str, queue: str | None, on: Sequence[str], name: str | None) -> NewListener:
    """Raises `ConfigError` for what cannot be."""
    from .streams import callback_path

    path = callback_path(address)
    ends = (on,) if isinstance(on, str) else tuple(on)
    if not ends or not set(ends) <= set(ENDS):
        raise ConfigError(f"on must be some of {', '.join(ENDS)}, got {on!r:.80}")
    for what, text in (("task", task), ("name", name or path)):
        if not isinstance(text, str) or not text or "\0" in text or len(text) > 500:
            raise ConfigError(f"{what} must be a text of 1 to 500 characters, got {text!r:.80}")
    return NewListener(name or path, path, task, None if queue is None else parse_queue(queue), ends)


def tell_soon(connection: Connection) -> None:
    """Have the runner that leads look at what is to be told."""
    waker = Waker()
    for where in connection.read(runners.addresses):
        waker.poke(where.outbox)
    waker.close()


def register_listener(connection: Connection, listener: NewListener) -> str:
    """Store a registration, and return its name."""
    connection.write(listeners.register, *listener, time.time())
    return listener.name


# ---- results


def wait_for(connection: Connection, ids: Sequence[int], address: str) -> list[Ended]:
    """Those of these jobs that have ended; for the others *address* is poked when they do.

    Raises `JobNotFound` for one that does not exist.
    """

    def transact(sql: sqlite3.Connection) -> list[Ended]:
        found = queries.ended(sql, ids)
        waiting = set(ids).difference(one.job.id for one in found)
        for job_id in waiting.difference(queries.existing(sql, waiting)):
            raise JobNotFound(job_id)
        waiters.add(sql, waiting, address)
        return found

    return connection.write_fast(transact)


def parse_id(task_id: object) -> int | None:
    """A job's number from what a caller has; None when it cannot be one."""
    if isinstance(task_id, int) and not isinstance(task_id, bool):
        number = task_id
    elif isinstance(task_id, str) and task_id.isascii() and task_id.isdigit() and len(task_id) < 19:
        number = int(task_id)
    else:
        return None
    return number if 0 < number < 2**63 else None


def value_of(ended: Ended) -> Any:
    """The return value of a job that has ended. Unpickles it.

    Raises `JobFailed`, `JobCancelled`, or `SerializationError` when the stored bytes are damaged.
    """
    job = ended.job
    if job.state is State.SUCCEEDED:
        return serialization.read_result(job.id, ended.result, ended.result_checksum)
    if job.state in (State.CANCELLED, State.EXPIRED):
        raise JobCancelled(job.id, job.reason)
    raise JobFailed(job.id, job.error_type, job.error or job.reason or "unknown", job.traceback)


def task_result(ended: Ended) -> TaskResult:
    """How a job ended, in FastWorker's words. A result that cannot be read is a failure."""
    from .tasks.models import TaskResult, TaskStatus

    job = ended.job
    status, result, error, error_type = task_status(job.state, job.attempt), None, job.error, job.error_type
    if status is TaskStatus.SUCCESS:
        try:
            result = serialization.read_result(job.id, ended.result, ended.result_checksum)
        except SerializationError as broken:
            status, error, error_type = TaskStatus.FAILURE, str(broken), "SerializationError"
    elif status in (TaskStatus.FAILURE, TaskStatus.CANCELLED):
        error = error or job.reason
    return TaskResult(
        task_id=str(job.id),
        status=status,
        result=result,
        error=error,
        started_at=utc(job.started_at),
        completed_at=utc(job.finished_at),
        traceback=job.traceback,
        error_type=error_type,
        attempt=job.attempt,
    )


def job_or_raise(job: Job | None, job_id: object) -> Job:
    if job is None:
        raise JobNotFound(str(job_id))
    return job
