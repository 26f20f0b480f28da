"""Unix stream sockets between the runner, which tells how jobs ended, and the listeners, which are told.

A callback address names a socket file, whichever way it is spelled. Who listens there binds it with `ListeningSocket`,
who tells something comes with `connect`; each makes sure that the other is this user, and both talk in lines.

Runs in: the runner's process, and every process that listens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import socket
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Protocol

from .errors import ConfigError, StorageError
from .forking import close_in_forked_children
from .paths import make_private_directory
from .sockets import MAX_PATH, bind_for_us_alone

log = logging.getLogger("fastworker_lite")

#: The longest line, in bytes, without its end.
MAX_LINE = 1024 * 1024
#: Connections that one listener holds open.
MAX_CONNECTIONS = 64
#: Seconds that whoever connects has for his first line.
HANDSHAKE_SECONDS = 5.0

#: Seconds to wait while another process binds a socket in the same folder, which takes it less than a millisecond.
_LOCK_SECONDS = 1.0

_FORMS = "unix:///PATH, ipc:///PATH, a path, or tcp://localhost:PORT"
_URL = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://|(?:unix|ipc|tcp):)(.*)", re.DOTALL)
_LOCAL_PORT = re.compile(r"(?:localhost|127\.0\.0\.1):([0-9]{1,5})", re.IGNORECASE)


def callback_path(address: str | os.PathLike[str]) -> str:
    """The absolute path of the socket that *address* names: the same for whoever listens and for whoever sends.

    `tcp://localhost:PORT` is a socket of the runtime directory: no TCP port is opened. Raises `ConfigError` for any other
    host or scheme, and for what cannot be the path of a socket.
    """
    text = os.fspath(address)
    url = _URL.fullmatch(text)
    if url is None:
        path = text
    elif (scheme := (url[1] or "").lower()) in ("unix", "ipc") and url[2].startswith("/"):
        path = url[2]
    elif scheme == "tcp" and (local := _LOCAL_PORT.fullmatch(url[2])) and 1 <= int(local[1]) <= 65535:
        path = os.path.join(runtime_directory(), f"tcp-{int(local[1])}.sock")
    else:
        raise ConfigError(f"a callback address must be {_FORMS}, got {text!r}")
    return _possible(path, text)


def _possible(path: str, text: str) -> str:
    if not path or path.endswith("/"):
        raise ConfigError(f"a callback address must name a socket, not a folder, got {text!r}")
    if "\0" in path:
        raise ConfigError(f"a callback address cannot hold a NUL, got {text!r}")
    path = os.path.abspath(path)
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise ConfigError(f"a callback address must be a path that can be encoded, got {text!r}") from None
    if length > MAX_PATH:
        raise ConfigError(f"the path of a socket can be {MAX_PATH} bytes long, got {length}: {path}")
    return path


def runtime_directory() -> str:
    """Where sockets lie that are named by a port. Made by the first that listens there, not by this."""
    place = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(place):  # a relative one must be ignored, says its specification
        return os.path.join(place, "fastworker")
    return os.path.join(tempfile.gettempdir(), f"fastworker-{os.geteuid()}")


class ListeningSocket:
    """A socket at a path, for this user alone from its first instant until it is closed."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Bind *address*, in place of a socket that nobody listens at any more.

        Raises `StorageError` when somebody does, or when the path is taken by anything but a stale socket of this user:
        that is never touched.
        """
        self.path = callback_path(address)
        try:
            self._socket, self._identity = _bind(self.path)
        except OSError as error:
            raise StorageError(
                f"no socket can be made at {self.path}: {error.strerror or error}; choose a folder that you can write to"
            ) from error
        self._spare = _spare_descriptor()
        close_in_forked_children(self)

    def fileno(self) -> int:
        """The descriptor to watch; -1 when closed."""
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next connection, non-blocking and from this user; None when nobody waits."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away()
                return None
            connection.setblocking(False)
            try:
                check_peer(connection)
            except (
                OSError
            ) as error:  # somebody else's, or one that is over already where the kernel forgets whose it was
                log.warning("a connection to %s is refused: %s", self.path, error.strerror)
                connection.close()
            else:
                return connection

    def _turn_away(self) -> None:
        """No descriptor is left: accept with the spare one and hang up, else the socket would stay readable forever."""
        log.warning("a connection to %s is refused: this process has no descriptor left", self.path)
        _close_descriptor(self._spare)
        with contextlib.suppress(OSError):
            self._socket.accept()[0].close()
        self._spare = _spare_descriptor()

    def close(self) -> None:
        """Stop listening, and remove the socket unless another one has taken its place."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):
                # Before it is closed: as long as it is open nobody can be given its inode number.
                if _identity(os.lstat(self.path)) == self._identity:
                    os.unlink(self.path)
        self.close_in_child()

    def close_in_child(self) -> None:
        self._socket.close()
        _close_descriptor(self._spare)
        self._spare = -1


def _spare_descriptor() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def _close_descriptor(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)


def connect(path: str) -> socket.socket:
    """A non-blocking connection to who listens at *path*, a user we trust.

    Raises `OSError` as connect(2) does: `FileNotFoundError` and `ConnectionRefusedError` when nobody listens,
    `BlockingIOError` when too many wait to be accepted, `PermissionError` when it is somebody else's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.connect(path)
        check_peer(connection)
    except BaseException:
        connection.close()
        raise
    return connection


class HasOptions(Protocol):
    """A socket, or what asyncio hands out in place of one."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes: ...


def check_peer(connection: HasOptions) -> None:
    """Raise `PermissionError` unless the other end is this user or root.

    Who connects is known as it was then, who listens as it was when it began to.
    """
    _, user = _credentials(connection)
    if user not in (0, os.geteuid()):
        raise PermissionError(errno.EPERM, f"the other end is user {user}, not {os.geteuid()}")


def _credentials(connection: HasOptions) -> tuple[int, int]:
    """The process, 0 if it is not known, and the user at the other end."""
    if sys.platform == "darwin":
        # SOL_LOCAL, LOCAL_PEERCRED: a struct xucred, which begins with its version, 0, and the user.
        _, user = struct.unpack_from("=II", connection.getsockopt(0, 1, 76))
        return 0, user
    process, user, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return process, user


def _bind(path: str) -> tuple[socket.socket, tuple[int, int]]:
    folder = os.path.dirname(path)
    if folder == runtime_directory():
        make_private_directory(folder)
    with _lock(folder):
        _clear_the_way(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            bind_for_us_alone(listening, path)
            status = os.lstat(path)
            if stat.S_IMODE(status.st_mode) != 0o600:  # the umask took a bit of ours
                os.chmod(path, 0o600)
            listening.listen(MAX_CONNECTIONS)
        except BaseException:
            listening.close()
            raise
        return listening, _identity(status)


@contextlib.contextmanager
def _lock(folder: str) -> Iterator[None]:
    """Let no other process of ours bind in *folder*: it might take for stale what has just been bound."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(descriptor):
            if time.monotonic() > give_up:
                raise StorageError(f"another process holds a lock on {folder}; end it, or try again")
            time.sleep(0.002)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile would go on holding what is only closed here
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear_the_way(path: str) -> None:
    """Remove the socket at *path* if its owner was killed before it could. Refuse anything else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StorageError(f"{path} is in the way and is no socket; remove it, or choose another address")
    if status.st_uid != os.geteuid():
        raise StorageError(f"{path} belongs to user {status.st_uid}, not to you; choose another address")
    if who := _listener_at(path):
        raise StorageError(f"{who} listens at {path}; end it, or choose another address")
    with contextlib.suppress(FileNotFoundError):
        if _identity(os.lstat(path)) == _identity(status):
            os.unlink(path)


def _listener_at(path: str) -> str | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
            process, _ = _credentials(probe)
        except (ConnectionRefusedError, FileNotFoundError):
            return None
        except OSError:  # it has no room for another connection, or is of another kind: it is somebody's
            process = 0
    return f"process {process}" if process else "another process"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class LineTooLong(ValueError):
    """More bytes came than a line may have."""

    def __init__(self) -> None:
        super().__init__(f"a line may have {MAX_LINE} bytes")


class Lines:
    """Takes bytes as they come and gives whole lines, holding little more than one line may have."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        """How many bytes wait for the end of their line."""
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        self._bytes += data

    def take(self) -> bytes | None:
        """The next line, without its end; None when no whole one has come. Raises `LineTooLong`."""
        end = self._bytes.find(b"\n", self._searched)
        self._searched = len(self._bytes) if end < 0 else 0
        if (len(self._bytes) if end < 0 else end) > MAX_LINE:
            raise LineTooLong
        if end < 0:
            return None
        line = bytes(self._bytes[:end])
        del self._bytes[: end + 1]
        return line
