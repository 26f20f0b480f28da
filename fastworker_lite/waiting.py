"""Waiting for jobs to end, without asyncio.

Runs in: every process that submits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import producer
from .paths import SidePaths
from .sockets import WakeSocket, socket_directory, wait_readable
from .store import queries, waiters
from .store.connection import Connection
from .store.queries import Ended

#: Seconds after which the file is looked at again, whatever datagrams were lost.
LOOK_AGAIN = 1.0


class Waiter:
    """A socket that workers poke, and a look at the file each time they do. For one thread."""

    def __init__(self, call: Callable[..., Any], paths: SidePaths) -> None:
        """*call* runs a function with the connection and further arguments, and returns what it returns."""
        self._call = call
        name = f"res-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = WakeSocket(os.path.join(socket_directory(paths), name))

    def first(self, ids: Sequence[int], seconds: float | None = None) -> list[Ended]:
        """Those of these jobs that have ended, as soon as one has; none after *seconds*.

        Raises `JobNotFound` for one that does not exist, or was removed meanwhile.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        found: list[Ended] = self._call(Connection.read, queries.ended, ids)
        if not found:
            found = self._call(producer.wait_for, ids, self._socket.address)
        while not found:
            left = LOOK_AGAIN if deadline is None else min(LOOK_AGAIN, deadline - time.monotonic())
            if left <= 0:
                break
            wait_readable([self._socket.fileno()], left)
            if self._socket.clear():
                found = self._call(Connection.read, queries.ended, ids)
            else:
                found = self._call(producer.wait_for, ids, self._socket.address)  # sees a removed record, too
        return found

    def discard(self) -> None:
        """Remove the socket."""
        self._socket.close()

    def close(self) -> None:
        """Remove the socket, and the rows that name it."""
        self._socket.close()
        self._call(Connection.write_fast, waiters.forget, self._socket.address)
