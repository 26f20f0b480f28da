"""What jobs print, as it comes, until they end.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Generator, Sequence

from .. import logs, producer
from ..sockets import WakeSocket, socket_directory, wait_readable
from ..store import waiters
from ..store.connection import Connection
from ..watches import FileWatch

#: Seconds after which is looked again, whatever was not told.
LOOK_AGAIN = 1.0
#: Seconds between two looks, at least: of a job that prints without a pause more is read at a time.
PAUSE = 0.02

#: While there is nothing to tell.
IDLE = (0, "out", b"")


def follow(
    connection: Connection, ids: Sequence[int], also: Sequence[int] = ()
) -> Generator[tuple[int, str, bytes], None, None]:
    """What these jobs print, as (job, `out` or `err`, bytes), until all of them have ended.

    `IDLE` comes once there is nothing left to tell, then again whenever there may be something, or one of the descriptors
    *also* can be read, and at least once a second. Raises `JobNotFound`.
    """
    with contextlib.closing(_Bell(connection, ids, also)) as bell:
        going = {job_id: logs.follow(connection, job_id) for job_id in ids}
        try:
            while going:
                for job_id, pieces in list(going.items()):
                    for stream, data in pieces:
                        if not data:
                            break
                        yield job_id, stream, data
                    else:
                        del going[job_id]
                if going:
                    yield IDLE
                    bell.wait()
        finally:
            for pieces in going.values():
                pieces.close()


class _Bell:
    """Rings when a job prints, and when one of ours ends.

    `logs.follow` watches the folder of the logs, and sleeps until something changes there. The end of a job changes
    nothing in it, so the folder is touched for its sake: by us, who are poked.
    """

    def __init__(self, connection: Connection, ids: Sequence[int], also: Sequence[int]) -> None:
        self._connection = connection
        self._also = also
        self._folder = connection.paths.logs
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._watch = FileWatch(self._folder)
        self._watch.arm()
        name = f"log-{os.getpid()}-{secrets.token_hex(4)}"
        self._socket = WakeSocket(os.path.join(socket_directory(connection.paths), name))
        try:
            producer.wait_for(connection, ids, self._socket.address)
        except BaseException:
            self.close()
            raise

    def wait(self) -> None:
        """Sleep until it rings. Every `logs.follow` of this file is awake then."""
        time.sleep(PAUSE)
        ready = wait_readable([self._watch.fileno(), self._socket.fileno(), *self._also], LOOK_AGAIN)
        self._socket.clear()
        if self._watch.fileno() not in ready:
            os.utime(self._folder)
        self._watch.clear()
        self._watch.arm()

    def close(self) -> None:
        """Remove the socket, and the rows that name it."""
        self._watch.close()
        self._socket.close()
        self._connection.write_fast(waiters.forget, self._socket.address)
