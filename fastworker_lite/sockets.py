"""Wake-ups: datagrams on Unix sockets. A datagram says "look at the file", never what is in it.

Who pokes nobody loads no `socket`: 1 ms of each `fwl submit`.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .forking import close_in_forked_children
from .paths import SidePaths, make_private_directory

if TYPE_CHECKING:
    import socket

#: The longest path that fits a socket address, with its closing NUL.
MAX_PATH = 107
#: What `socket` calls it.
_MSG_DONTWAIT = 0x40 if sys.platform == "linux" else 0x80
#: The kernel keeps some ten datagrams that nobody has read. More would not wake more.
MOST_WAKES = 11


def socket_directory(paths: SidePaths) -> str:
    """The folder for this database's sockets, created."""
    directory = find_socket_directory(paths)
    make_private_directory(directory)
    return directory


def find_socket_directory(paths: SidePaths) -> str:
    """Where this database's sockets belong: beside the database, or in a short private place if that is too long."""
    if len(os.fsencode(paths.sockets)) + 1 + 40 > MAX_PATH:
        return os.path.join(_short_place(), f"fwl-{os.geteuid()}")
    return paths.sockets


def _short_place() -> str:
    import tempfile  # few paths are so long

    for place in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if place and os.path.isdir(place) and len(os.fsencode(place)) < 40:
            return place
    return "/tmp"


def remove_stale_sockets(directory: str) -> None:
    """Remove the sockets whose owners were killed before they could."""
    with _new_socket() as probe:
        for entry in os.scandir(directory):
            try:
                if not stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    continue
                probe.connect(entry.path)
            except ConnectionRefusedError:  # nobody has it open any more
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
            except OSError:
                pass


def bind_for_us_alone(one: socket.socket, address: str) -> None:
    """Bind a socket to a file that no other user can open, at no instant."""
    if sys.platform == "linux":
        os.fchmod(one.fileno(), 0o600)  # the file gets these bits when it is bound
        one.bind(address)
        return
    before = os.umask(0o177)  # fchmod refuses sockets
    try:
        one.bind(address)
    finally:
        os.umask(before)


def _new_socket() -> socket.socket:
    import socket

    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


class WakeSocket:
    """The receiving end. Processes may share it; each datagram is read by one of them."""

    def __init__(self, address: str) -> None:
        """Bind *address*, for this user alone from the first instant."""
        self.address = address
        self._socket = _new_socket()
        try:
            bind_for_us_alone(self._socket, address)
        except BaseException:
            self._socket.close()
            raise
        close_in_forked_children(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def clear(self) -> int:
        """Read what has arrived, without waiting. Returns how many datagrams that was."""
        return drain(self._socket)

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
            receiving.recv(16, _MSG_DONTWAIT)
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
            self._socket = _new_socket()
        for _ in range(min(times, MOST_WAKES)):
            try:
                self._socket.sendto(b"w", _MSG_DONTWAIT, address)
            except OSError as error:
                if error.errno is not None and error.errno not in _EXPECTED:
                    raise
                return

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


class TurnOnWake:
    """Waits for a datagram on a socket that several processes share. The kernel wakes one of them, not all."""

    def __init__(self, wake: int, stop: int) -> None:
        """*wake* is the shared socket; *stop* becomes readable when the waiting is to end."""
        self._wake, self._stop = wake, stop
        self._poll = select.epoll() if hasattr(select, "epoll") else select.poll()
        self._poll.register(wake, select.POLLIN | getattr(select, "EPOLLEXCLUSIVE", 0))
        self._poll.register(stop, select.POLLIN)

    def wait(self) -> bool:
        """True when something came on the shared socket, False when it is time to stop."""
        return self._stop not in [descriptor for descriptor, _ in self._poll.poll()]


def wait_readable(descriptors: Iterable[int], seconds: float | None) -> list[int]:
    """Wait until one of *descriptors* can be read or is closed at the other end. Returns which."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(None if seconds is None else max(0, seconds * 1000))]
