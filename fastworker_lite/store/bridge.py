"""The one way from asyncio to the file: whole transactions, shipped to a thread of their own.

One connection has one owner, the thread; a transaction is one trip to it. A trip for each statement would be five times
slower, and two coroutines would share a transaction and roll each other back. The only owner of aiosqlite.

Runs in: every process that uses asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL

from ..errors import DatabaseGone, FastWorkerError
from .connection import Connection

T = TypeVar("T")
Request = TypeVar("Request")
Reply = TypeVar("Reply")


class AsyncConnection:
    """A `Connection` behind a thread. Usable from any event loop of the process."""

    def __init__(self, database: str | os.PathLike[str], **options: Any) -> None:
        """Prepare; nothing is opened before `open`. The options are those of `Connection`."""
        self._connection: Connection
        self._database, self._options = database, options
        self._error: BaseException | None = None
        self._thread = aiosqlite.Connection(self._connect, iter_chunk_size=64)

    def _connect(self) -> Any:
        # aiosqlite asks only that what it is given can be closed, on its thread. It is always given that: a connector
        # that raises leaves the thread telling a loop that may be closed by then.
        try:
            self._connection = Connection(self._database, **self._options)
        except BaseException as error:
            self._error = error
            return _NotOpened()
        return self._connection

    async def open(self) -> None:
        """Open the file. Raises what `Connection` raises."""
        await self._thread
        if self._error is not None:
            await self._thread.close()
            raise self._error

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function(connection, *args)` on the thread. A call that was cancelled while queued still runs."""
        result: T = await self._thread._execute(self._call, function, args)  # type: ignore[no-untyped-call]
        return result

    def _call(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        return function(self._connection, *args)

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Have `function(connection, *args)` called on the thread, and go on. It answers by itself, and must not raise."""
        if not self._thread._running:
            raise DatabaseGone(f"{os.fspath(self._database)} was closed")
        self._thread._tx.put_nowait((None, partial(self._call, function, args)))

    async def write(self, work: Callable[..., T], *args: Any) -> T:
        """As `Connection.write`."""
        return await self.run(Connection.write, work, *args)

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """As `Connection.read`."""
        return await self.run(Connection.read, work, *args)

    async def close(self) -> None:
        """Close the file and end the thread, after what is queued."""
        await self._thread.close()
        if self._thread._thread.is_alive():  # it has said its last word, and needs but the interpreter's lock to end
            self._thread._thread.join(1.0)

    def close_soon(self) -> None:
        """As `close`, from any thread, without waiting."""
        # Not aiosqlite's own stop: it reports to the running loop, which may be closed by then.
        self._thread._running = False
        self._thread._tx.put_nowait((None, self._close_and_stop))

    def _close_and_stop(self) -> object:
        self._connection.close()
        self._thread._connection = None
        return _STOP_RUNNING_SENTINEL


class _NotOpened:
    def close(self) -> None:
        """There is nothing to close."""


class SharedCommit(Generic[Request, Reply]):
    """Lets requests that arrive together share one transaction, and so one wait for the disk."""

    #: Requests in one transaction, so that the first does not wait for the last of a flood.
    _MOST = 1000

    def __init__(
        self,
        connection: AsyncConnection,
        transact: Callable[[Connection, Sequence[Request]], Sequence[Reply | FastWorkerError]],
    ) -> None:
        """*transact* stores all requests in one transaction and returns, for each, a reply or why it was refused."""
        self._connection = connection
        self._transact = transact
        self._waiting: deque[tuple[Request, asyncio.Future[Reply]]] = deque()
        self._lock = threading.Lock()
        self._is_trip_booked = False

    async def submit(self, request: Request) -> Reply:
        """Store *request* in the next transaction, and return its reply once that is committed."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((request, future))
            must_book, self._is_trip_booked = not self._is_trip_booked, True
        if must_book:
            try:
                self._connection.post(self._drain)
            except BaseException:
                with self._lock:
                    self._is_trip_booked = False
                raise
        return await future

    def _drain(self, connection: Connection) -> None:
        while batch := self._take():
            try:
                replies: Sequence[Reply | BaseException] = self._transact(connection, [request for request, _ in batch])
            except BaseException as error:
                replies = [error] * len(batch)
            _answer([(future, reply) for (_, future), reply in zip(batch, replies, strict=True)])

    def _take(self) -> list[tuple[Request, asyncio.Future[Reply]]]:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._MOST))]
            self._is_trip_booked = bool(batch)
            return batch


def _answer(answers: list[tuple[asyncio.Future[Any], object]]) -> None:
    """Resolve the futures on their loops, each loop woken once: a wake-up costs more than the rest."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], object]]] = {}
    for future, reply in answers:
        by_loop.setdefault(future.get_loop(), []).append((future, reply))
    for loop, own in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, own)


def _resolve(answers: list[tuple[asyncio.Future[Any], object]]) -> None:
    for future, reply in answers:
        if future.done():  # its caller was cancelled; the request is stored all the same
            continue
        if isinstance(reply, BaseException):
            future.set_exception(reply)
        else:
            future.set_result(reply)
