"""One call of a task, or one command: its states, and what each of them may become.

Runs in: every process.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, NamedTuple

from .options import NO_OPTIONS, JobOptions

if TYPE_CHECKING:
    from .tasks.models import TaskStatus


class State(StrEnum):
    """Where a job is in its life."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    BLOCKED = "blocked"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


#: From each state, the states a job may go to next. schema.sql guards the terminal ones by trigger.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.SCHEDULED: frozenset({State.QUEUED, State.BLOCKED, State.CANCELLED, State.EXPIRED}),
    State.QUEUED: frozenset({State.RUNNING, State.SCHEDULED, State.BLOCKED, State.CANCELLED, State.EXPIRED}),
    State.BLOCKED: frozenset({State.QUEUED, State.SCHEDULED, State.CANCELLED, State.EXPIRED}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.QUEUED, State.SCHEDULED, State.BLOCKED}
    ),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset({State.QUEUED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.EXPIRED: frozenset({State.QUEUED}),
}

#: The states a job does not leave by itself.
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})
ACTIVE = frozenset(set(State) - TERMINAL)


class Lane(IntEnum):
    """Which kind of worker runs a job."""

    SYNC = 0
    ASYNC = 1


class Kind(StrEnum):
    """What a job's payload is."""

    CALL = "call"
    COMMAND = "command"


#: A worker death is blamed on the job that was running. After so many the job is not tried again.
POISON_DEATHS = 3


class Command(NamedTuple):
    """A program and its arguments, or a line for the shell."""

    argv: list[str] | None
    shell: str | None
    cwd: str
    script: str | None = None
    #: The text of a program; `argv` begins with its name.
    stdin: str | None = None
    #: The path of a file that it reads; None for nothing.
    input: str | None = None
    #: What it reads, where that came along.

    @property
    def text(self) -> str:
        """The command as a person would type it."""
        if self.shell is not None:
            return self.shell
        from shlex import join  # for those who show it, not for those who submit it

        return join(self.argv or [])


class Parent(NamedTuple):
    """A job that another one waits for."""

    number: int
    kind: str
    #: How it has to end: `success`, `any`, or `failure`.
    is_inside: bool = False
    #: Whether *number* is a position among the jobs that are submitted together (True), or an id.


class NewJob(NamedTuple):
    """What a submitter stores. Built by the producer, written by the store."""

    kind: Kind
    task: str
    payload: bytes
    checksum: int
    target: bytes | None = None
    #: Where the function is found when no name leads to it; see serialization.
    lane: Lane = Lane.SYNC
    options: JobOptions = NO_OPTIONS
    is_parked_if_unknown: bool = True
    #: What becomes of a name that no worker knows: the job waits for one (True) or fails (False).
    environment: bytes | None = None
    #: A command's environment, stored once for all jobs that share it.
    limits: str | None = None
    #: See `limits_of` in limits.py.
    parents: tuple[Parent, ...] = ()
    #: The jobs it waits for.
    inputs: tuple[Parent, ...] = ()
    #: Those whose results are its first argument,
    is_one_input: bool = False
    #: as one value (True), or as a list (False).
    scheduled_for: float | None = None
    #: The tick of the schedule that makes it.

    @property
    def is_plain(self) -> bool:
        """Whether nothing has to be looked up in the file before it is stored."""
        return not self.parents and not (self.options.unique or self.options.idempotency_key)

    @property
    def is_due_at_once(self) -> bool:
        """Whether nothing but a free worker is missing for it to begin."""
        options = self.options
        return not (self.parents or options.hold or options.delay or options.eta or options.debounce)


class Claimed(NamedTuple):
    """A job as its worker needs it."""

    id: int
    claim: int
    #: The fence: counts the claims of this job. A result is accepted only for the claim that is running.
    attempt: int
    failures: int
    kind: str
    task: str
    target: bytes | None
    payload: bytes
    checksum: int
    timeout: float | None
    retries: int | None
    retry_delay: float | None
    on_lost: str | None
    #: None of these four where nobody said; see `over`.
    policy: str | None
    #: See `Policy.read`.
    park: int
    queue: str
    environment: int | None
    is_told: int
    #: Whether somebody listens for its end, and its result is wanted as JSON.
    limits: str | None = None
    inputs: str | None = None
    #: JSON: the id of the job whose result is its first argument, or a list of them.
    scheduled_for: float | None = None
    #: The tick of the schedule that made it.

    @property
    def has_limits(self) -> bool:
        """Whether the job itself is under limits: `[]` stands for those of its queue alone."""
        return self.limits is not None and self.limits != "[]"

    def over(self, options: JobOptions) -> Claimed:
        """This job with a task's options where its submitter, who may not have known the task, said nothing."""
        if options is NO_OPTIONS:
            return self
        return self._replace(
            timeout=options.timeout if self.timeout is None else self.timeout,
            retries=options.retries if self.retries is None else self.retries,
            retry_delay=options.retry_delay if self.retry_delay is None else self.retry_delay,
            on_lost=options.on_lost if self.on_lost is None else self.on_lost,
            policy=options.policy() if self.policy is None else self.policy,
        )


class Failure(NamedTuple):
    """Why an attempt did not succeed, as text that is safe to store."""

    reason: str
    #: One short phrase for lists: `ValueError`, `exit 3`, `timed out after 2.0s`.
    error: str
    error_type: str | None = None
    traceback: str | None = None
    is_final: bool = False
    #: True when trying again cannot help.
    is_timeout: bool = False
    is_cancel: bool = False
    #: The task itself asked that its job be cancelled.
    retry_after: float | None = None
    #: The task itself asked to be tried again after so many seconds.


class Outcome(NamedTuple):
    """How one attempt ended: with a result, an exit code, or a failure."""

    job: Claimed
    started_at: float
    finished_at: float
    result: bytes | None = None
    told: str | None = None
    #: The result for listeners, where there may be any.
    failure: Failure | None = None
    exit_code: int | None = None
    signal: int | None = None


class Job(NamedTuple):
    """One row, without its payload and result."""

    id: int
    state: State
    reason: str | None
    #: Why it is in this state, for a person: `exit 3`, `lost: worker died, signal 9`, `no worker knows task X`.
    kind: Kind
    task: str
    name: str | None
    tags: str | None
    #: A JSON object of texts.
    queue: str
    priority: int
    created_at: float
    due_at: float | None
    started_at: float | None
    finished_at: float | None
    #: Unix seconds, all four.
    attempt: int
    #: Tries so far, counting the one now running. Goes up when the job is claimed, so a crash counts.
    failures: int
    retries: int | None
    timeout: float | None
    expires_at: float | None
    worker: int | None
    worker_pid: int | None
    cancel: str | None
    #: Why somebody asked for its end while it ran.
    unique_key: str | None
    idempotency_key: str | None
    limits: str | None
    exit_code: int | None
    signal: int | None
    error_type: str | None
    error: str | None
    traceback: str | None

    @property
    def tries(self) -> int:
        """How many attempts it may have, counting from the first."""
        return 1 + (self.retries or 0)

    @property
    def has_ended(self) -> bool:
        return self.state in TERMINAL


class Attempt(NamedTuple):
    """One try of a job, and how it ended."""

    number: int
    outcome: str
    #: `running`, `succeeded`, `failed`, `timed out`, `lost`, `interrupted`, `cancelled`.
    started_at: float | None
    finished_at: float | None
    reason: str | None
    error_type: str | None
    error: str | None
    traceback: str | None
    exit_code: int | None
    signal: int | None
    worker_pid: int | None


class Progress(NamedTuple):
    """How far a job says it is."""

    done: float
    total: float | None
    note: str | None
    at: float
    #: Unix seconds.


def task_status(state: State, attempt: int) -> TaskStatus:
    """A job's state in FastWorker's words."""
    from .tasks.models import TaskStatus

    if state is State.SCHEDULED and attempt:
        return TaskStatus.RETRYING
    return TaskStatus(_TASK_STATUS.get(state, state))


#: Where FastWorker has another word.
_TASK_STATUS = {
    State.BLOCKED: "pending",
    State.SUCCEEDED: "success",
    State.FAILED: "failure",
    State.EXPIRED: "failure",
}


def utc(moment: float | None) -> datetime | None:
    """Unix seconds as an aware datetime in UTC."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC)
