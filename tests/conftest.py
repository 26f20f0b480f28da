"""What all tests start from."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastworker_lite import SyncClient

from .environments import environment_of

#: Where sockets go whose own path would be too long: one place for each run, that no other run looks into.
_place = tempfile.TemporaryDirectory(prefix="fwl-")


def pytest_configure() -> None:
    """A shell starts its background jobs deaf to these, and so would be every program that a test starts and interrupts."""
    os.environ["XDG_RUNTIME_DIR"] = _place.name
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure() -> None:
    _place.cleanup()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "jobs.db")


@pytest.fixture
def client(database: str) -> Iterator[SyncClient]:
    """A client with a runner and two workers."""
    with SyncClient(database, workers=2, runner="own", durability="normal") as client:
        yield client


@pytest.fixture
def submitter(database: str) -> Iterator[SyncClient]:
    """A client, and no runner."""
    with SyncClient(database, runner="never", durability="normal") as client:
        yield client


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, int]], Path]:
    """Gives virtual environments by version, each made once, with a native package in it and nothing of ours."""
    folder = tmp_path_factory.mktemp("environments")
    return functools.cache(lambda version: environment_of(version, folder, "msgspec"))


@pytest.fixture(scope="session")
def display() -> Iterator[str]:
    """A screen that nobody sees."""
    if importlib.util.find_spec("_tkinter") is None:
        pytest.skip("this Python has no Tk")
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb (apt-get install xvfb)")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with open(reading) as file:
        number = file.readline().strip()
    assert number, "Xvfb did not start"
    yield f":{number}"
    server.terminate()
    server.wait()
