"""Wake-ups on real sockets, between threads and processes."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import stat
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest

from fastworker_lite import SyncClient
from fastworker_lite.paths import SidePaths
from fastworker_lite.sockets import (
    MAX_PATH,
    TurnOnWake,
    Waker,
    WakeSocket,
    drain,
    remove_stale_sockets,
    socket_directory,
)
from fastworker_lite.store import runners
from tests.test_crash import children_of, until


@pytest.fixture
def wake(tmp_path):
    wake = WakeSocket(str(tmp_path / "w"))
    yield wake
    wake.close()


def poke(address, times=1):
    waker = Waker()
    waker.poke(address, times)
    waker.close()


def sleepers(wake, stop, count):
    """Threads that take one datagram each; which of them have woken, and one to join."""
    woken = []

    def sleep(number):
        with socket.socket(fileno=os.dup(wake.fileno())) as shared:
            if TurnOnWake(shared.fileno(), stop).wait():
                woken.append((number, drain(shared, at_most=1)))

    threads = [threading.Thread(target=sleep, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    return woken, threads


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every sleeper wakes, and all but one sleep again")
def test_one_datagram_wakes_one_of_many_sleepers(wake):
    never, end = os.pipe()
    woken, threads = sleepers(wake, never, 4)
    for expected in (1, 2):
        threading.Event().wait(0.1)
        poke(wake.address)
        threading.Event().wait(0.2)
        assert len(woken) == expected and all(taken == 1 for _, taken in woken)
    os.close(end)
    for thread in threads:
        thread.join(5)
    assert len(woken) == 2


def test_the_end_wakes_every_sleeper(wake):
    stop, end = os.pipe()
    woken, threads = sleepers(wake, stop, 3)
    os.close(end)
    for thread in threads:
        thread.join(5)
    assert not woken and not any(thread.is_alive() for thread in threads)


def test_datagrams_sent_while_nobody_sleeps_are_not_lost(wake):
    stop, _ = os.pipe()
    poke(wake.address, 3)
    woken, threads = sleepers(wake, stop, 3)
    for thread in threads:
        thread.join(5)
    assert [taken for _, taken in woken] == [1, 1, 1]


def test_a_socket_is_for_this_user_alone(tmp_path):
    before = os.umask(0)
    try:
        wake = WakeSocket(str(tmp_path / "w"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(wake.address).st_mode) == 0o600
    wake.close()
    assert not os.path.exists(wake.address)


def test_poking_nobody_is_no_trouble(tmp_path):
    (tmp_path / "file").write_text("")
    for address in (tmp_path / "nobody", tmp_path / "file", tmp_path / "no" / "folder", "/" + "x" * 200):
        poke(str(address))


@pytest.mark.parametrize("length", [40, 100, 108, 200, 240])
def test_sockets_of_a_long_path_are_bound_in_a_short_private_place(tmp_path, length):
    folder = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 10))
    (folder / "jobs.db.d").mkdir(parents=True)
    directory = socket_directory(SidePaths.of(folder / "jobs.db"))
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    address = os.path.join(directory, "res-4194304-12345678")
    assert len(os.fsencode(address)) <= MAX_PATH
    wake = WakeSocket(address)
    poke(wake.address)
    assert wake.clear() == 1
    wake.close()


def test_only_sockets_that_nobody_has_open_are_swept_away(tmp_path, wake):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as gone:
        gone.bind(str(tmp_path / "gone"))
    (tmp_path / "file").write_text("kept")

    remove_stale_sockets(str(tmp_path))

    assert sorted(os.listdir(tmp_path)) == ["file", "w"]


def test_sockets_of_a_runner_that_somebody_removes_are_bound_again(client):
    assert client.submit(abs, -1).result(timeout=20) == 1
    [where] = client._call(lambda connection: connection.read(runners.addresses))
    for address in where:
        os.unlink(address)

    began = time.monotonic()
    assert client.submit(abs, -2).result(timeout=20) == 2
    late = time.monotonic() - began
    until(lambda: all(os.path.exists(address) for address in where))
    until(lambda: not any(map(is_deaf, children_of(os.getpid()))))
    took = []
    for number in range(9):
        began = time.monotonic()
        assert client.submit(abs, -number).result(timeout=20) == number
        took.append(time.monotonic() - began)
    print(f"the first job took {late:.3f} s, later ones {statistics.median(took) * 1000:.1f} ms")
    assert statistics.median(took) < 0.1, "and not the second after which a runner looks by itself"


def is_deaf(worker):
    """Whether this process reads a socket that has no name any more, beside those of its own."""
    with open("/proc/net/unix") as file:
        named = {
            line.split()[6]
            for line in file.readlines()[1:]
            if len(line.split()) > 7 and os.path.exists(line.split()[7])
        }
    inodes = set()
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        with contextlib.suppress(OSError):
            found = os.readlink(entry)
            if found.startswith("socket:"):
                inodes.add(found[8:-1])
    return bool(inodes) and not inodes & named


# ---- hostility


def test_three_hundred_hostile_datagrams_to_each_socket_of_a_runner_and_of_a_waiter_change_nothing(tmp_path):
    """What a datagram says is never read, only that it came: a job is run as quickly as ever, and nobody spins."""
    from tests.test_listener import hostile

    seed = int(os.environ.get("FWL_SEED", time.time_ns() % 1_000_000))
    chance = random.Random(seed)
    with SyncClient(tmp_path / "jobs.db", workers=1, runner="own", durability="normal") as client:
        assert client.submit(abs, -1).result(timeout=20) == 1
        waiting = client.options(delay=30).submit(abs, -2)
        waiter = threading.Thread(target=waiting.wait, args=(2.0,))
        waiter.start()  # and with it the socket of a waiter
        workers = children_of(os.getpid())
        directory = Path(client._call(lambda connection: connection.read(runners.addresses))[0].wake).parent
        until(lambda: len(list(directory.iterdir())) >= 5)
        addresses = [str(path) for path in directory.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
        took = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
            caller.setblocking(False)
            for number in range(310):
                for address in addresses:
                    with contextlib.suppress(OSError):  # too long for a datagram, or nobody there any more
                        caller.sendto(hostile(chance, number)[: chance.choice([1, 100, 60_000, 10**7])], address)
                if number % 31 == 0:
                    began = time.perf_counter()
                    assert client.submit(abs, -number).result(timeout=10) == number
                    took.append(time.perf_counter() - began)
        waiter.join()
        before = time.process_time()
        time.sleep(0.5)
        spun = time.process_time() - before
        assert children_of(os.getpid()) == workers
    print(
        f"FWL_SEED={seed}: 310 sequences to {len(addresses)} sockets; a job took {statistics.median(took) * 1000:.1f} ms"
    )
    assert len(addresses) >= 5
    assert statistics.median(took) <= 0.05
    assert spun < 0.25
