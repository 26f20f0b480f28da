"""The settings, and the default of each. fastworker.toml.example shows them all.

Runs in: every process.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from .options import NO_OPTIONS, JobOptions


class Callbacks(NamedTuple):
    """How long events wait for a listener that does not answer."""

    max_age: float = 604_800.0
    #: Seconds after which one is tried no more.
    max_events: int = 100_000
    #: For one address; the oldest of more are tried no more.


class CronSetting(NamedTuple):
    """A table [cron.NAME], as it was written; declarations.py reads it."""

    name: str
    table: dict[str, Any]


class ListenerSetting(NamedTuple):
    """A listener that is registered by whoever runs jobs."""

    name: str
    address: str
    task: str
    queue: str | None
    on: tuple[str, ...]


class QueueSetting(NamedTuple):
    """Limits of a queue that whoever runs jobs sets when it starts."""

    name: str
    limits: tuple[tuple[str, int | str], ...]
    #: Of `workers`, `max_length` and `rate`, those that were given.


class Keep(NamedTuple):
    """How long jobs that have ended are kept, with their results and logs."""

    succeeded: float = 604_800.0
    failed: float = 2_592_000.0
    cancelled: float = 2_592_000.0
    expired: float = 2_592_000.0
    #: Seconds, all four.
    results: float | None = None
    #: Seconds after which a result is dropped although the job is kept; None for as long as the job.
    jobs: int = 1_000_000
    #: Ended jobs that are kept at most; the oldest of more go.


class Hooks(NamedTuple):
    """What is run when jobs end. Commands are argument lists; they get the job in their environment and as JSON on stdin."""

    on_success: tuple[str, ...] = ()
    on_failure: tuple[str, ...] = ()
    on_recovered: tuple[str, ...] = ()
    #: After the first success of a task that had failed.
    ping: str = ""
    #: A URL; `/0` or `/1` is added to it and it is posted to, as healthchecks.io has it.
    desktop: bool = False
    #: Whether a failure shows a notice on the desktop.
    timeout: float = 30.0
    #: Seconds that each of them may take.

    @property
    def is_wanted(self) -> bool:
        return bool(self.on_success or self.on_failure or self.on_recovered or self.ping or self.desktop)


class Config(NamedTuple):
    """Every setting, with its default."""

    db: str | None = None
    #: The database, relative to the file this was read from. `database_path` says what None means.
    workers: int = 0
    #: Worker processes; 0 is one for each core. See `worker_count`.
    queues: tuple[str, ...] | None = None
    #: The queues the workers serve, None for all.
    tasks: tuple[str, ...] = ()
    #: Modules the workers import, so that they know the tasks declared there.
    python: str | None = None
    #: The Python that tasks run in, a program or a virtual environment's folder; None for the one of the runner.
    durability: str | None = None
    #: "full" or "normal", None for what the file says; a new one says "full".
    stop_timeout: float = 30.0
    #: Seconds that running jobs may go on once a runner was asked to stop.
    kill_grace: float = 5.0
    #: Seconds between asking a process to end and killing it.
    max_payload: int = 1_048_576
    #: Bytes the arguments of one call may take.
    max_result: int = 16_777_216
    #: Bytes the result of one job may take.
    max_coroutines: int = 1000
    #: Async jobs that one worker process runs at a time.
    max_log: int = 10_485_760
    #: Bytes kept of what one attempt prints to stdout, and as many of stderr: the first MiB, and the last ones.
    max_jobs_per_worker: int = 0
    #: Jobs after which a worker process is replaced; 0 for never.
    max_memory_per_worker: int = 0
    #: Bytes above which a worker process is replaced once its job has ended; 0 for no limit.
    autostart: str = "tty"
    #: When `fwl submit` starts a worker where there is none: "tty" at a terminal, "never", or "always".
    idle_exit: float = 60.0
    #: Seconds without anything to do after which that worker ends.
    callbacks: Callbacks = Callbacks()
    #: How long what is to be told waits for who is to be told.
    listener: tuple[ListenerSetting, ...] = ()
    #: Who is told of ended jobs, beside those that register themselves.
    queue: tuple[QueueSetting, ...] = ()
    #: Limits of single queues.
    keep: Keep = Keep()
    #: How long jobs that have ended are kept.
    hooks: Hooks = Hooks()
    #: What is run when jobs end.
    cron: tuple[CronSetting, ...] = ()
    #: What makes jobs by the clock.
    job: JobOptions = NO_OPTIONS
    #: The options of jobs where neither they nor their tasks say anything.
    timeout: float = 30.0
    #: Seconds that `submit_task` waits for a result.
    path: str | None = None
    #: The file this was read from, None for none. Not a setting.

    @property
    def worker_count(self) -> int:
        """How many worker processes to run, the cores counted now."""
        return self.workers or os.cpu_count() or 1
