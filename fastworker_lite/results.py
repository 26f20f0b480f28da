"""Waiting for jobs to end, on an event loop: one socket that is poked, and a look at everything that is waited for.

Runs in: every process that awaits results.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets

from . import producer
from .errors import FastWorkerError
from .paths import SidePaths
from .sockets import WakeSocket, socket_directory
from .store import queries, waiters
from .store.bridge import AsyncConnection
from .store.connection import Connection
from .store.queries import Ended

#: Seconds after which a waiter looks again, whatever datagrams were lost.
LOOK_AGAIN = 1.0


class ResultWaiter:
    """Waits for any number of jobs on one event loop."""

    def __init__(self, connection: AsyncConnection, paths: SidePaths) -> None:
        self._connection = connection
        self.loop = asyncio.get_running_loop()
        name = f"res-{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = WakeSocket(os.path.join(socket_directory(paths), name))
        self._waiting: dict[int, set[asyncio.Future[Ended]]] = {}
        self.pokes = 0
        #: How often we were poked. Read it before a job is stored, so that `wait` knows of a poke that was quicker.
        self._is_looking = False
        self._must_look_again = False
        self._timer: asyncio.TimerHandle | None = None
        self.loop.add_reader(self._socket.fileno(), self._on_poke)

    @property
    def address(self) -> str:
        """Where workers poke. Rows with it may be stored before `wait` is called."""
        return self._socket.address

    @property
    def is_usable(self) -> bool:
        return not self.loop.is_closed() and self._socket.fileno() >= 0

    async def wait(self, job_id: int, *, stored_at: int | None) -> Ended:
        """The job, once it has ended. *stored_at* is what `pokes` was before the job was stored with our address.

        None says that our address is not stored with it yet.
        """
        future: asyncio.Future[Ended] = self.loop.create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        if self._timer is None:
            self._timer = self.loop.call_later(LOOK_AGAIN, self._on_time)
        try:
            if stored_at is None:
                self._resolve(await self._connection.run(producer.wait_for, [job_id], self.address))
            elif stored_at != self.pokes:
                self._look()
            return await future
        finally:
            self._forget(job_id, future)

    def _forget(self, job_id: int, future: asyncio.Future[Ended]) -> None:
        futures = self._waiting.get(job_id)
        if futures is not None:
            futures.discard(future)
            if not futures:
                del self._waiting[job_id]

    def _on_poke(self) -> None:
        self._socket.clear()
        self.pokes += 1
        self._look()

    def _on_time(self) -> None:
        self._timer = self.loop.call_later(LOOK_AGAIN, self._on_time) if self._waiting else None
        self._look()

    def _look(self) -> None:
        """Read which of the jobs have ended. One look at a time, and one more for what came meanwhile."""
        self._must_look_again = self._is_looking
        if self._waiting and not self._is_looking:
            self._is_looking = True
            try:
                self._connection.post(self._read, list(self._waiting))
            except FastWorkerError as error:
                self._on_look(error)

    def _read(self, connection: Connection, ids: list[int]) -> None:
        found: list[Ended] | Exception
        try:
            found = connection.read(queries.ended, ids)
        except Exception as error:
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self.loop.call_soon_threadsafe(self._on_look, found)

    def _on_look(self, found: list[Ended] | Exception) -> None:
        self._is_looking = False
        if isinstance(found, Exception):
            self._fail(found)
        else:
            self._resolve(found)
        if self._must_look_again:
            self._look()

    def _resolve(self, found: list[Ended]) -> None:
        for ended in found:
            for future in self._waiting.get(ended.job.id, ()):
                if not future.done():
                    future.set_result(ended)

    def _fail(self, error: Exception) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def discard(self) -> None:
        """Let go of the socket of a loop that is closed."""
        self._socket.close()

    async def close(self) -> None:
        """Stop waiting: remove the socket and the rows that name it."""
        if self.is_usable:
            self.loop.remove_reader(self._socket.fileno())
            if self._timer is not None:
                self._timer.cancel()
        self._socket.close()
        await self._connection.run(Connection.write_fast, waiters.forget, self.address)
