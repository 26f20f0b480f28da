"""The tasks this process knows by name.

Runs in: every process.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ..errors import ConfigError
from ..options import JobOptions

if TYPE_CHECKING:
    from ..schedule import Schedule

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A function with the name it is called by and the options of its jobs."""

    name: str
    function: Callable[..., Any]
    options: JobOptions
    before: Callable[..., Any] | None = None
    #: Called in the worker with the task's arguments, before the task.
    after: Callable[..., Any] | None = None
    #: Called in the worker with the task's result, after it succeeded.
    schedule: Schedule | None = None
    #: When it is called by the clock, without arguments.

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)


class TaskRegistry:
    """Names and the tasks behind them."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._by_function: dict[Callable[..., Any], Task] = {}

    def register(self, function: Callable[..., Any], name: str | None = None, **declared: Any) -> Task:
        """Make *function* callable as *name* (its own name by default). The last registration of a name wins.

        Raises `ConfigError` for an option that does not exist, and for a schedule that cannot be.
        """
        if not callable(function):
            raise ConfigError(f"a task must be a function, got {function!r}")
        from ..schedule import FIELDS

        before, after = declared.pop("before", None), declared.pop("after", None)
        when = {key: declared.pop(key) for key in FIELDS.intersection(declared)}
        task = Task(
            name=name or function.__name__,
            function=function,
            options=JobOptions.parse_for_tasks(declared),
            before=before,
            after=after,
            schedule=_schedule(function, when) if when else None,
        )
        known = self._tasks.get(task.name)
        if known is not None and not _is_same_definition(known.function, function):
            warnings.warn(f'task "{task.name}" was registered twice; the last one wins', stacklevel=4)
        self._tasks[task.name] = task
        self._by_function[function] = task
        return task

    def get(self, name: str) -> Task | None:
        """The task of this name, or None."""
        return self._tasks.get(name)

    def get_task(self, name: str) -> Callable[..., Any] | None:
        """The function registered under this name, or None."""
        task = self._tasks.get(name)
        return task.function if task else None

    def find(self, function: Callable[..., Any]) -> Task | None:
        """The task that was declared with this very function, or None."""
        try:
            return self._by_function.get(function)
        except TypeError:  # not hashable, so never registered
            return None

    def list_tasks(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._tasks)

    def tasks(self) -> list[Task]:
        """The known tasks, in the order of their registration."""
        return list(self._tasks.values())


def _schedule(function: Callable[..., Any], when: dict[str, Any]) -> Schedule:
    from ..schedule import Schedule

    schedule = Schedule.parse(when)
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise ConfigError(f"a task with a schedule is called without arguments: {error}") from None
    except ValueError:  # a built-in function, which has no signature to look at
        pass
    return schedule


def _is_same_definition(old: Callable[..., Any], new: Callable[..., Any]) -> bool:
    """A module that was loaded again registers the same functions again; that is no surprise to anybody."""
    return (old.__module__, getattr(old, "__qualname__", None)) == (
        new.__module__,
        getattr(new, "__qualname__", None),
    ) and (getattr(old, "__code__", None) == getattr(new, "__code__", None))


#: The registry of this process. `@task` adds to it.
task_registry = TaskRegistry()


@overload
def task(function: F, /) -> F: ...
@overload
def task(name: str | None = None, /, **declared: Any) -> Callable[[F], F]: ...
def task(function: Any = None, /, **declared: Any) -> Any:
    """Declare a function as a task: `@task`, `@task()`, `@task("name")` or `@task(name=…, priority=…, retries=…)`.

    Returns the function itself, which can still be called directly. `before=` is called in the worker with the task's
    arguments, `after=` with its result. `cron="0 9 * * MON"` (with `timezone=`) or `repeat_interval=` seconds have it
    called by the clock, without arguments, by a runner that knows it; see `Schedule` for what else there is. The other
    keywords are the defaults of the task's jobs; see `JobOptions`.
    """
    if callable(function):
        task_registry.register(function, **declared)
        return function
    name = declared.pop("name", function)
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigError(f"a task's name must be a non-empty string, got {name!r}")

    def declare(function: F) -> F:
        task_registry.register(function, name, **declared)
        return function

    return declare
