"""Where everything beside the database lies: one directory, `<database>.d`, for this user alone.

Runs in: every process.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from .errors import StorageError


class SidePaths(NamedTuple):
    """The names of the files that belong to one database."""

    database: str
    #: The canonical path: every process that means this file arrives at this spelling.

    @classmethod
    def of(cls, database: str | os.PathLike[str]) -> SidePaths:
        path = os.fspath(database)
        if "\0" in path:
            raise StorageError(f"a path cannot hold a NUL, got {path!r}")
        if os.path.islink(path) and (owner := os.lstat(path).st_uid) not in (0, os.geteuid()):
            raise StorageError(f"{path} is a link that user {owner} has made, not you; choose another place")
        return cls(os.path.realpath(path))

    @property
    def directory(self) -> str:
        return self.database + ".d"

    @property
    def gate(self) -> str:
        return os.path.join(self.directory, "gate")

    @property
    def leader(self) -> str:
        return os.path.join(self.directory, "leader")

    @property
    def starting(self) -> str:
        """Locked by who starts a worker on demand, until that serves the file."""
        return os.path.join(self.directory, "starting")

    @property
    def worker_log(self) -> str:
        """What workers say that nobody sees."""
        return os.path.join(self.directory, "worker.log")

    @property
    def leases(self) -> str:
        return os.path.join(self.directory, "leases")

    @property
    def sockets(self) -> str:
        return os.path.join(self.directory, "sockets")

    @property
    def logs(self) -> str:
        return os.path.join(self.directory, "logs")

    @property
    def wal(self) -> str:
        return self.database + "-wal"

    @property
    def shm(self) -> str:
        return self.database + "-shm"

    def lease(self, name: str) -> str:
        return os.path.join(self.leases, name)

    def log(self, job_id: int, attempt: int, stream: str) -> str:
        """Where a command's output goes: `stream` is "out" or "err"; a program that came as text is its "script"."""
        return os.path.join(self.logs, f"{job_id}.{attempt}.{stream}")


def make_private_directory(path: str) -> None:
    """Create *path* for this user alone (0700 under any umask), or check that it is so.

    Raises `StorageError` when somebody else could have prepared it.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise StorageError(f"{path} is in the way: it must be a folder of ours") from None
        if status.st_uid != os.geteuid():
            raise StorageError(f"{path} belongs to user {status.st_uid}, not to you; choose another place") from None
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)
    else:
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make the names in *path* survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
