"""The client without asyncio, for scripts and desktop programs: the same functions, called directly.

Runs in: the application's process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from . import calls, declarations, producer, queueing, registration, relay, schedules
from . import config as configuration
from .dispatching import Dispatcher
from .errors import ConfigError, DatabaseGone, FastWorkerError, ForkedError, JobNotFound
from .events import events_of
from .graph import Call, build_calls, chained, joined
from .job import NewJob
from .options import JobOptions, parse_queue
from .paths import SidePaths
from .producer import Submission
from .runner import Runner, serving_runner
from .settings import Config
from .sockets import Waker
from .store import listeners, relays
from .store import queues as queue_store
from .store import schedules as schedule_store
from .store.connection import Connection
from .store.listeners import ENDS, Listener
from .store.queries import Ended
from .store.queues import Queue
from .store.submitting import Stored
from .sync_handles import SyncGroupHandle, SyncJobHandle
from .waiting import Waiter

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class SyncClient:
    """As `Client`, for code that does not await. May be shared between threads."""

    def __init__(
        self,
        database: str | os.PathLike[str] | None = None,
        *,
        workers: int | None = None,
        runner: str = "auto",
        config: Config | None = None,
        **settings: Any,
    ) -> None:
        if runner not in ("auto", "never", "own"):
            raise ConfigError(f'runner must be "auto", "never" or "own", got {runner!r}')
        base = config or (configuration.load() if database is None else Config())
        given = {"workers": workers} | settings
        self.config = configuration.with_overrides(
            base, **{key: value for key, value in given.items() if value is not None}
        )
        flag = None if database is None else os.fspath(database)
        self.database = os.path.abspath(configuration.database_path(flag, self.config))
        self._role = runner
        self._pid = os.getpid()
        self._waker = Waker()
        self._lock = threading.RLock()
        self._runner: Runner | None = None
        self._connection: Connection | None = None
        self._waiters: list[Waiter] = []
        #: Those that no thread is waiting on.
        self._dispatcher: Dispatcher | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _submitter, (type(self), self.database)

    def start(self) -> None:
        """Open the database, creating it, and start a runner unless one serves it. Workers start meanwhile."""
        self._call(_nothing)
        if self._role != "never" and self._runner is None:
            is_served = self._role == "auto" and serving_runner(self.database) is not None
            runner = Runner(self.database, self.config, is_standby=is_served)
            runner.start()
            self._runner = runner

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(connection, *args)`, one thread at a time. An interrupt waits until the file is let go."""
        if os.getpid() != self._pid:
            raise ForkedError
        with self._lock:
            if self._connection is None:
                self._connection = Connection(self.database, durability=self.config.durability, blocks_signals=True)
            return function(self._connection, *args)

    def _call_open(self, function: Callable[..., T], *args: Any) -> T:
        """As `_call`, for who may find that another thread has closed the file meanwhile."""
        with self._lock:
            if self._connection is None:
                raise DatabaseGone(f"{self.database} was closed")
            return self._call(function, *args)

    def close(self) -> None:
        """Stop the runner, wait until what runs has ended, and close the file."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop()
            runner.join()
        with self._lock:
            waiting: list[Waiter | Dispatcher] = [*self._waiters]
            if self._dispatcher is not None:
                waiting.append(self._dispatcher)
            self._waiters, self._dispatcher = [], None
            for one in waiting:
                with contextlib.suppress(FastWorkerError):  # rows that name it do no harm
                    one.close()
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
        self._waker.close()

    def __enter__(self) -> SyncClient:
        try:
            self.start()
        except BaseException:
            self.close()  # nobody else will
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[R]:
        """As `Client.submit`."""
        return self.options().submit(fn, *args, **kwargs)

    def options(self, **options: Any) -> SyncBoundOptions:
        """As `Client.options`."""
        return SyncBoundOptions(self, JobOptions.parse(options))

    def map(self, fn: Callable[[Any], R], items: Iterable[Any]) -> list[SyncJobHandle[R]]:
        """As `Client.map`."""
        return self.options().map(fn, items)

    def as_completed(self, handles: Iterable[SyncJobHandle[R]]) -> Iterator[SyncJobHandle[R]]:
        """The handles, each as soon as its job has ended."""
        waiting = {handle.number: handle for handle in handles}
        while waiting:
            for ended in self._wait_any(list(waiting), None):
                yield waiting.pop(ended.job.id)

    def handle(self, job_id: str | int) -> SyncJobHandle[Any]:
        """A handle to a job that was submitted earlier. Raises `JobNotFound` for what cannot be an id."""
        number = producer.parse_id(job_id)
        if number is None:
            raise JobNotFound(str(job_id))
        return SyncJobHandle(self, number)

    def events(self, since: int | None = None, name: str | None = None) -> Iterator[dict[str, Any]]:
        """As `Client.events`."""
        following = events_of(self.database, since=since, name=name)
        try:
            yield from (event for event in following if event is not None)
        finally:
            following.close()

    def register_listener(
        self,
        address: str,
        task: str = "*",
        queue: str | None = None,
        on: Sequence[str] = ENDS,
        name: str | None = None,
    ) -> str:
        """As `Client.register_listener`."""
        return self._call(registration.register_listener, registration.new_listener(address, task, queue, on, name))

    def listeners(self) -> list[Listener]:
        """Who is registered."""
        found: list[Listener] = self._call(Connection.read, listeners.everybody)
        return found

    def unregister_listener(self, name: str) -> bool:
        """Forget a listener, and what still waits for it. False when there is none of this name."""
        return bool(self._call(Connection.write, listeners.unregister, name))

    # ---- in an event loop

    def fileno(self) -> int:
        """A descriptor that is readable when `dispatch` has something to do. It stays the same until `close`.

        For the event loop of a desktop program, or any other: `loop.add_reader(client.fileno(), client.dispatch)` with
        asyncio, `root.createfilehandler(client, tkinter.READABLE, lambda *_: client.dispatch())` with Tk,
        `QSocketNotifier(client.fileno(), QSocketNotifier.Type.Read)` with Qt. Take it out of the loop before `close`.
        """
        return self._dispatching().fileno()

    def dispatch(self) -> int:
        """Call the functions of `on_done` and `on_progress` whose time has come. Returns how many that were; never waits.

        They are called here, on the thread that calls `dispatch`, and nowhere else, each function of `on_done` once.
        A job's progress comes before its end, its functions in the order in which they were given; jobs that are seen to
        have ended together come by id. When a function raises, `dispatch` raises that, and calls the others next time.
        After 10 ms the rest is left for the next time, too: the descriptor stays readable. A function may itself run the
        event loop, as a dialog does. After `close` nothing is called.
        """
        return 0 if self._dispatcher is None else self._dispatching().dispatch()

    def _dispatching(self) -> Dispatcher:
        self._call(_nothing)  # in a forked child this raises
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = Dispatcher(self._call_open, SidePaths.of(self.database))
            return self._dispatcher

    # ---- queues

    def queues(self) -> list[Queue]:
        """As `Client.queues`."""
        return self._call(Connection.read, queue_store.everybody)

    def set_queue(self, name: str, **settings: Any) -> None:
        """As `Client.set_queue`."""
        self._change_queue(name, queueing.queue_settings(settings))

    def pause_queue(self, name: str) -> None:
        """As `Client.pause_queue`."""
        self._change_queue(name, {"paused": 1})

    def resume_queue(self, name: str) -> None:
        """As `Client.resume_queue`."""
        self._change_queue(name, {"paused": 0})

    def _change_queue(self, name: str, settings: dict[str, int | str | None]) -> None:
        self._call(queueing.change_queue, self._waker, parse_queue(name), settings)

    def remove_queue(self, name: str) -> bool:
        """As `Client.remove_queue`."""
        return bool(self._call(Connection.write, queue_store.remove, name) == 0)

    # ---- calls that wait for each other

    def submit_in(
        self, connection: sqlite3.Connection, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> str:
        """As `Client.submit_in`."""
        return self.options().submit_in(connection, fn, *args, **kwargs)

    def find(self, key: str) -> SyncJobHandle[Any] | None:
        """As `Client.find`."""
        number = self._call(Connection.read, relays.find, key)
        return None if number is None else SyncJobHandle(self, number)

    def submit_calls(self, calls: Sequence[Call]) -> list[SyncJobHandle[Any]]:
        """As `Client.submit_calls`."""
        stored = self._store(build_calls(calls, self.config))
        return [SyncJobHandle(self, number, created=number not in stored.existing) for number in stored.ids]

    def chain(self, *calls: Call) -> SyncJobHandle[Any]:
        """As `Client.chain`."""
        *steps, last = self.submit_calls(chained(calls))
        last.parents = SyncGroupHandle(steps)
        return last

    def group(self, calls: Sequence[Call]) -> SyncGroupHandle:
        """As `Client.group`."""
        return SyncGroupHandle(self.submit_calls(calls))

    def chord(self, calls: Sequence[Call], callback: Call) -> SyncJobHandle[Any]:
        """As `Client.chord`."""
        *members, last = self.submit_calls(joined(calls, callback))
        last.parents = SyncGroupHandle(members)
        return last

    # ---- schedules

    def schedule(self, name: str, what: Callable[..., Any] | str | Sequence[str], **given: Any) -> None:
        """As `Client.schedule`."""
        self._call(schedules.put_own, self._waker, declarations.from_call(name, what, given, self.config))

    def schedules(self) -> list[schedules.Status]:
        """As `Client.schedules`."""
        found: list[schedules.Status] = self._call(Connection.read, schedules.status)
        return found

    def unschedule(self, name: str) -> bool:
        """As `Client.unschedule`."""
        return bool(self._call(Connection.write, schedule_store.remove, name))

    # ---- inside

    def _store(self, jobs: list[NewJob]) -> Stored:
        return self._call(producer.submit_one, self._waker, Submission(jobs))

    def _wait_any(self, numbers: list[int], timeout: float | None) -> list[Ended]:
        """Those of these jobs that have ended, as soon as one has; none after *timeout* seconds."""
        self._call(_nothing)
        with self._lock:
            waiter = self._waiters.pop() if self._waiters else Waiter(self._call_open, SidePaths.of(self.database))
        try:
            return waiter.first(numbers, timeout)
        finally:
            with self._lock:
                if self._connection is None:
                    waiter.discard()
                else:
                    self._waiters.append(waiter)


class SyncBoundOptions:
    """A client together with the options of the jobs it submits."""

    def __init__(self, client: SyncClient, options: JobOptions) -> None:
        self._client = client
        self._options = options

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[R]:
        """As `Client.submit`, with these options."""
        stored = self._client._store([self._build(fn, args, kwargs)])
        return SyncJobHandle(self._client, stored.ids[0], created=not stored.existing)

    def map(self, fn: Callable[[Any], R], items: Iterable[Any]) -> list[SyncJobHandle[R]]:
        """As `Client.map`, with these options."""
        config = self._client.config
        built = calls.build_map(fn, items, self._options, defaults=config.job, max_payload=config.max_payload)
        stored = self._client._store(built) if built else Stored([])
        return [SyncJobHandle(self._client, one, created=one not in stored.existing) for one in stored.ids]

    def submit_in(
        self, connection: sqlite3.Connection, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> str:
        """As `Client.submit_in`, with these options."""
        row = relay.row_of(self._build(fn, args, kwargs))
        path = relay.path_of(connection.execute("PRAGMA database_list").fetchall())
        connection.execute(relay.TABLE)
        connection.execute(relay.INSERT, row)
        self._client._call(relay.announce, self._client._waker, path)
        return row[0]

    def _build(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewJob:
        config = self._client.config
        return calls.build_call(fn, args, kwargs, self._options, defaults=config.job, max_payload=config.max_payload)


def _nothing(_: Connection) -> None:
    """Opening the file is all."""


def _submitter(kind: type[SyncClient], database: str) -> SyncClient:
    return kind(database, runner="never")
