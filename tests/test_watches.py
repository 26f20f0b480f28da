"""Being told by the kernel that a process has ended, with whatever this Python and this kernel have for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from fastworker_lite import watches
from fastworker_lite.sockets import wait_readable

SLEEP = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
SLEEP_AND_TELL = "import subprocess, sys\nchild = subprocess.Popen(sys.argv[1:], stdin=0)\nprint(child.pid, flush=True)\nchild.wait()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE) as child:
        yield child


@pytest.fixture(params=["as it is", "without os.pidfd_open", "before Linux 5.3"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], int | None]:
    if request.param == "before Linux 5.3":
        return watches._watch_process_by_thread
    if request.param == "without os.pidfd_open":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    return watches.watch_process


def test_the_end_of_a_child_is_told(child: subprocess.Popen[bytes], watch: Callable[[int], int | None]) -> None:
    descriptor = watch(child.pid)
    assert descriptor is not None

    assert not wait_readable([descriptor], 0.05)
    child.kill()

    assert wait_readable([descriptor], 10)
    assert child.wait() == -9, "its exit status was taken away"
    os.close(descriptor)


def test_the_end_of_a_process_of_others_is_told(watch: Callable[[int], int | None]) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", SLEEP_AND_TELL, *SLEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        descriptor = watch(int(parent.stdout.readline()))
        assert descriptor is not None

        assert not wait_readable([descriptor], 0.05)
        parent.stdin.close()

        assert wait_readable([descriptor], 10)
        os.close(descriptor)


def test_a_process_that_is_gone_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as child:
        child.wait()

    if sys.platform == "linux":
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        assert watches.watch_process(child.pid) is None
