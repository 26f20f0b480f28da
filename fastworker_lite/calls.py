"""Calls as they are stored, and their results as values again: what needs pickle, and the registry of tasks.

Runs in: every process that submits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from . import payloads, serialization
from .building import MAX_PAYLOAD, limits, parents, sized, with_path
from .errors import ConfigError, JobCancelled, JobFailed, SerializationError
from .job import Kind, Lane, NewJob, Parent, State, task_status, utc
from .options import NO_OPTIONS, JobOptions
from .serialization import Target
from .store.queries import Ended
from .tasks.models import TaskResult, TaskStatus
from .tasks.registry import Task, task_registry


class _Callee(NamedTuple):
    """What the jobs that call one function have in common."""

    task: str | Callable[..., Any]
    name: str
    target: bytes | None
    lane: Lane
    options: JobOptions
    parents: tuple[Parent, ...]


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
    return _build(_callee(task, options, defaults), tuple(args), kwargs, max_payload, is_parked_if_unknown)


def build_map(
    task: str | Callable[..., Any],
    items: Iterable[Any],
    options: JobOptions,
    *,
    defaults: JobOptions = NO_OPTIONS,
    max_payload: int = MAX_PAYLOAD,
) -> list[NewJob]:
    """One call for each item, as `build_call` makes them; what they have in common is found once."""
    callee = _callee(task, options, defaults)
    return [_build(callee, (item,), {}, max_payload, True) for item in items]


def _build(
    callee: _Callee, args: tuple[Any, ...], kwargs: dict[str, Any], max_payload: int, is_parked_if_unknown: bool
) -> NewJob:
    payload = serialization.encode_call(args, kwargs)
    return sized(
        NewJob(
            kind=Kind.CALL,
            task=callee.name,
            payload=payload,
            target=callee.target,
            checksum=payloads.checksum(callee.name, callee.target, payload),
            lane=callee.lane,
            options=callee.options,
            is_parked_if_unknown=is_parked_if_unknown,
            limits=_limits(callee, args, kwargs),
            parents=callee.parents,
        ),
        max_payload,
    )


def _limits(callee: _Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    options = callee.options
    if options.lock is None and options.concurrency is None and options.rate is None:
        return None
    function = task_registry.get_task(callee.task) if isinstance(callee.task, str) else callee.task
    return limits(callee.name, options, function, args, kwargs)


def _callee(task: str | Callable[..., Any], options: JobOptions, defaults: JobOptions) -> _Callee:
    name, target, is_async, options = _resolve(task, options)
    options = with_path(options.over(defaults))
    return _Callee(task, name, target, Lane.ASYNC if is_async else Lane.SYNC, options, parents(options))


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


# ---- results


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
