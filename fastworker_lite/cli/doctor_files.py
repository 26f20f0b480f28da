"""What `fwl doctor` finds out about the place where the database lies.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from shlex import quote
from typing import NamedTuple

from ..paths import SidePaths
from ..sockets import find_socket_directory
from . import render
from .findings import Finding, nearest_folder, ok, problem, warning

#: Shared with other machines: neither SQLite's write-ahead log nor the locks hold there.
_NETWORK = {
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "v9fs", "afs", "afpfs", "webdav", "davfs", "ceph",
    "glusterfs", "lustre", "beegfs", "gpfs", "ocfs2", "gfs2", "vboxsf", "prl_fs", "vmhgfs", "virtiofs", "fuse.sshfs",
    "fuse.smbnetfs", "fuse.davfs2", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.ceph",
    "fuse.juicefs", "fuse.vmhgfs-fuse", "fuse.gvfsd-fuse", "fuse.grpcfuse",
}  # fmt: skip
_MEMORY = {"tmpfs", "ramfs"}

#: Names of folders that a program keeps the same on several machines, replacing files as it likes.
_SYNCED = re.compile(
    r"(Dropbox|OneDrive|Google ?Drive|My Drive|Mobile Documents|CloudStorage|iCloud ?Drive|Nextcloud|ownCloud|pCloud ?Drive|"
    r"MEGA(sync)?|Box( Sync)?|Syncthing|SynologyDrive|Proton ?Drive|Yandex\.?Disk)( ?[-(].*)?"
)
_SYNCTHING = ".stfolder"

#: Seconds that the disk may take to store a few bytes.
SLOW = 0.05
_TRIES = 11
_MIB = 1024 * 1024
_LITTLE, _TOO_LITTLE = 1024 * _MIB, 100 * _MIB
_LARGE_LOG, _LARGE_WAL = 100 * _MIB, 64 * _MIB
_ELSEWHERE = "Keep it on a disk of this machine: export FWL_DB=~/.local/state/fastworker/fwl.db"


# ---- the file system


class Mount(NamedTuple):
    point: str
    kind: str


def file_system(paths: SidePaths) -> Iterator[Finding]:
    folder = nearest_folder(paths.database)
    yield judge(folder, find_mount(_mounts(), folder))


def judge(folder: str, mount: Mount | None) -> Finding:
    """Whether a database may lie on this file system."""
    if mount is None:
        return ok("file_system", f"{folder}, on a file system that is not known")
    if mount.kind in _NETWORK:
        text = (
            f"{folder} is on {mount.kind}, which other machines share: neither SQLite nor the locks here are safe there"
        )
        return problem("file_system", text, _ELSEWHERE)
    if mount.kind in _MEMORY:
        return warning("file_system", f"{folder} is on {mount.kind}: it is gone when the machine restarts", _ELSEWHERE)
    if mount.kind == "overlay":
        text = f"{folder} is in the container's own layer: it is gone when the container is removed"
        return warning("file_system", text, f"Mount a volume there: docker run -v jobs:{quote(folder)} ...")
    return ok("file_system", f"{folder} is on {mount.kind}")


def _mounts() -> list[Mount]:
    try:
        with open("/proc/self/mounts", errors="surrogateescape") as file:
            return parse_mounts(file.read())
    except OSError:
        import subprocess

        done = subprocess.run(["mount"], capture_output=True, text=True, check=False)
        return parse_mount_command(done.stdout)


def parse_mounts(text: str) -> list[Mount]:
    """The lines of /proc/mounts: device, place and kind, with blanks as octal escapes."""
    lines = [line.split(" ") for line in text.splitlines()]
    return [Mount(_unescaped(line[1]), line[2]) for line in lines if len(line) >= 3 and line[1][0] == "/"]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def parse_mount_command(text: str) -> list[Mount]:
    """What `mount` prints on macOS: `/dev/disk1 on /Volumes/My Disk (smbfs, nodev)`."""
    return [Mount(point, kind) for point, kind in re.findall(r"^.+? on (/.*) \(([\w.]+)", text, re.MULTILINE)]


def find_mount(mounts: list[Mount], folder: str) -> Mount | None:
    """The one that *folder* is on: the innermost, and of those at one place the last."""
    above = [mount for mount in mounts if os.path.commonpath([folder, mount.point]) == mount.point]
    return max(reversed(above), key=lambda mount: len(mount.point), default=None)


def synced_folder(paths: SidePaths) -> Iterator[Finding]:
    folder = find_synced_folder(nearest_folder(paths.database))
    if folder is not None:
        text = f"{folder} is kept the same on several machines by a program, which may replace the database at any time"
        yield problem("synced_folder", text, _ELSEWHERE)


def find_synced_folder(folder: str) -> str | None:
    """The folder above, or this one, whose name says so or in which Syncthing has left its mark."""
    while True:
        is_marked = os.path.lexists(os.path.join(folder, _SYNCTHING))
        if is_marked or _SYNCED.fullmatch(os.path.basename(folder)):
            return folder
        if folder == os.path.dirname(folder):
            return None
        folder = os.path.dirname(folder)


# ---- the disk


def free_space(paths: SidePaths) -> Iterator[Finding]:
    folder = nearest_folder(paths.database)
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    text = f"{free // _MIB} MiB are free in {folder}"
    hint = f"df -h {quote(folder)}\nRemove old jobs: fwl prune --older-than 7d"
    if free < _TOO_LITTLE:
        yield problem("free_space", text, hint)
    elif free < _LITTLE:
        yield warning("free_space", text, hint)
    else:
        yield ok("free_space", text)


def disk_speed(paths: SidePaths) -> Iterator[Finding]:
    folder = nearest_folder(paths.database)
    if not os.access(folder, os.W_OK):
        return  # said by permissions
    seconds = measure_fsync(folder)
    text = f"storing a few bytes for good takes {seconds * 1000:.1f} ms in {folder}"
    if seconds > SLOW:
        hint = 'Choose another place with FWL_DB, or set durability = "normal": fwl config show --sources'
        yield warning("disk_speed", f"{text}, and so does every submit", hint)
    else:
        yield ok("disk_speed", text)


def measure_fsync(folder: str) -> float:
    """Seconds that a small write and fsync take: the median of some, in a file that is removed again."""
    path = os.path.join(folder, f".fwl-doctor-{secrets.token_hex(4)}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)  # at once: nothing is left of it, whatever happens
        return sorted(_seconds_to_store(descriptor) for _ in range(_TRIES))[_TRIES // 2]
    finally:
        os.close(descriptor)


def _seconds_to_store(descriptor: int) -> float:
    begun = time.perf_counter()
    os.write(descriptor, b"\0" * 4096)
    os.fsync(descriptor)
    return time.perf_counter() - begun


# ---- who may


def permissions(paths: SidePaths) -> Iterator[Finding]:
    found = [*_private(paths.database, 0o600, os.path.isfile), *_private(paths.directory, 0o700, os.path.isdir)]
    yield from found or list(_writable(paths)) or [ok("permissions", "only you can use the database")]


def _private(path: str, mode: int, is_there: Callable[[str], bool]) -> Iterator[Finding]:
    """The file or folder must be ours, and nobody else's to read: commands may hold secrets."""
    if not is_there(path):
        return
    status = os.stat(path)
    if status.st_uid != os.geteuid():
        yield problem(
            "permissions", f"{path} belongs to user {status.st_uid}, not to you", f"sudo chown {_me()} {quote(path)}"
        )
    elif status.st_mode & 0o077:
        text = f"others may use {path}, whose mode is {status.st_mode & 0o777:04o}"
        yield problem("permissions", text, f"chmod {mode:o} {quote(path)}")
    elif status.st_mode & mode != mode:
        text = f"you may not use {path}, whose mode is {status.st_mode & 0o777:04o}"
        yield problem("permissions", text, f"chmod {mode:o} {quote(path)}")


def _me() -> str:
    return f"{os.geteuid()}:{os.getegid()}"


def _writable(paths: SidePaths) -> Iterator[Finding]:
    folder = nearest_folder(paths.database)
    if not os.access(folder, os.W_OK | os.X_OK):
        yield problem("permissions", f"{folder} cannot be written", f"ls -ld {quote(folder)}")
    elif os.path.isfile(paths.database) and not os.access(paths.database, os.W_OK):
        yield problem("permissions", f"{paths.database} cannot be written", f"ls -l {quote(paths.database)}")


# ---- sockets


def sockets(paths: SidePaths) -> Iterator[Finding]:
    """Whether runners can be told of jobs."""
    directory = find_socket_directory(paths)
    moved = "" if directory == paths.sockets else ": the path beside the database is too long for a socket"
    near = directory if os.path.isdir(directory) else nearest_folder(directory)
    fault = bind_fault(near)
    if fault is None:
        yield ok("sockets", f"{directory}{moved}")
    else:
        hint = f"Choose another place: export XDG_RUNTIME_DIR=/run/user/{os.geteuid()}, or another FWL_DB"
        yield problem("sockets", f"no socket can be made in {near}: {fault}", hint)


def bind_fault(folder: str) -> str | None:
    """Why no socket can be bound in *folder*, None when it can; the one that was tried is removed."""
    import socket

    from ..sockets import bind_for_us_alone

    address = os.path.join(folder, f"d{secrets.token_hex(4)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        try:
            bind_for_us_alone(one, address)
        except OSError as error:
            return error.strerror or str(error)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(address)
    return None


# ---- what grows


def logs(paths: SidePaths) -> Iterator[Finding]:
    path = paths.worker_log
    size = _size(path)
    if size > _LARGE_LOG:
        yield warning("logs", f"{path} has {render.size(size)}", f"Empty it with  : > {quote(path)}")
    elif size:
        yield ok("logs", f"{path} has {render.size(size)}")
    if _size(paths.wal) > _LARGE_WAL:
        text = f"{paths.wal} has {render.size(_size(paths.wal))}: some process reads the database without end"
        tool = "lsof" if sys.platform == "darwin" else "fuser -v"
        yield warning("logs", text, f"See which: {tool} {quote(paths.wal)}")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


CHECKS = (file_system, synced_folder, free_space, disk_speed, permissions, sockets, logs)
