"""The client without asyncio, for scripts and desktop programs: the same code behind a thread of its own.

Runs in: the application's process.
"""

from __future__ import annotations

import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

from . import config as configuration
from . import producer
from .config import Config
from .errors import ConfigError, ForkedError, JobNotFound, ResultTimeout
from .job import JobOptions, NewJob
from .paths import SidePaths
from .producer import Submission
from .runner import Runner, serving_runner
from .sockets import Waker, WakeSocket, socket_directory, wait_readable
from .store import queries
from .store.connection import Connection
from .store.queries import Ended

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class FileThread:
    """Owns the connection: a signal's exception in the host's main thread cannot strike inside the gate."""

    def __init__(self, open_connection: Callable[[], Connection]) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...], Future[Any]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, args=(open_connection,), name="fastworker-file", daemon=True)
        self._opened: Future[None] = Future()
        self._thread.start()
        self._opened.result()

    def _run(self, open_connection: Callable[[], Connection]) -> None:
        try:
            connection = open_connection()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        while (call := self._calls.get()) is not None:
            function, args, future = call
            try:
                future.set_result(function(connection, *args))
            except BaseException as error:
                future.set_exception(error)
        connection.close()

    def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(connection, *args)` on the thread and return what it returns."""
        future: Future[T] = Future()
        self._calls.put((function, args, future))
        return future.result()

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join()


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
        self._lock = threading.Lock()
        self._runner: Runner | None = None
        self._file: FileThread | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _submitter, (type(self), self.database)

    def start(self) -> None:
        """Open the database, creating it, and start a runner unless one serves it. Workers start meanwhile."""
        self._open()
        if self._role != "never" and self._runner is None:
            is_served = self._role == "auto" and serving_runner(self.database) is not None
            self._runner = Runner(self.database, self.config, is_standby=is_served)
            self._runner.start()

    def _open(self) -> FileThread:
        if os.getpid() != self._pid:
            raise ForkedError
        with self._lock:
            if self._file is None:
                self._file = FileThread(lambda: Connection(self.database, durability=self.config.durability))
            return self._file

    def close(self) -> None:
        """Stop the runner, wait until what runs has ended, and close the file."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop()
            runner.join()
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            file.close()
        self._waker.close()

    def __enter__(self) -> SyncClient:
        self.start()
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

    def _store(self, jobs: list[NewJob]) -> range:
        return self._open().run(producer.submit, self._waker, [Submission(jobs)])[0]

    def _wait_any(self, numbers: list[int], timeout: float | None) -> list[Ended]:
        """Those of these jobs that have ended, as soon as one has; none after *timeout* seconds."""
        file = self._open()
        found: list[Ended] = file.run(Connection.read, queries.ended, numbers)
        if found:
            return found
        deadline = None if timeout is None else time.monotonic() + timeout
        paths = SidePaths.of(self.database)
        socket = WakeSocket(os.path.join(socket_directory(paths), f"res-{os.getpid()}-{secrets.token_hex(4)}"))
        try:
            found = file.run(producer.wait_for, numbers, socket.address)
            while not found:
                left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
                if left <= 0:
                    return []
                wait_readable([socket.fileno()], left)
                socket.clear()
                found = file.run(Connection.read, queries.ended, numbers)
            return found
        finally:
            socket.close()


class SyncBoundOptions:
    """A client together with the options of the jobs it submits."""

    def __init__(self, client: SyncClient, options: JobOptions) -> None:
        self._client = client
        self._options = options

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> SyncJobHandle[R]:
        """As `Client.submit`, with these options."""
        (number,) = self._client._store([self._build(fn, args, kwargs)])
        return SyncJobHandle(self._client, number)

    def map(self, fn: Callable[[Any], R], items: Iterable[Any]) -> list[SyncJobHandle[R]]:
        """As `Client.map`, with these options."""
        built = [self._build(fn, (item,), {}) for item in items]
        return [SyncJobHandle(self._client, number) for number in self._client._store(built)] if built else []

    def _build(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> NewJob:
        return producer.build_call(fn, args, kwargs, self._options, max_payload=self._client.config.max_payload)


class SyncJobHandle(Generic[R]):
    """One submitted job. Can be pickled."""

    def __init__(self, client: SyncClient, number: int) -> None:
        self._client = client
        self.number = number

    @property
    def id(self) -> str:
        return str(self.number)

    def result(self, timeout: float | None = None) -> R:
        """The return value. Raises `JobFailed`, `JobCancelled`, or `ResultTimeout` after *timeout* seconds."""
        self._job()
        found = self._client._wait_any([self.number], timeout)
        if not found:
            raise ResultTimeout(self.number, timeout or 0.0)
        value: R = producer.value_of(found[0])
        return value

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, however it did. False when it has not within *timeout* seconds."""
        self._job()
        return bool(self._client._wait_any([self.number], timeout))

    def status(self) -> str:
        """`scheduled`, `queued`, `blocked`, `running`, `succeeded`, `failed`, `cancelled` or `expired`."""
        return str(self._job().state)

    def cancel(self) -> bool:
        """Cancel the job if it has not begun. False when it has."""
        found = self._client._open().run(producer.cancel, self._client._waker, self.number)
        return found in ("queued", "scheduled", "blocked")

    def _job(self) -> Any:
        return producer.job_or_raise(self._client._open().run(Connection.read, queries.get, self.number), self.number)

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.number}>"


def _submitter(kind: type[SyncClient], database: str) -> SyncClient:
    return kind(database, runner="never")
