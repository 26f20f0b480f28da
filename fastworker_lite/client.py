"""The producer's side with asyncio: FastWorker's client, and the native calls.

Runs in: the application's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from . import calls, changing, declarations, producer, queueing, registration, relay, schedules
from . import config as configuration
from .endings import close_when_main_thread_ends
from .errors import ConfigError, FastWorkerError, ForkedError, JobNotFound
from .events import events_of
from .graph import Call, build_calls, chained, joined
from .handles import GroupHandle, JobHandle
from .job import NewJob, State, task_status
from .options import JobOptions, parse_priority_name, parse_queue
from .paths import SidePaths
from .producer import Submission
from .results import ResultWaiter
from .runner import Runner, serving_runner
from .settings import Config
from .sockets import Waker
from .store import events as event_store
from .store import listeners as listener_store
from .store import queries, relays
from .store import queues as queue_store
from .store import schedules as schedule_store
from .store.bridge import AsyncConnection, SharedCommit
from .store.connection import Connection
from .store.listeners import ENDS, Listener
from .store.queries import Ended
from .store.queues import Queue
from .store.submitting import Stored
from .tasks.models import CallbackInfo, TaskPriority, TaskResult, TaskStatus

P = ParamSpec("P")
R = TypeVar("R")

Priority = TaskPriority | str
_RUNNER = ("auto", "never", "own")


class Client:
    """Submits tasks to a database file and awaits their results.

    `Client()` uses the database that the command line would; `Client("jobs.db")` that file. *runner* says who executes:
    "auto" starts a runner in this process unless another process serves the file already, and takes over when that one
    ends; "own" always starts one; "never" only submits. *workers* is how many worker processes it has (default: one
    for each core). *timeout* is how many seconds `submit_task` waits. May be used from any event loop of its process.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        workers: int | None = None,
        runner: str = "auto",
        timeout: float | None = None,
        retries: int = 3,
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        if runner not in _RUNNER:
            raise ConfigError(f'runner must be "auto", "never" or "own", got {runner!r}')
        base = config or (configuration.load() if database is None else Config())
        given = {"workers": workers, "timeout": timeout} | settings
        self.config = configuration.with_overrides(
            base, **{key: value for key, value in given.items() if value is not None}
        )
        flag = None if database is None else os.fspath(database)
        self.database = os.path.abspath(configuration.database_path(flag, self.config))
        self.timeout = self.config.timeout
        self.retries = retries  # FastWorker's attribute, without effect: see the task's own option
        self._role = runner
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._waker = Waker()
        self._connection: AsyncConnection | None = None
        self._reader: Connection | None = None
        self._waiters: list[ResultWaiter] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _submitter, (type(self), self.database)

    # ---- life

    async def start(self) -> None:
        """Open the database, creating it, and start a runner unless one serves it. Workers start meanwhile."""
        self._check_process()
        await self._open()
        if self._role != "never" and self._runner is None:
            is_served = self._role == "auto" and await asyncio.to_thread(serving_runner, self.database) is not None
            self._runner = Runner(self.database, self.config, is_standby=is_served)
            await asyncio.to_thread(self._runner.start)

    async def _open(self) -> AsyncConnection:
        self._check_process()
        with self._lock:
            connection, is_new = self._connection, self._connection is None
            if connection is None:
                connection = AsyncConnection(self.database, durability=self.config.durability)
                self._connection = connection
                self._opening: asyncio.Task[None] = asyncio.get_running_loop().create_task(connection.open())
                self._commits: SharedCommit[Submission, Stored] = SharedCommit(connection, self._submit_together)
        if is_new or not self._opening.done():
            try:
                await asyncio.shield(self._opening)
            except BaseException:
                if self._opening.done():
                    self._connection = None
                raise
        if is_new:
            close_when_main_thread_ends(self)
        return connection

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError

    def stop(self) -> None:
        """Have the runner stop: what runs may finish, nothing new begins. Returns at once; `aclose` waits."""
        self._check_process()
        if self._runner is not None:
            self._runner.stop()
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close_soon()
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._waker.close()

    def close_at_end(self) -> None:
        if os.getpid() == self._pid and self._connection is not None:
            self._connection.close_soon()

    async def aclose(self) -> None:
        """Stop, and wait until the running tasks have ended and everything is closed."""
        self._check_process()
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop()
            await asyncio.to_thread(runner.join)
        connection, self._connection = self._connection, None
        if connection is not None:
            for waiter in self._waiters:
                with contextlib.suppress(Exception):
                    await waiter.close()
            self._waiters.clear()
            await connection.close()
        self.stop()

    async def __aenter__(self) -> Client:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # ---- FastWorker's calls

    async def submit_task(
        self,
        task_name: str | Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        priority: Priority = TaskPriority.NORMAL,
        eta: datetime | None = None,
        countdown: float | None = None,
        timeout: float | None = None,
        callback: CallbackInfo | str | None = None,
    ) -> TaskResult:
        """Run a task and return how it ended; never raises for the task's own failure.

        After *timeout* seconds (the client's by default) the result is a failure that says `timed out`; the task goes on.
        Raises `ConfigError` or `SerializationError` before anything is stored when the call itself is wrong.
        """
        job = self._compat_job(task_name, args, kwargs, priority, eta, countdown, _callback(callback))
        connection = await self._open()
        waiter = self._waiter(connection)
        pokes = waiter.pokes
        (job_id,) = (await self._commits.submit(Submission([job], waiter.address))).ids
        seconds = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                ended = await waiter.wait(job_id, stored_at=pokes)
        except TimeoutError:
            return TaskResult(
                task_id=str(job_id),
                status=TaskStatus.FAILURE,
                error=f"Task timed out after {seconds:g} seconds of waiting; it goes on, ask for its result later",
                error_type="TimeoutError",
            )
        return calls.task_result(ended)

    async def delay(
        self,
        task_name: str | Callable[..., Any],
        /,
        *args: Any,
        priority: Priority = TaskPriority.NORMAL,
        eta: datetime | None = None,
        countdown: float | None = None,
        **kwargs: Any,
    ) -> str:
        """Store a call of a task and return its id. It is on disk when this returns."""
        job = self._compat_job(task_name, args, kwargs, priority, eta, countdown)
        await self._open()
        (job_id,) = (await self._commits.submit(Submission([job]))).ids
        return str(job_id)

    async def delay_with_callback(
        self,
        task_name: str | Callable[..., Any],
        /,
        callback_address: str,
        *args: Any,
        callback_data: Any = None,
        priority: Priority = TaskPriority.NORMAL,
        eta: datetime | None = None,
        countdown: float | None = None,
        **kwargs: Any,
    ) -> str:
        """As `delay`; whoever listens at *callback_address* is told how the task ended, with *callback_data* (JSON).

        The address is `unix:///path.sock` or another spelling of a Unix socket; see `CallbackListener`. He is told at
        least once, however the task ended, even if nobody listens there yet.
        """
        callback = {"callback": callback_address, "callback_data": callback_data}
        job = self._compat_job(task_name, args, kwargs, priority, eta, countdown, callback)
        await self._open()
        (job_id,) = (await self._commits.submit(Submission([job]))).ids
        return str(job_id)

    async def submit_batch(
        self, tasks: Sequence[Mapping[str, Any]], default_priority: Priority = TaskPriority.NORMAL
    ) -> list[str]:
        """Store many calls, all or none, and return their ids in order.

        Each is a mapping with "task_name" and, if wanted, "args", "kwargs", "priority".
        """
        built = []
        for number, entry in enumerate(tasks):
            unknown = set(entry) - {"task_name", "args", "kwargs", "priority"}
            if "task_name" not in entry or unknown:
                raise ConfigError(
                    f"entry {number} of the batch must have task_name and may have args, kwargs, priority; "
                    + (f"it has {sorted(unknown)}" if unknown else "task_name is missing")
                )
            priority = entry.get("priority", default_priority)
            built.append(
                self._compat_job(entry["task_name"], entry.get("args", ()), entry.get("kwargs"), priority, None, None)
            )
        if not built:
            return []
        await self._open()
        return [str(job_id) for job_id in (await self._commits.submit(Submission(built))).ids]

    async def cancel_task(self, task_id: str) -> bool:
        """Cancel a task. True once it has ended as cancelled; False when it ended otherwise first, or is unknown.

        One that has not begun never will. One that runs is asked to end, and killed after its `kill_grace`; this waits
        until it is gone.
        """
        number = producer.parse_id(task_id)
        if number is None:
            return False
        connection = await self._open()
        try:
            found = await connection.run(changing.cancel, self._waker, number)
            if found == "running":
                return (await self._wait(number)).job.state is State.CANCELLED
        except JobNotFound:
            return False
        return found in changing.UNBEGUN

    async def get_task_result(self, task_id: str) -> TaskResult | None:
        """How a task ended; None while it has not, for unknown ids, and when the record has expired."""
        number = producer.parse_id(task_id)
        if number is None:
            return None
        connection = await self._open()
        found = await connection.read(queries.result, number)
        return calls.task_result(found) if found is not None and found.job.has_ended else None

    def get_status(self, task_id: str) -> TaskStatus | None:
        """Where a task is now, read from the file; None for an unknown id."""
        number = producer.parse_id(task_id)
        job = None if number is None else self._read(queries.get, number)
        return None if job is None else task_status(job.state, job.attempt)

    def get_result(self, task_id: str) -> TaskResult | None:
        """As `get_task_result`, without awaiting."""
        number = producer.parse_id(task_id)
        found = None if number is None else self._read(queries.result, number)
        return calls.task_result(found) if found is not None and found.job.has_ended else None

    def _read(self, work: Callable[..., Any], number: int) -> Any:
        self._check_process()
        with self._lock:
            if self._reader is None:
                self._reader = Connection(self.database, blocks_signals=True)
            return self._reader.read(work, number)

    def _compat_job(
        self,
        task_name: str | Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        priority: Priority,
        eta: datetime | None,
        countdown: float | None,
        callback: dict[str, Any] | None = None,
    ) -> NewJob:
        if not isinstance(args, (tuple, list)):
            raise ConfigError(f"args must be a tuple or a list of the task's arguments, got {args!r:.80}")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise ConfigError(f"kwargs must be a mapping of the task's keyword arguments, got {kwargs!r:.80}")
        if any(not isinstance(name, str) for name in kwargs or ()):
            raise ConfigError("kwargs must have strings for keys")
        given = {"priority": parse_priority_name(priority), "eta": eta, "delay": countdown}
        options = JobOptions.parse(given | (callback or {}))
        return calls.build_call(
            task_name, args, dict(kwargs or {}), options,
            defaults=self.config.job, max_payload=self.config.max_payload, is_parked_if_unknown=False,
        )  # fmt: skip

    # ---- listeners

    async def register_listener(
        self,
        address: str,
        task: str = "*",
        queue: str | None = None,
        on: Sequence[str] = ENDS,
        name: str | None = None,
    ) -> str:
        """Have whoever listens at *address* told of every ended job whose task matches the pattern *task*.

        *on* says of which ends: "success", "failure", "cancelled". The registration stays until `unregister_listener`;
        one of the same *name* (the address by default) is changed. Returns the name.
        """
        listener = registration.new_listener(address, task, queue, on, name)
        return await (await self._open()).run(registration.register_listener, listener)

    async def listeners(self) -> list[Listener]:
        """Who is registered."""
        return await (await self._open()).read(listener_store.everybody)

    async def unregister_listener(self, name: str) -> bool:
        """Forget a listener, and what still waits for it. False when there is none of this name."""
        return await (await self._open()).write(listener_store.unregister, name)

    async def events(self, since: int | None = None, name: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """What happens to jobs, as it happens: `{"offset", "job_id", "event", "at", "task_name", "queue", "attempt", "reason"}`.

        *since* is the offset after which to begin; None is now. Events are written while somebody follows. With a
        *name* they go on being written when this ends, until `forget_events`, so that the same *since* finds them again.
        Without one, 0 begins with the last 1,000 changes that nobody followed, at offset 0: what the jobs still tell.
        """
        following = events_of(self.database, since=since, name=name)
        try:
            while True:
                event = await asyncio.to_thread(next, following, None)
                if event is not None:
                    yield event
        finally:
            await asyncio.to_thread(following.close)

    async def forget_events(self, name: str) -> bool:
        """Write no more events for the follower of this name. False when there is none."""
        return await (await self._open()).write(event_store.unfollow, name)

    # ---- schedules

    async def schedule(self, name: str, what: Callable[..., Any] | str | Sequence[str], **given: Any) -> None:
        """Have *what* run by the clock under this name, from now on: a function, the name of a task, or a command's words.

        *given* is `cron="0 9 * * MON"` (with `timezone="Europe/Berlin"`; the machine's by default) or `every=` seconds;
        `args` and `kwargs` of a call, `cwd`, `env` and `env_file` of a command; `overlap`, `catch_up` and the other fields
        of `Schedule`; and the options of the jobs. A schedule of the same name is changed. Runners of the file see to it.
        Raises `ConfigError` naming what is wrong; nothing is stored then.
        """
        new = declarations.from_call(name, what, given, self.config)
        await (await self._open()).run(schedules.put_own, self._waker, new)

    async def schedules(self) -> list[schedules.Status]:
        """All schedules of the file, and how they are doing."""
        return await (await self._open()).read(schedules.status)

    async def unschedule(self, name: str) -> bool:
        """Forget a schedule; jobs that it has made stay. False when there is none of this name.

        One that a task or the configuration declares comes back with the next runner.
        """
        return await (await self._open()).write(schedule_store.remove, name)

    # ---- the native calls

    async def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """Store a call of *fn* to be run by a worker, and return a handle to it.

        The job is on disk when this returns: neither a crash of this process nor a power cut loses it. It may run more
        than once if a worker dies during an attempt, so *fn* should be idempotent.
        Raises `SerializationError` if the call cannot be pickled; nothing is stored then.
        """
        return await self.options().submit(fn, *args, **kwargs)

    def options(self, **options: Any) -> BoundOptions:
        """How the next submits are to be run; see `JobOptions` for what there is: `queue`, `priority`, `delay`, `retries`…

        Durations are seconds or `timedelta`. Raises `ConfigError` for an unknown option or a wrong value.
        """
        return BoundOptions(self, JobOptions.parse(options))

    async def map(self, fn: Callable[[Any], R], items: Iterable[Any]) -> list[JobHandle[R]]:
        """Store a call of *fn* for each of *items*, all or none, and return their handles in order."""
        return await self.options().map(fn, items)

    async def as_completed(self, handles: Iterable[JobHandle[R]]) -> AsyncIterator[JobHandle[R]]:
        """The handles, each as soon as its job has ended."""
        waiting = {asyncio.ensure_future(self._wait(handle.number)): handle for handle in handles}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    future.result()
                    yield waiting.pop(future)
        finally:
            for future in waiting:
                future.cancel()

    def handle(self, job_id: str | int) -> JobHandle[Any]:
        """A handle to a job that was submitted earlier. Raises `JobNotFound` for what cannot be an id."""
        number = producer.parse_id(job_id)
        if number is None:
            raise JobNotFound(str(job_id))
        return JobHandle(self, number)

    # ---- queues

    async def queues(self) -> list[Queue]:
        """Every queue with its settings and how many jobs it has. A queue is made by the first job that names it."""
        return await (await self._open()).read(queue_store.everybody)

    async def set_queue(self, name: str, **settings: Any) -> None:
        """Set `workers` (so many of its jobs run at a time), `max_length` (so many may be queued) and `rate` ("10/s").

        None takes a limit away. They stay until they are set anew; those of the runner's configuration come back with it.
        """
        await self._change_queue(name, queueing.queue_settings(settings))

    async def pause_queue(self, name: str) -> None:
        """Begin no more of this queue's jobs, until `resume_queue`; what runs goes on. Stays so over restarts."""
        await self._change_queue(name, {"paused": 1})

    async def resume_queue(self, name: str) -> None:
        """Begin this queue's jobs again."""
        await self._change_queue(name, {"paused": 0})

    async def _change_queue(self, name: str, settings: dict[str, int | str | None]) -> None:
        await (await self._open()).run(queueing.change_queue, self._waker, parse_queue(name), settings)

    async def remove_queue(self, name: str) -> bool:
        """Forget a queue and its settings. False when there is none, or while jobs of it have not ended."""
        return await (await self._open()).write(queue_store.remove, name) == 0

    # ---- calls that wait for each other

    async def submit_in(self, connection: Any, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Submit a call within a transaction of *connection*, to the application's own SQLite database.

        There is a job once that transaction has committed, exactly one, and none if it rolls back: a runner brings it over.
        *connection* is one of `sqlite3` or `aiosqlite`, to a file. Returns a key: `find` leads to the job.
        """
        return await self.options().submit_in(connection, fn, *args, **kwargs)

    async def find(self, key: str) -> JobHandle[Any] | None:
        """The job that was submitted with this idempotency key, or by `submit_in`; None while there is none."""
        number = await (await self._open()).read(relays.find, key)
        return None if number is None else JobHandle(self, number)

    async def submit_calls(self, calls: Sequence[Call]) -> list[JobHandle[Any]]:
        """Store calls, see `call`, all or none, in one transaction. One may wait for those before it: `options(after=other)`."""
        stored = await self._store(build_calls(calls, self.config))
        return [JobHandle(self, number, created=number not in stored.existing) for number in stored.ids]

    async def chain(self, *calls: Call) -> JobHandle[Any]:
        """Store calls that run one after another, each with the result of the one before as its first argument.

        Returns the handle of the last; its `parents` are those of the others. When one fails, the rest is cancelled.
        """
        *steps, last = await self.submit_calls(chained(calls))
        last.parents = GroupHandle(steps)
        return last

    async def group(self, calls: Sequence[Call]) -> GroupHandle:
        """Store calls that have nothing to do with each other, and return one handle to them all."""
        return GroupHandle(await self.submit_calls(calls))

    async def chord(self, calls: Sequence[Call], callback: Call) -> JobHandle[Any]:
        """Store calls, and *callback*, which runs once they all have succeeded, with the list of their results, in order.

        Returns the callback's handle; its `parents` are those of the calls.
        """
        *members, last = await self.submit_calls(joined(calls, callback))
        last.parents = GroupHandle(members)
        return last

    # ---- inside

    async def _store(self, jobs: list[NewJob]) -> Stored:
        await self._open()
        return await self._commits.submit(Submission(jobs))

    def _submit_together(
        self, connection: Connection, submissions: Sequence[Submission]
    ) -> list[Stored | FastWorkerError]:
        return producer.submit(connection, self._waker, submissions)

    def _waiter(self, connection: AsyncConnection) -> ResultWaiter:
        loop = asyncio.get_running_loop()
        with self._lock:
            for waiter in [waiter for waiter in self._waiters if not waiter.is_usable]:
                waiter.discard()  # its loop has ended: nobody waits there any more
                self._waiters.remove(waiter)
            for waiter in self._waiters:
                if waiter.loop is loop:
                    return waiter
            waiter = ResultWaiter(connection, SidePaths.of(self.database))
            self._waiters.append(waiter)
            return waiter

    async def _wait(self, number: int) -> Ended:
        connection = await self._open()
        found = await connection.read(queries.result, number)
        if found is None:
            raise JobNotFound(number)
        if found.job.has_ended:
            return found
        return await self._waiter(connection).wait(number, stored_at=None)

    async def _job(self, number: int) -> Any:
        connection = await self._open()
        return producer.job_or_raise(await connection.read(queries.get, number), number)


class BoundOptions:
    """A client together with the options of the jobs it submits. Never mixes with the function's own arguments."""

    def __init__(self, client: Client, options: JobOptions) -> None:
        self._client = client
        self._options = options

    async def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobHandle[R]:
        """As `Client.submit`, with these options."""
        stored = await self._client._store([self._build(fn, args, kwargs)])
        return JobHandle(self._client, stored.ids[0], created=not stored.existing)

    async def map(self, fn: Callable[[Any], R], items: Iterable[Any]) -> list[JobHandle[R]]:
        """As `Client.map`, with these options."""
        config = self._client.config
        built = calls.build_map(fn, items, self._options, defaults=config.job, max_payload=config.max_payload)
        if not built:
            return []
        stored = await self._client._store(built)
        return [JobHandle(self._client, one, created=one not in stored.existing) for one in stored.ids]

    async def submit_in(self, connection: Any, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> str:
        """As `Client.submit_in`, with these options."""
        row = relay.row_of(self._build(fn, args, kwargs))
        cursor = await _done(connection.execute("PRAGMA database_list"))
        path = relay.path_of(await _done(cursor.fetchall()))
        await _done(connection.execute(relay.TABLE))
        await _done(connection.execute(relay.INSERT, row))
        await (await self._client._open()).run(relay.announce, self._client._waker, path)
        return row[0]

    def _build(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewJob:
        config = self._client.config
        return calls.build_call(fn, args, kwargs, self._options, defaults=config.job, max_payload=config.max_payload)


async def _done(value: Any) -> Any:
    """What a call of `sqlite3` returned, or what one of `aiosqlite` will."""
    return await value if inspect.isawaitable(value) else value


def _callback(given: CallbackInfo | str | None) -> dict[str, Any]:
    if isinstance(given, CallbackInfo):
        return {"callback": given.address, "callback_data": given.data}
    return {"callback": given}


def _submitter(kind: type[Client], database: str) -> Client:
    return kind(database, runner="never")
