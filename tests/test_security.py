"""Against other users, and against what others have put into the file: whose files are used, what is read, what is let out."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fastworker_lite.errors import FastWorkerError
from fastworker_lite.store import jobs, queries
from fastworker_lite.store.connection import Connection
from tests.test_store import NOW, new_job

#: Who wants to harm us.
STRANGER = 65533

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")

# ---- what somebody else has put where our files go


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder as /tmp is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A file of ours that nothing here is to change."""
    path = tmp_path / "precious"
    path.write_text("precious")
    path.chmod(0o640)
    return path


def put_file(path: Path, precious: Path) -> None:
    path.write_bytes(b"theirs" * 1000)


def put_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious)


def put_dangling_link(path: Path, precious: Path) -> None:
    path.symlink_to(precious.parent / "made by a link")


def put_hard_link(path: Path, precious: Path) -> None:
    os.link(precious, path)


def put_pipe(path: Path, precious: Path) -> None:
    os.mkfifo(path, 0o666)


def put_socket(path: Path, precious: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def put_folder(path: Path, precious: Path) -> None:
    path.mkdir(0o777)


PLANTS = [put_file, put_link, put_dangling_link, put_hard_link, put_pipe, put_socket, put_folder]
Plant = Callable[[Path, Path], None]


def use(database: Path) -> str | None:
    """Open it and store a job. Returns the refusal."""
    try:
        connection = Connection(database, gate_patience=1.0)
    except FastWorkerError as error:
        return str(error)
    try:
        connection.write(jobs.insert, [new_job()], NOW)
        assert [job.task for job in connection.read(queries.active, 100)] == ["t"] * connection.read(queries.newest_id)
    finally:
        connection.close()
    return None


def use_for(seconds: float, database: Path) -> str | None:
    """As `use`, in another process: SQLite waits for the other end of a pipe in its place, and nothing interrupts that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "it failed"
        try:
            said = use(database) or ""
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with open(reading) as told:
        is_told = bool(select.select([told], [], [], seconds)[0])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert is_told, f"it hangs for {seconds} s"
        return told.read() or None


@as_root
@pytest.mark.parametrize("is_made_before", [False, True], ids=["before the first use", "between two uses"])
@pytest.mark.parametrize("ending", ["", "-wal", "-shm", "-journal", ".d"])
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_what_somebody_else_has_put_in_our_place_is_not_used(
    shared: Path, precious: Path, plant: Plant, ending: str, is_made_before: bool
) -> None:
    """It is refused by a line, or taken away; it is not followed, not changed, and not waited for."""
    database, place = shared / "jobs.db", shared / f"jobs.db{ending}"
    if is_made_before:
        assert use(database) is None
        if ending == "":
            database.unlink()
        elif ending == ".d":
            place.rename(shared / "away")
    plant(place, precious)
    if plant is not put_hard_link:  # which is still the file that it is
        os.chown(place, STRANGER, STRANGER, follow_symlinks=False)

    refusal = use_for(5.0, database)

    assert refusal is None or (refusal != "it failed" and "\n" not in refusal)
    if refusal is None:
        for name in shared.iterdir():
            status = name.lstat()
            assert (status.st_uid, status.st_nlink == 1 or name.is_dir(), stat.S_IMODE(status.st_mode) & 0o077) == (
                0,
                True,
                0,
            )
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    assert precious.read_text() == "precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o640
    assert not (precious.parent / "made by a link").exists()


@as_root
@pytest.mark.parametrize("files", [("",), ("-wal",), ("", "-wal", "-shm")], ids=" and ".join)
def test_a_job_that_somebody_else_has_put_there_is_not_ours(shared: Path, files: tuple[str, ...]) -> None:
    """A database, and a log that SQLite would read into our database, both of them sound: only their owner is wrong."""
    theirs, ours = shared / "theirs.db", shared / "jobs.db"
    assert use(ours) is None
    connection = Connection(theirs)
    connection.write(jobs.insert, [new_job(name="evil")], NOW)
    copies = {ending: Path(f"{theirs}{ending}").read_bytes() for ending in files}
    connection.close()
    for ending, content in copies.items():
        place = Path(f"{ours}{ending}")
        place.write_bytes(content)
        os.chown(place, STRANGER, STRANGER)

    assert f"belongs to user {STRANGER}, not to you" in str(use(ours))
