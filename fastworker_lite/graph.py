"""Calls that are submitted together, some of which wait for others: chains, groups and chords.

Runs in: every process that submits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .calls import build_call
from .errors import ConfigError
from .job import NewJob, Parent
from .options import NO_OPTIONS, JobOptions
from .settings import Config

#: The options that name parents, and how these have to end.
_KINDS = {"after": "success", "after_any": "any", "after_failure": "failure"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Call:
    """A call of a task that is not yet submitted. Made by `call`."""

    task: str | Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    job_options: JobOptions = NO_OPTIONS
    parents: tuple[tuple[Call, str], ...] = field(default=())
    #: Other calls of the same submission that it waits for, and how they have to end.
    inputs: tuple[Call, ...] = ()
    #: Those whose results come first among its arguments:
    is_one_input: bool = False
    #: as one value (True), or as a list (False).

    def options(self, **options: Any) -> Call:
        """The same call with these options, see `JobOptions`. `after` and its kin take other calls, too."""
        parents = list(self.parents)
        given = dict(options)
        for name in _KINDS.keys() & given.keys():
            value = given[name]
            named = value if isinstance(value, (list, tuple)) else [value]
            parents += [(one, _KINDS[name]) for one in named if isinstance(one, Call)]
            given[name] = [one for one in named if not isinstance(one, Call)] or None
        return replace(self, job_options=JobOptions.parse(given).over(self.job_options), parents=tuple(parents))


def call(task: str | Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call:
    """A call of *task* for `chain`, `group`, `chord` and `submit_calls`: `call(resize, "a.png", width=100)`.

    `call(...).options(queue="io", retries=3)` gives it options.
    """
    return Call(task=task, args=args, kwargs=kwargs)


def chained(calls: Sequence[Call]) -> list[Call]:
    """Each call waits for the one before it to succeed, and gets its result as its first argument."""
    steps: list[Call] = []
    for one in _checked(calls, "a chain"):
        before = steps[-1:]
        parents = (*one.parents, *((step, "success") for step in before))
        steps.append(replace(one, parents=parents, inputs=tuple(before), is_one_input=True))
    return steps


def joined(calls: Sequence[Call], callback: Call) -> list[Call]:
    """The calls, and last the callback, which waits for all of them to succeed and gets the list of their results."""
    members = _checked(calls, "a chord")
    [last] = _checked([callback], "a chord's callback")
    parents = (*last.parents, *((member, "success") for member in members))
    return [*members, replace(last, parents=parents, inputs=tuple(members))]


def _checked(calls: Sequence[Call], what: str) -> list[Call]:
    found = list(calls)
    if not found or not all(isinstance(one, Call) for one in found):
        raise ConfigError(f"{what} takes calls, made by call(task, argument, ...), and at least one; got {calls!r:.80}")
    return found


def build_calls(calls: Sequence[Call], config: Config) -> list[NewJob]:
    """The calls ready to be stored together, all or none.

    Raises `ConfigError` for a call that waits for one that does not stand before it: so no circle can be made.
    """
    position: dict[int, int] = {}
    built = []
    for number, one in enumerate(_checked(calls, "submit_calls")):
        job = build_call(
            one.task, one.args, one.kwargs, one.job_options, defaults=config.job, max_payload=config.max_payload
        )
        parents = [Parent(_position(position, parent, number), kind, is_inside=True) for parent, kind in one.parents]
        inputs = tuple(Parent(_position(position, parent, number), "success", is_inside=True) for parent in one.inputs)
        built.append(job._replace(parents=(*job.parents, *parents), inputs=inputs, is_one_input=one.is_one_input))
        position[id(one)] = number
    return built


def _position(position: dict[int, int], parent: Call, number: int) -> int:
    if id(parent) not in position:
        raise ConfigError(f"call {number} waits for a call that does not stand before it in the same submission")
    return position[id(parent)]
