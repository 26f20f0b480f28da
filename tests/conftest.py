"""What all tests start from."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastworker_lite import SyncClient


def pytest_configure() -> None:
    """A shell starts its background jobs deaf to these, and so would be every program that a test starts and interrupts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


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
