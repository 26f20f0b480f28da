"""Listeners on real sockets: what they take, what they acknowledge, and what they never touch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import stat
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker_lite import reception, streams
from fastworker_lite.errors import ConfigError, ForkedError, StorageError
from fastworker_lite.intake import MAX_REMEMBERED, MAX_WAITING, Intake, Sender, read_event
from fastworker_lite.listener import CallbackListener, SyncCallbackListener
from fastworker_lite.sockets import WakeSocket
from fastworker_lite.streams import (
    MAX_CONNECTIONS,
    MAX_LINE,
    Lines,
    LineTooLong,
    ListeningSocket,
    callback_path,
    check_peer,
    connect,
)
from tests.test_crash import until

ROOT = Path(__file__).resolve().parent.parent
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def event(event_id, **more):
    known = dict.fromkeys(["result", "error", "started_at", "completed_at", "callback_data"])
    return known | {"task_id": "1", "status": "success", "task_name": "add", "attempt": 1, "event_id": event_id} | more


class Caller:
    """A runner, as far as a listener sees it: a blocking socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def send(self, *event_ids, **more):
        self.raw(b"".join(json.dumps(event(event_id, **more)).encode() + b"\n" for event_id in event_ids))

    def raw(self, data):
        self.socket.sendall(data)

    def answer(self):
        return self._lines.readline().decode().rstrip()

    def has_answer(self, seconds=0.05):
        return bool(select.select([self.socket], [], [], seconds)[0])

    def is_hung_up_on(self):
        try:
            return self._lines.read() == b""
        except ConnectionResetError:
            return True

    def close(self):
        self._lines.close()
        self.socket.close()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "app.sock")


@pytest.fixture
def call(path):
    """Connects a caller to the listener of this test."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(contextlib.closing(Caller(path)))


@pytest.fixture
def listener(path):
    with contextlib.closing(SyncCallbackListener(path)) as listener:
        yield listener


def leave_a_stale_socket(path):
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))


def off_loop(function, *args):
    return asyncio.wait_for(asyncio.to_thread(function, *args), 10)


# Addresses


@pytest.mark.parametrize(
    "address", ["unix:///run/app.sock", "ipc:///run/app.sock", "/run/app.sock", "UNIX:///run//app.sock"]
)
def test_every_spelling_of_a_path_names_the_same_socket(address):
    assert callback_path(address) == "/run/app.sock"


def test_a_bare_path_is_taken_from_where_the_program_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert callback_path("app.sock") == callback_path(Path("app.sock")) == str(tmp_path / "app.sock")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "LocalHost"])
def test_a_local_tcp_address_names_a_socket_of_the_runtime_directory(host, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert callback_path(f"tcp://{host}:6000") == str(tmp_path / "fastworker" / "tcp-6000.sock")
    assert os.listdir(tmp_path) == []

    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert callback_path(f"tcp://{host}:6000") == f"/tmp/fastworker-{os.geteuid()}/tcp-6000.sock"


@pytest.mark.parametrize(
    "address",
    [
        *("", "unix://", "unix:///", "unix:///run/", "unix://run/app.sock", "unix:app.sock", "unix:/run/app.sock"),
        *("tcp://example.org:6000", "tcp://0.0.0.0:6000", "tcp://localhost", "tcp://localhost:0", "tcp://localhost:65536"),
        *("tcp://localhost:6000/x", "tcp://localhost:६०००", "tcp://[::1]:6000", "tcp://localhost.evil.org:6000"),
        *("http://localhost:80", "inproc://x", "a\0b", "unix:///a\0b", "/run/\ud800.sock", "/" + "x" * 107),
    ],
)  # fmt: skip
def test_what_cannot_be_a_socket_here_is_refused_with_the_value(address):
    with pytest.raises(ConfigError, match=r"address|path") as caught:
        callback_path(address)
    assert isinstance(caught.value, ValueError)


def test_the_longest_path_can_be_bound(tmp_path):
    longest = str(tmp_path / ("x" * (streams.MAX_PATH - len(str(tmp_path)) - 1)))
    with SyncCallbackListener(longest), contextlib.closing(Caller(longest)):
        pass
    with pytest.raises(ConfigError, match="107 bytes long, got 108"):
        callback_path(longest + "x")


def test_the_runtime_directory_is_made_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with SyncCallbackListener("tcp://localhost:6000") as listener:
        assert stat.S_IMODE(os.stat(tmp_path / "fastworker").st_mode) == 0o700
        assert stat.S_ISSOCK(os.lstat(listener.path).st_mode)


@as_root
def test_a_runtime_directory_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "fastworker").mkdir()
    os.chown(tmp_path / "fastworker", 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        SyncCallbackListener("tcp://localhost:6000")


# The socket's life


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o277, 0o777])
def test_the_socket_is_for_this_user_alone_from_its_first_instant(path, umask, monkeypatch):
    modes = []
    bind = socket.socket.bind

    def bind_and_look(self, address):
        bind(self, address)
        modes.append(stat.S_IMODE(os.lstat(address).st_mode))

    monkeypatch.setattr(socket.socket, "bind", bind_and_look)
    before = os.umask(umask)
    try:
        listening = ListeningSocket(path)
    finally:
        os.umask(before)
    modes.append(stat.S_IMODE(os.lstat(path).st_mode))
    listening.close()
    assert [mode & 0o177 for mode in modes] == [0, 0] and modes[-1] == 0o600


def test_a_watcher_never_sees_a_looser_mode(path):
    seen, end = set(), threading.Event()

    def watch():
        while not end.is_set():
            with contextlib.suppress(OSError):
                seen.add(stat.S_IMODE(os.lstat(path).st_mode))

    watcher = threading.Thread(target=watch)
    before = os.umask(0)
    watcher.start()
    try:
        for _ in range(300):
            ListeningSocket(path).close()
    finally:
        os.umask(before)
        end.set()
        watcher.join()
    assert seen <= {0o600}


def test_the_socket_is_removed_at_the_end(path):
    with SyncCallbackListener(path):
        assert os.path.exists(path)
    assert not os.path.exists(path)


def test_a_socket_that_took_our_place_is_left_alone(path):
    listening = ListeningSocket(path)
    os.unlink(path)
    with contextlib.closing(ListeningSocket(path)), contextlib.closing(Caller(path)):
        listening.close()
        assert os.path.exists(path)


def test_a_stale_socket_is_replaced(path, call):
    leave_a_stale_socket(path)
    with SyncCallbackListener(path) as listener:
        call().raw(b"ping\n")
        listener.poll()


def test_a_live_socket_is_refused_with_the_process_that_listens(path, listener):
    with pytest.raises(StorageError, match=f"process {os.getpid()} listens at {path}"):
        SyncCallbackListener(path)
    assert os.path.exists(path)


def test_a_live_socket_without_room_for_a_connection_is_refused(path):
    with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as first:
        full.bind(path)
        full.listen(0)
        first.connect(path)
        with pytest.raises(StorageError, match="another process listens"):
            SyncCallbackListener(path)


def test_a_live_socket_of_another_kind_is_refused(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(StorageError, match="another process listens"):
            SyncCallbackListener(path)


def plant_file(path, tmp_path):
    Path(path).write_text("precious")


def plant_link(path, tmp_path):
    (tmp_path / "passwd").write_text("precious")
    os.symlink(tmp_path / "passwd", path)


def plant_link_to_a_stale_socket(path, tmp_path):
    leave_a_stale_socket(tmp_path / "other.sock")
    os.symlink(tmp_path / "other.sock", path)


def plant_dangling_link(path, tmp_path):
    os.symlink(tmp_path / "nothing", path)


def plant_fifo(path, tmp_path):
    os.mkfifo(path)


def plant_folder(path, tmp_path):
    os.mkdir(path)


@pytest.mark.parametrize(
    "plant",
    [plant_file, plant_link, plant_link_to_a_stale_socket, plant_dangling_link, plant_fifo, plant_folder],
)
def test_what_is_no_socket_is_never_unlinked(plant, path, tmp_path):
    plant(path, tmp_path)
    before = [(name, os.lstat(tmp_path / name).st_ino) for name in sorted(os.listdir(tmp_path))]
    with pytest.raises(StorageError, match="is in the way and is no socket; remove it"):
        SyncCallbackListener(path)
    assert [(name, os.lstat(tmp_path / name).st_ino) for name in sorted(os.listdir(tmp_path))] == before


@as_root
def test_a_stale_socket_of_somebody_else_is_left_to_him(path):
    leave_a_stale_socket(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(StorageError, match="belongs to user 65534"):
        SyncCallbackListener(path)
    assert os.path.exists(path)


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    with pytest.raises(StorageError, match="No such file or directory; choose a folder"):
        SyncCallbackListener(tmp_path / "no" / "app.sock")


def test_of_many_that_replace_a_stale_socket_at_once_one_listens(path):
    for _ in range(20):
        leave_a_stale_socket(path)
        start, won, lost = threading.Barrier(6), [], []

        def take_over(start=start, won=won, lost=lost):
            start.wait()
            try:
                won.append(ListeningSocket(path))
            except StorageError as error:
                lost.append(error)

        threads = [threading.Thread(target=take_over) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        Caller(path).close()
        for listening in won:
            listening.close()
        assert (len(won), len(lost)) == (1, 5)


def test_a_folder_that_stays_locked_is_reported_instead_of_waited_for(path, monkeypatch):
    monkeypatch.setattr(streams, "_LOCK_SECONDS", 0.02)
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(StorageError, match="holds a lock"):
            SyncCallbackListener(path)
    finally:
        os.close(descriptor)


SYNC_PROGRAM = """
import sys
from fastworker_lite.listener import SyncCallbackListener
with SyncCallbackListener(sys.argv[1]) as listener:
    print("listening", flush=True)
    for event in listener:
        print(event["event_id"], flush=True)
"""

ASYNC_PROGRAM = """
import asyncio, sys
from fastworker_lite.listener import CallbackListener
async def main():
    async with CallbackListener(sys.argv[1]) as listener:
        print("listening", flush=True)
        async for event in listener:
            print(event["event_id"], flush=True)
asyncio.run(main())
"""

#: A listener without this package.
PLAIN_SOCKETS = """
import json, os, socket, sys
os.umask(0o177)
with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(sys.argv[1])
    listening.listen()
    print("listening", flush=True)
    while True:
        connection, _ = listening.accept()
        with connection, connection.makefile() as lines:
            for line in lines:
                if line == "ping\\n":
                    connection.sendall(b"pong\\n")
                else:
                    event = json.loads(line)
                    print(event["event_id"], flush=True)
                    connection.sendall(f"ok {event['event_id']}\\n".encode())
"""


@contextlib.contextmanager
def running(program, path):
    process = subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout.readline() == "listening\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_there(path):
    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), connect(path):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the file of a socket cannot be watched")
@pytest.mark.parametrize("program", [SYNC_PROGRAM, ASYNC_PROGRAM], ids=["sync", "async"])
def test_a_socket_that_disappeared_is_bound_again(program, path, call):
    with running(program, path) as process:
        known = call()
        for number in range(3):
            os.unlink(path)
            until(lambda: is_there(path), 5)
            late = call()
            for caller in (known, late):
                caller.raw(b"ping\n")
                assert caller.answer() == "pong"
            late.send(str(number))
            assert process.stdout.readline() == f"{number}\n"


def test_the_socket_of_a_killed_listener_is_replaced_and_what_it_did_not_acknowledge_comes_again(path, call):
    with running(SYNC_PROGRAM, path) as process:
        caller = call()
        caller.send("1")
        assert process.stdout.readline() == "1\n"
        process.kill()
        process.wait()
        answers = caller.socket.recv(100)
    assert stat.S_ISSOCK(os.lstat(path).st_mode)

    with running(SYNC_PROGRAM, path) as process:
        caller = call()
        caller.send("1")
        assert process.stdout.readline() == "1\n"
        assert caller.answer() == "ok 1" and answers in (b"", b"ok 1\n")


def test_a_stopped_listener_still_owns_its_socket(path):
    with running(SYNC_PROGRAM, path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(StorageError, match=f"process {process.pid} listens"):
            SyncCallbackListener(path)


def test_a_few_lines_of_plain_sockets_are_a_listener(path, call):
    with running(PLAIN_SOCKETS, path) as process:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        caller = call()
        caller.send("1", "2")
        caller.raw(b"ping\n")
        assert [process.stdout.readline(), process.stdout.readline()] == ["1\n", "2\n"]
        assert [caller.answer(), caller.answer(), caller.answer()] == ["ok 1", "ok 2", "pong"]


def in_forked_child(function):
    """Call *function* in a forked child; its exit code says which exception it raised: an errno, or 1."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            function()
        except OSError as error:
            code = error.errno or 1
        except BaseException:
            code = 1
        finally:
            os._exit(code)
    return pid


def exit_code(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_forked_child_neither_listens_nor_removes_the_socket(path, call):
    with SyncCallbackListener(path) as listener:

        def use_it():
            with pytest.raises(ForkedError):
                listener.poll()
            listener.close()

        assert exit_code(in_forked_child(use_it)) == 0
        assert os.path.exists(path)
        caller = call()
        listener.poll()
        never, end = os.pipe()
        pid = in_forked_child(lambda: (os.close(end), os.read(never, 1)))
    assert caller.is_hung_up_on()  # although the child still runs
    os.close(end)
    os.close(never)
    exit_code(pid)


# Who may talk


@pytest.fixture
def open_folder():
    """A folder that every user can enter; pytest's own are closed to them."""
    folder = tempfile.mkdtemp(dir="/tmp")
    os.chmod(folder, 0o777)
    yield Path(folder)
    shutil.rmtree(folder)


def ask_as_somebody_else(path):
    os.setuid(65534)
    with contextlib.closing(Caller(path)) as caller:
        caller.raw(b"ping\n")
        os._exit(10 if caller.answer() == "pong" else 11)


class MacSocket:
    """What a socket of macOS answers when it is asked for LOCAL_PEERCRED of SOL_LOCAL: a struct xucred."""

    def __init__(self, user):
        self.user = user

    def getsockopt(self, level, name, size):
        assert (level, name, size) == (0, 1, 76)
        return struct.pack("@IIh16I", 0, self.user, 1, *range(16))


def test_the_other_end_is_known_on_macos_too(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    check_peer(MacSocket(os.geteuid()))
    check_peer(MacSocket(0))
    with pytest.raises(PermissionError, match="user 12345"):
        check_peer(MacSocket(12345))


@pytest.mark.parametrize("kind", [ListeningSocket, WakeSocket])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_socket_is_bound_for_this_user_alone_in_either_way(path, kind, platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    before = os.umask(0o022)
    try:
        with contextlib.closing(kind(path)):
            assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
    finally:
        assert os.umask(before) == 0o022


@as_root
def test_another_user_cannot_connect(open_folder):
    with SyncCallbackListener(open_folder / "app.sock") as listener:
        assert exit_code(in_forked_child(lambda: ask_as_somebody_else(listener.path))) == errno.EACCES


@as_root
def test_another_user_is_hung_up_on_even_if_the_socket_lets_him_connect(open_folder, caplog):
    with SyncCallbackListener(open_folder / "app.sock") as listener:
        os.chmod(listener.path, 0o777)
        pid = in_forked_child(lambda: ask_as_somebody_else(listener.path))
        assert listener.poll(0.2) == []
        assert exit_code(pid) in (11, errno.EPIPE, errno.ECONNRESET)
    assert "the other end is user 65534, not 0" in caplog.text


@as_root
def test_a_sender_does_not_talk_to_the_listener_of_another_user(open_folder):
    path = str(open_folder / "app.sock")
    reading, writing = os.pipe()

    def listen_as_somebody_else():
        os.setuid(65534)
        with contextlib.closing(ListeningSocket(path)):
            os.write(writing, b"x")
            time.sleep(5)

    pid = in_forked_child(listen_as_somebody_else)
    os.read(reading, 1)
    try:
        with pytest.raises(PermissionError, match="user 65534"):
            connect(path)
    finally:
        os.kill(pid, signal.SIGKILL)
        exit_code(pid)
        os.close(reading)
        os.close(writing)


def test_a_sender_connects_to_its_own_user(path, listener):
    with connect(path) as connection:
        check_peer(connection)
        assert not connection.getblocking()


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda path: None, FileNotFoundError),
        (leave_a_stale_socket, ConnectionRefusedError),
        (lambda path: Path(path).write_text(""), ConnectionRefusedError),
    ],
)
def test_a_sender_learns_why_it_cannot_connect(path, prepare, kind):
    prepare(path)
    with pytest.raises(kind):
        connect(path)


# The conversation, without sockets


def told(*chunks):
    """What a fresh intake makes of *chunks*: the ids it has, what it answers, and whether it hangs up."""
    intake, sender = Intake(), Sender()
    for chunk in chunks:
        if not sender.is_over:
            intake.hear(sender, chunk)
    events = [intake.take() for _ in range(len(intake))]
    return [delivery.event_id for delivery in events], sender.answers.decode().splitlines(), sender.is_over


def line(**content):
    return json.dumps(content).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\n", "not JSON"),
        (b"hello\n", "not JSON"),
        (b"\xff\n", "not UTF-8"),
        (b"\0\n", "not JSON"),
        (b'{"event_id": "a\0b"}\n', "not JSON"),
        (b"\xef\xbb\xbf{}\n", "not JSON"),
        (b'{"event_id": "1", "result": NaN}\n', "not JSON"),
        (b'{"event_id": "1", "result": -Infinity}\n', "not JSON"),
        (b'{"event_id": "1", "result": ' + b"1" * 5000 + b"}\n", "not JSON"),
        (b'{"event_id": ' + b"[" * 100_000 + b"\n", "nested too deep"),
        (b'{"a":' * 100_000 + b"\n", "nested too deep"),
        (b"[]\n", "not an object"),
        (b'"event_id"\n', "not an object"),
        (b'{"event_id": 1}\n', "not an object with an event_id"),
        (b'{"event_id": ""}\n', "not an object with an event_id"),
        (b'{"event_id": "1\\nok 2"}\n', "not an object with an event_id"),
        (b'{"event_id": "\\ud800"}\n', "not an object with an event_id"),
        (b"x" * (MAX_LINE + 1), "a line may have"),
        (b" " * (MAX_LINE + 1) + b"\n", "a line may have"),
    ],
)
def test_what_is_no_event_is_answered_with_the_reason_and_ends_the_conversation(data, reason):
    events, answers, is_over = told(line(event_id="1") + b"ping\n" + data + line(event_id="2") + b"ping\n")
    assert events == ["1"] and is_over
    assert answers[0] == "pong" and answers[1].startswith(f"error {reason}") and len(answers) == 2


def test_a_line_may_be_as_long_as_the_limit():
    start = b'{"event_id": "1", "result": "'
    assert told(start + b"x" * (MAX_LINE - len(start) - 2) + b'"}\n') == (["1"], [], False)


def test_of_two_equal_keys_the_last_one_counts():
    assert read_event(b'{"event_id": "1", "event_id": "2"}')[0] == "2"


@settings(deadline=None, max_examples=100)
@given(
    said=st.lists(
        st.one_of(
            st.integers(0, 5).map(lambda number: line(event_id=str(number))),
            st.just(b"ping\r\n"),
            st.binary(max_size=40),
            st.recursive(
                st.none() | st.floats() | st.text(max_size=5),
                lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["event_id", "x"]), inner),
            ).map(lambda value: json.dumps(value).encode() + b"\n"),
        ),
        max_size=12,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_where_the_bytes_are_cut_changes_nothing(said, cuts):
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    assert told(*(said[start:end] for start, end in itertools.pairwise(edges))) == told(said)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=20)))
def test_lines_are_what_splitting_at_newlines_gives(chunks):
    lines, taken = Lines(), []
    for chunk in chunks:
        lines.add(chunk)
        while (one := lines.take()) is not None:
            taken.append(one)
    assert taken == b"".join(chunks).split(b"\n")[:-1]


def test_a_line_that_never_ends_is_held_no_longer_than_the_limit():
    lines = Lines()
    with pytest.raises(LineTooLong):
        for _ in range(MAX_LINE // 65536 + 1):
            lines.add(b"x" * 65536)
            assert lines.take() is None


def test_the_last_ten_thousand_acknowledged_events_are_known_again():
    intake, sender = Intake(), Sender()
    for number in range(MAX_REMEMBERED + 1):
        intake.hear(sender, line(event_id=str(number)))
        intake.acknowledge(intake.take())
    sender.answers.clear()
    intake.hear(sender, line(event_id="1") + line(event_id="0"))
    assert sender.answers == b"ok 1\n" and intake.take().event_id == "0"


# Without asyncio


def test_an_event_arrives_as_it_was_sent(listener, call):
    call().send("1", result=[1, {"ü": None}], reason="why")
    assert listener.poll(5) == [event("1", result=[1, {"ü": None}], reason="why")]


def test_events_are_acknowledged_by_the_next_poll(listener, call):
    caller = call()
    caller.send("1", "2")
    assert [event["event_id"] for event in listener.poll(5)] == ["1", "2"]
    assert not caller.has_answer()
    assert listener.poll() == []
    assert [caller.answer(), caller.answer()] == ["ok 1", "ok 2"]


def test_poll_does_not_wait_longer_than_it_may(listener, call):
    assert listener.poll() == []
    began = time.monotonic()
    call().raw(b"ping\n")
    assert listener.poll(0.1) == [] and 0.1 <= time.monotonic() - began < 1


def test_the_descriptor_tells_when_to_poll_until_all_is_acknowledged(listener, call):
    assert select.select([listener], [], [], 0)[0] == []
    caller = call()
    caller.send("1")
    polled = []
    while select.select([listener], [], [], 0.1)[0]:
        polled.append(len(listener.poll()))
    assert polled == [1, 0] and caller.answer() == "ok 1"


def test_a_loop_acknowledges_each_event_when_it_comes_back(listener, call):
    caller = call()
    caller.send("1", "2")
    assert next(listener)["event_id"] == "1"
    assert not caller.has_answer()
    assert next(listener)["event_id"] == "2"
    assert caller.answer() == "ok 1" and not caller.has_answer()


def test_leaving_the_block_acknowledges_what_is_in_hand(path, call):
    with SyncCallbackListener(path) as listener:
        caller = call()
        caller.send("1")
        for _ in listener:
            break
    assert caller.answer() == "ok 1" and caller.is_hung_up_on()


def test_leaving_the_block_by_an_exception_acknowledges_nothing(path, call):
    with pytest.raises(ZeroDivisionError), SyncCallbackListener(path) as listener:
        caller = call()
        caller.send("1")
        listener.poll(5)
        1 / 0  # noqa: B018
    assert caller.is_hung_up_on()


def test_closing_acknowledges_nothing(path, call):
    listener = SyncCallbackListener(path)
    caller = call()
    caller.send("1")
    listener.poll(5)
    listener.close()
    listener.close()
    assert caller.is_hung_up_on() and not os.path.exists(path)
    with pytest.raises(ValueError):
        listener.poll()


def test_an_acknowledged_event_that_comes_again_is_acknowledged_again_and_not_given(listener, call):
    call().send("1")
    listener.poll(5)
    listener.poll()
    caller = call()
    caller.send("1", "2")
    assert [event["event_id"] for event in listener.poll(5)] == ["2"]
    assert caller.answer() == "ok 1"


def test_an_event_in_hand_that_comes_again_is_acknowledged_to_both_once_it_is_handled(listener, call):
    first, second = call(), call()
    first.send("1")
    listener.poll(5)
    second.send("1")
    listener._reception.turn(0.1)
    assert not first.has_answer() and not second.has_answer()
    assert listener.poll(0.1) == []
    assert first.answer() == second.answer() == "ok 1"


def test_a_sender_that_reconnects_while_the_program_is_busy_is_not_remembered_each_time(listener, call):
    call().send("1")
    listener.poll(5)
    for _ in range(20):
        caller = Caller(listener.path)
        caller.send("1")
        caller.raw(b"x" * 1000)
        listener._reception.turn(0.1)
        caller.close()
        listener._reception.turn(0.1)
    (delivery,) = listener._in_hand
    assert len(delivery.senders) <= 2


def test_events_whose_sender_is_gone_are_still_given(listener, call):
    caller = call()
    caller.send("1", "2")
    caller.close()
    assert len(listener.poll(5)) == 2
    assert listener.poll() == []


def test_an_event_can_come_in_single_bytes(listener, call):
    caller = call()
    for byte in json.dumps(event("1")).encode() + b"\n":
        caller.raw(bytes([byte]))
        listener._reception.turn(0.1)
    assert len(listener.poll(5)) == 1


def test_one_more_connection_than_allowed_ends_the_oldest_that_never_said_a_line(listener, call):
    callers = [call() for _ in range(MAX_CONNECTIONS)]
    callers[1].raw(b"pin")
    listener.poll(0.05)
    late = call()
    late.raw(b"ping\n")
    callers[0].raw(b"ping\n")  # not known yet when the late one is met
    listener.poll(0.05)
    assert callers[0].answer() == late.answer() == "pong"
    assert callers[1].is_hung_up_on() and not callers[2].has_answer(0)


@pytest.fixture
def in_a_hurry(monkeypatch):
    monkeypatch.setattr(reception, "HANDSHAKE_SECONDS", 0.2)


@pytest.mark.parametrize("said", [b"", b"pin", b"x" * 1000])
def test_who_does_not_say_a_line_in_time_is_hung_up_on_and_nobody_else(listener, call, in_a_hurry, said):
    silent, spoken = call(), call()
    silent.raw(said)
    spoken.raw(b"ping\npin")
    listener.poll(0.1)
    assert spoken.answer() == "pong" and not silent.has_answer(0)
    assert listener.poll(0.4) == []
    assert silent.is_hung_up_on()
    spoken.raw(b"g\n")
    listener.poll(0.05)
    assert spoken.answer() == "pong"


def test_an_async_listener_hangs_up_on_who_says_nothing_and_sleeps_then(path, call, in_a_hurry):
    async def main():
        async with CallbackListener(path) as listener:
            silent = call()
            assert await off_loop(silent.is_hung_up_on)
            assert listener._reception.patience() is None

    asyncio.run(main())


def test_who_spoke_in_time_to_a_busy_program_is_heard_however_long_the_line(listener, call, in_a_hurry):
    with contextlib.closing(call()) as caller:
        long = threading.Thread(target=caller.send, args=("1",), kwargs={"result": "x" * 1_000_000}, daemon=True)
        long.start()
        events = []
        while not events:
            events = listener.poll(0)
            time.sleep(0.25)  # the program does something else
        assert len(events[0]["result"]) == 1_000_000
        long.join(5)


def test_a_line_that_only_trickles_in_is_not_waited_for(listener, call, in_a_hurry):
    caller, began = call(), time.monotonic()
    while time.monotonic() - began < 5:
        try:
            caller.raw(b"x")
        except OSError:
            break
        listener.poll(0.05)
    print(f"hung up after {time.monotonic() - began:.2f} s")
    assert time.monotonic() - began < 1


def test_one_more_connection_than_allowed_is_sent_away_if_all_have_spoken(listener, call):
    callers = [call() for _ in range(MAX_CONNECTIONS)]
    for caller in callers:
        caller.raw(b"ping\n")
    listener.poll(0.05)
    late = call()
    listener.poll(0.05)
    assert late.answer() == f"error {MAX_CONNECTIONS} connections are open" and late.is_hung_up_on()
    assert {caller.answer() for caller in callers} == {"pong"}


def test_a_caller_that_reads_no_answers_is_no_longer_read(listener, call):
    deaf = call()
    deaf.socket.setblocking(False)
    pings, sent = b"ping\n" * 10_000, 0
    while sent < 64 * MAX_LINE:
        try:
            sent += deaf.socket.send(pings[sent % len(b"ping\n") :])
        except BlockingIOError:
            if not select.select([], [deaf.socket], [], 0)[1] and not select.select([listener], [], [], 0)[0]:
                break
            listener.poll()
    assert sent < 2 * MAX_LINE
    other = call()
    other.raw(b"ping\n")
    listener.poll(0.05)
    assert other.answer() == "pong"


def test_a_process_without_descriptors_turns_connections_away_instead_of_spinning(listener, call, caplog):
    caller = call()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    try:
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit[0], highest + 20), limit[1]))
        with pytest.raises(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        listener.poll(0.05)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert caller.is_hung_up_on() and "no descriptor left" in caplog.text
    assert not select.select([listener], [], [], 0)[0]
    caller = call()
    caller.send("1")
    assert len(listener.poll(5)) == 1


# With asyncio


def test_an_async_loop_acknowledges_each_event_when_it_comes_back(path, call):
    async def program():
        async with CallbackListener(path) as listener:
            caller = call()
            caller.send("1", "2")
            assert (await anext(listener))["event_id"] == "1"
            assert not await off_loop(caller.has_answer)
            assert (await anext(listener))["event_id"] == "2"
            assert await off_loop(caller.answer) == "ok 1"
            assert not await off_loop(caller.has_answer)
        assert caller.answer() == "ok 2" and not os.path.exists(path)

    asyncio.run(program())


def test_leaving_an_async_block_by_an_exception_acknowledges_nothing(path, call):
    callers = []

    async def program():
        async with CallbackListener(path) as listener:
            callers.append(call())
            callers[0].send("1")
            async for _ in listener:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(program())
    assert callers[0].is_hung_up_on() and not os.path.exists(path)


def test_closing_ends_a_loop_that_waits(path):
    async def program():
        listener = CallbackListener(path)
        await listener.start()
        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(listener.aclose()))
        return [event async for event in listener]

    assert asyncio.run(program()) == []


def test_a_loop_over_a_listener_that_does_not_listen_is_refused(path):
    async def program():
        async for _ in CallbackListener(path):
            pass

    with pytest.raises(ConfigError, match="nobody listens at"):
        asyncio.run(program())


def test_a_waiting_loop_that_is_cancelled_loses_nothing(path, call):
    async def program():
        async with CallbackListener(path) as listener:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(listener), 0.05)
            call().send("1")
            return await asyncio.wait_for(anext(listener), 5)

    assert asyncio.run(program())["event_id"] == "1"


def test_a_listener_opens_again_after_it_was_closed(path, call):
    async def program():
        listener = CallbackListener(path)
        for number in "12":
            async with listener:
                call().send(number)
                assert (await anext(listener))["event_id"] == number

    asyncio.run(program())


def run_until_answered(listener, work):
    """Run *listener* while *work* talks to it from a thread; returns what that returned."""

    async def program():
        async with listener:
            running = asyncio.ensure_future(listener.run())
            try:
                return await off_loop(work)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(program())


def test_functions_are_called_with_the_events_of_their_tasks(path, call):
    listener, called = CallbackListener(path), []

    @listener.on("resize*")
    def plain(event):
        called.append(("plain", event["task_name"]))

    @listener.on()
    async def coroutine(event):
        await asyncio.sleep(0)
        called.append(("coroutine", event["task_name"]))

    def work():
        caller = call()
        caller.send("1", task_name="resize_all")
        caller.send("2", task_name="add")
        return caller.answer(), caller.answer()

    assert run_until_answered(listener, work) == ("ok 1", "ok 2")
    assert called == [("plain", "resize_all"), ("coroutine", "resize_all"), ("coroutine", "add")]
    assert plain.__name__ == "plain"


def test_an_event_that_no_function_wants_is_acknowledged(path, call):
    listener = CallbackListener(path)
    listener.on("other")(lambda event: 1 / 0)

    def work():
        caller = call()
        caller.send("1")
        caller.send("2", task_name=None)
        return caller.answer(), caller.answer()

    assert run_until_answered(listener, work) == ("ok 1", "ok 2")


def test_an_event_whose_function_raises_is_not_acknowledged_and_comes_again_in_order(path, call, caplog):
    listener, called = CallbackListener(path), []

    @listener.on("add")
    def fail_once(event):
        called.append(event["event_id"])
        if called == ["1"]:
            raise ZeroDivisionError

    def work():
        caller = call()
        caller.send("1", "2", "3")
        assert caller.is_hung_up_on()
        caller = call()
        caller.send("1", "2", "3")
        return caller.answer(), caller.answer(), caller.answer()

    assert run_until_answered(listener, work) == ("ok 1", "ok 2", "ok 3")
    assert called == ["1", "1", "2", "3"]
    assert "event 1 is not acknowledged" in caplog.text and "ZeroDivisionError" in caplog.text


def test_an_event_whose_function_is_cancelled_is_not_acknowledged(path, call):
    listener, began = CallbackListener(path), asyncio.Event()

    @listener.on()
    async def wait(event):
        began.set()
        await asyncio.sleep(60)

    async def program():
        async with listener:
            running = asyncio.ensure_future(listener.run())
            caller = call()
            caller.send("1")
            await began.wait()
            running.cancel()
            assert await off_loop(caller.is_hung_up_on)
            call().send("1")
            assert (await anext(listener))["event_id"] == "1"

    asyncio.run(program())


def test_run_listens_by_itself_and_stops_when_cancelled(path, call):
    async def program():
        running = asyncio.ensure_future(CallbackListener(path).run())
        await asyncio.sleep(0)
        caller = call()
        caller.send("1")
        assert await off_loop(caller.answer) == "ok 1"
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not os.path.exists(path)

    asyncio.run(program())


def test_a_program_that_never_waits_leaves_time_for_pings(path, call):
    listener, handled, began = CallbackListener(path), [], threading.Event()

    @listener.on()
    def block(event):
        handled.append(event["event_id"])
        began.set()
        time.sleep(0.005)

    def work():
        call().send(*map(str, range(500)))
        other = call()
        began.wait(5)
        before = len(handled)
        other.raw(b"ping\n")
        assert other.answer() == "pong"
        return len(handled) - before

    assert run_until_answered(listener, work) < 60


def push_until_full(caller, count):
    """Send events until nobody reads any more; returns how many went out, and what remained of the last one."""
    caller.socket.setblocking(False)
    for number in range(count):
        data = json.dumps(event(str(number), result="x" * 2000)).encode() + b"\n"
        while data:
            try:
                data = data[caller.socket.send(data) :]
            except BlockingIOError:
                if not select.select([], [caller.socket], [], 0.3)[1]:
                    caller.socket.settimeout(10)
                    return number, data
    raise AssertionError("nothing stopped the caller")


def test_a_slow_program_stops_its_senders_and_is_not_buried(path, call):
    async def program():
        async with CallbackListener(path) as listener:
            caller, other = call(), call()
            sent, rest = await off_loop(push_until_full, caller, 10_000)
            assert sent < MAX_WAITING + 500
            other.raw(b"ping\n")
            assert await off_loop(other.answer) == "pong"

            pushing = asyncio.ensure_future(off_loop(caller.raw, rest))
            numbers = [int((await asyncio.wait_for(anext(listener), 10))["event_id"]) for _ in range(sent + 1)]
            await pushing
            assert numbers == list(range(sent + 1))

    asyncio.run(program())


def test_many_senders_together_bring_no_more_than_may_wait():
    intake, senders = Intake(), [Sender() for _ in range(MAX_CONNECTIONS)]
    for turn in range(MAX_WAITING):
        for number, sender in enumerate(senders):
            if not sender.is_paused:
                intake.hear(sender, line(event_id=f"{turn}-{number}"))
    assert MAX_WAITING - MAX_CONNECTIONS <= len(intake) <= MAX_WAITING


def test_few_large_events_are_enough_as_well():
    intake, sender = Intake(), Sender()
    for number in range(100):
        if not sender.is_paused:
            intake.hear(sender, line(event_id=str(number), result="x" * (MAX_LINE - 100)))
    assert 16 <= len(intake) <= 17


# Hostility


def hostile(chance, number):
    """One of many ways to be a nuisance."""
    long = chance.randrange(1, 2000)
    return [
        lambda: chance.randbytes(long),
        lambda: chance.randbytes(long).replace(b"\n", b"") + b"\n",
        lambda: b"[" * chance.choice([900, 100_000, 1_000_000]) + b"\n",
        lambda: b'{"event_id":' * 50_000 + b"\n",
        lambda: b"x" * (MAX_LINE + 1),
        lambda: b'{"event_id": "' + b"x" * MAX_LINE + b'"}\n',
        lambda: b"1" * chance.choice([5_000, 1_000_000]) + b"\n",
        lambda: b'{"event_id": "\\ud800", "result": 1e999999}\n',
        lambda: b'{"event_id": "%d", "result": NaN}\n' % number,
        lambda: b'{"event_id": "%d", "event_id": null}\n' % number,
        lambda: b'{"event_id": "%d\\nok 1"}\n' % number,
        lambda: b"\xff\xfe" + '{"event_id": "1"}\n'.encode("utf-16-le"),
        lambda: b"\0" * long + b"\n",
        lambda: b"\n" * long,
        lambda: b"ping" * long + b"\n",
        lambda: b"ping\n" * long,
        lambda: b'{"event_id": "%d", "task_name": %s}\n' % (number, b"[" * 400 + b"]" * 400),
        lambda: json.dumps(event(str(number))).encode()[:-1],
        lambda: b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: b"\x80\x05\x95cos\nsystem\n(S'true'\ntR.",
    ][number % 20]()


@pytest.mark.parametrize("program", [SYNC_PROGRAM, ASYNC_PROGRAM], ids=["sync", "async"])
def test_three_hundred_hostile_callers_and_fifty_idle_ones_do_not_delay_a_ping(program, path, call):
    seed = int(os.environ.get("FWL_SEED", time.time_ns() % 1_000_000))
    print(f"FWL_SEED={seed}")
    chance, took = random.Random(seed), []
    with running(program, path) as process:
        threading.Thread(target=process.stdout.read, daemon=True).start()
        idle = [call() for _ in range(50)]
        regular = call()
        for number in range(310):
            with contextlib.closing(Caller(path)) as caller:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    caller.raw(hostile(chance, number))
                began = time.perf_counter()
                regular.raw(b"ping\n")
                assert regular.answer() == "pong", f"hostile sequence {number} of seed {seed}"
                took.append(time.perf_counter() - began)
        assert process.poll() is None
        assert all(caller.is_hung_up_on() for caller in idle), "they never said anything"
        process.kill()
    print(f"310 hostile, 50 idle: a ping took {statistics.median(took) * 1000:.2f} ms, {max(took) * 1000:.1f} at most")
    assert statistics.median(took) <= 0.010
