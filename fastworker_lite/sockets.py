"""Wake-ups: datagrams on Unix sockets. A datagram says "look at the file", never what is in it.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import select
import socket
import tempfile
from collections.abc import Iterable

from .forking import close_in_forked_children
from .paths import SidePaths, make_private_directory

#: The longest path that fits a socket address, with its closing NUL.
MAX_PATH = 107
#: The kernel keeps some ten datagrams that nobody has read. More would not wake more.
MOST_WAKES = 11


def socket_directory(paths: SidePaths) -> str:
    """The folder for this database's sockets, created: beside the database, or in a short private place if that is too long."""
    directory = paths.sockets
    if len(os.fsencode(directory)) + 1 + 40 > MAX_PATH:
        digest = hashlib.blake2b(os.fsencode(paths.database), digest_size=6).hexdigest()
        directory = os.path.join(_short_place(), f"fwl-{os.geteuid()}-{digest}")
    make_private_directory(directory)
    return directory


def _short_place() -> str:
    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if place and os.path.isdir(place) and len(os.fsencode(place)) < 40:
            return place
    return "/tmp"


class WakeSocket:
    """The receiving end. Processes may share it; each datagram is read by one of them."""

    def __init__(self, address: str) -> None:
        """Bind *address*, for this user alone from the first instant."""
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            os.fchmod(self._socket.fileno(), 0o600)  # Linux gives the file these bits when it is bound
            self._socket.bind(address)
        except BaseException:
            self._socket.close()
            raise
        close_in_forked_children(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def clear(self) -> int:
        """Read what has arrived, without waiting. Returns how many datagrams that was."""
        return drain(self._socket)

    def is_bound(self) -> bool:
        """False when somebody removed the socket's file."""
        return os.path.exists(self.address)

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._socket.close()
            with contextlib.suppress(OSError):
                os.unlink(self.address)

    def close_in_child(self) -> None:
        self._socket.close()


def drain(receiving: socket.socket, at_most: int = 64) -> int:
    """Read up to *at_most* datagrams. O_NONBLOCK would belong to all who share the socket; MSG_DONTWAIT is ours."""
    for count in range(at_most):
        try:
            receiving.recv(16, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return count
    return at_most


class Waker:
    """The sending end, for any number of addresses. Opened by the first poke, and again after `close`."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        close_in_forked_children(self)

    def poke(self, address: str, times: int = 1) -> None:
        """Send *times* datagrams, as far as they fit. Nobody there is no trouble: whoever comes looks at the file."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for _ in range(min(times, MOST_WAKES)):
            try:
                self._socket.sendto(b"w", socket.MSG_DONTWAIT, address)
            except OSError as error:
                if error.errno in _EXPECTED:
                    return
                raise

    def poke_all(self, addresses: Iterable[str], times: int = 1) -> None:
        for address in addresses:
            self.poke(address, times)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close_in_child(self) -> None:
        self.close()


_EXPECTED = {
    errno.EAGAIN,
    errno.ENOBUFS,
    errno.ENOENT,
    errno.ECONNREFUSED,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.ENAMETOOLONG,
    errno.EBADF,
}


def wait_readable(descriptors: Iterable[int], seconds: float | None) -> list[int]:
    """Wait until one of *descriptors* can be read or is closed at the other end. Returns which."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(None if seconds is None else max(0, seconds * 1000))]
