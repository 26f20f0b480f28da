"""The file guard: are the open files still the ones that were opened, and still the ones at their paths?

A deleted database, one replaced by a copy, a task that closed our descriptors, an `open(database).close()` that dropped
SQLite's locks: each lets commits succeed into nothing. Checking around each transaction costs some 10 µs and turns
all of them into a `DatabaseGone` before anything is acknowledged.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter

from ..errors import DatabaseGone

#: (device, inode): one file, whatever its name.
Identity = tuple[int, int]

_DESCRIPTORS = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"

#: One connection at a time is opened in a process, so that new descriptors are known to be its own.
opening = threading.Lock()
_claimed: set[int] = set()
_databases: Counter[Identity] = Counter()


class FileGuard:
    """Watches the files of one connection."""

    def __init__(self) -> None:
        self._paths: list[tuple[str, Identity]] = []
        self._descriptors: list[tuple[int, Identity]] = []
        self._own: set[int] = set()
        self._database: Identity | None = None
        self._log = ""

    def watch_path(self, path: str) -> None:
        """From now on, *path* must stay the file it is."""
        self._paths.append((path, identity(os.stat(path))))

    def watch_descriptor(self, descriptor: int) -> None:
        """From now on, *descriptor* must stay open on the file it is."""
        self._descriptors.append((descriptor, identity(os.fstat(descriptor))))

    def forget(self, path: str, descriptor: int) -> None:
        """Watch these no longer: they are given up in good order."""
        self._paths = [watched for watched in self._paths if watched[0] != path]
        self._descriptors = [watched for watched in self._descriptors if watched[0] != descriptor]

    def watch_new_descriptors(self, before: set[int], database: str, wal: str, shm: str) -> int:
        """Watch those that SQLite opened since *before* was taken, and return the one of the write-ahead log."""
        wal_descriptor = -1
        self._log = wal
        for path in (database, wal, shm):
            wanted = identity(os.stat(path))
            for descriptor in sorted(_matching(wanted)):
                # The shared-memory file is opened once for all connections of a process; the others anew for each.
                if path != shm and (descriptor in before or descriptor in _claimed):
                    continue
                self._descriptors.append((descriptor, wanted))
                if path != shm:
                    self._own.add(descriptor)
                if path == wal:
                    wal_descriptor = descriptor
                break
        _claimed.update(self._own)
        self._database = identity(os.stat(database))
        _databases[self._database] += 1
        return wal_descriptor

    def check_descriptors(self) -> None:
        """Raise `DatabaseGone` if somebody closed our descriptors, or opened something else in their place."""
        for descriptor, expected in self._descriptors:
            try:
                found = os.fstat(descriptor)
            except OSError:
                raise DatabaseGone(
                    f"descriptor {descriptor} of the database was closed; nothing more is stored"
                ) from None
            if (found.st_dev, found.st_ino) != expected:
                raise DatabaseGone(f"descriptor {descriptor} of the database was replaced; nothing more is stored")

    def check_paths(self) -> int:
        """Raise `DatabaseGone` if a watched path is not the file any more that was opened under it.

        Returns the size of the write-ahead log in bytes.
        """
        size = 0
        for path, expected in self._paths:
            try:
                found = os.stat(path)
            except OSError as error:
                raise DatabaseGone(f"{path} is gone ({error.strerror}); nothing more is stored") from None
            if (found.st_dev, found.st_ino) != expected:
                raise DatabaseGone(f"{path} was replaced by another file; nothing more is stored")
            if path == self._log:
                size = found.st_size
        return size

    def release(self) -> None:
        """Forget the descriptors: the connection is closed."""
        _claimed.difference_update(self._own)
        if self._database is not None:
            _databases[self._database] -= 1
            self._database = None


def identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def is_open_here(database: Identity) -> bool:
    """Whether a connection of this process has this file open."""
    return _databases[database] > 0


def open_descriptors() -> set[int]:
    """Every descriptor of this process."""
    return set(_identities())


def _matching(wanted: Identity) -> set[int]:
    return {descriptor for descriptor, found in _identities().items() if found == wanted}


def _identities() -> dict[int, Identity]:
    found = {}
    for descriptor in map(int, os.listdir(_DESCRIPTORS)):
        with contextlib.suppress(OSError):  # closed since: by another thread, or it listed the folder
            found[descriptor] = identity(os.fstat(descriptor))
    return found
