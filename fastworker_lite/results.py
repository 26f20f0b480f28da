"""Waiting for jobs to end, on an event loop: one socket that is poked, and a look at everything that is waited for.

Runs in: every process that awaits results.
"""

from __future__ import annotations

import asyncio
import os
import secrets

from . import producer
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
        self._poked = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None
        self.loop.add_reader(self._socket.fileno(), self._on_poke)

    @property
    def address(self) -> str:
        """Where workers poke. Rows with it may be stored before `wait` is called."""
        return self._socket.address

    @property
    def is_usable(self) -> bool:
        return not self.loop.is_closed() and self._socket.fileno() >= 0

    async def wait(self, job_id: int, *, is_registered: bool) -> Ended:
        """The job, once it has ended. *is_registered* says that its row with our address is stored already."""
        future: asyncio.Future[Ended] = self.loop.create_future()
        self._waiting.setdefault(job_id, set()).add(future)
        if self._looker is None or self._looker.done():
            self._looker = self.loop.create_task(self._look_while_waiting())
        try:
            if not is_registered:
                found = await self._connection.run(producer.wait_for, [job_id], self.address)
                self._resolve(found)
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
        self._poked.set()

    async def _look_while_waiting(self) -> None:
        while self._waiting:
            try:
                await asyncio.wait_for(self._poked.wait(), LOOK_AGAIN)
            except TimeoutError:
                pass
            if not self._waiting:
                return  # the poke stays: it may be for a job that is not waited for yet
            self._poked.clear()
            try:
                self._resolve(await self._connection.read(queries.ended, list(self._waiting)))
            except Exception as error:
                self._fail(error)

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
        if self._looker is not None and self.is_usable and self.loop is asyncio.get_running_loop():
            self._looker.cancel()
        if self.is_usable:
            self.loop.remove_reader(self._socket.fileno())
        self._socket.close()
        await self._connection.run(Connection.write_fast, waiters.forget, self.address)
