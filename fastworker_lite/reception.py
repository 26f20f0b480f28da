"""The conversation about events over the sockets of many senders, on whatever selector the program has.

Runs in: every process that listens.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Sequence

from .errors import ForkedError, StorageError
from .forking import close_in_forked_children
from .intake import Delivery, Intake, Sender
from .streams import HANDSHAKE_SECONDS, MAX_CONNECTIONS, ListeningSocket
from .watches import FileWatch

log = logging.getLogger("fastworker_lite")

_CHUNK = 64 * 1024
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Reception:
    """Holds the connections of one listening socket. For one thread, whose loop watches `fileno` and calls `turn`."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = ListeningSocket(address)
        self.path = self._listening.path
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        self._file = _watch(self.path)
        if self._file is not None:
            self._selector.register(self._file, selectors.EVENT_READ, None)
        # Nobody can write to this pipe: it is readable at any time, and watched when somebody is to come back by himself.
        self._bell, silent = os.pipe()
        os.close(silent)
        self._intake = Intake()
        self._connections: dict[Sender, socket.socket] = {}
        self._new: dict[Sender, tuple[float, int]] = {}
        #: Until when each has to say its first line, soonest first, and how much of it had come when that was settled.
        self._pid = os.getpid()
        close_in_forked_children(self)

    def fileno(self) -> int:
        """A descriptor that can be read from when there is something to do."""
        self._check_process()
        return self._selector.fileno()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError("this listener")

    def __len__(self) -> int:
        """How many events wait for the program."""
        return len(self._intake)

    def turn(self, seconds: float | None) -> None:
        """Accept, read and answer what there is; wait up to *seconds* for it unless an event waits already."""
        self._check_process()
        is_asked_in = False
        waits = [one for one in (seconds, self.patience()) if one is not None]
        for key, happened in self._selector.select(0 if len(self._intake) else min(waits, default=None)):
            if key.fileobj is self._listening:
                is_asked_in = True
                continue
            if key.fileobj is self._file:
                self._mend()
                continue
            if happened & selectors.EVENT_WRITE:
                self._send(key.data)
            if happened & selectors.EVENT_READ:
                self._read(key.data)
        if is_asked_in:  # last, so that nobody is sent away as silent who has just spoken
            self._accept()
        self._hang_up_on_the_late()

    def _mend(self) -> None:
        """Bind the address again if its file is gone: nobody could come any more."""
        assert self._file is not None
        self._file.clear()
        while not os.path.lexists(self.path) and self._bind_again():
            if self._file.arm():
                return
        self._file.arm()

    def _bind_again(self) -> bool:
        try:
            successor = ListeningSocket(self.path)
        except StorageError as error:
            log.warning("%s has disappeared, and is not bound again: %s", self.path, error)
            return False
        log.warning("%s has disappeared, and is bound again", self.path)
        self._accept()  # those who came before it was gone
        self._selector.unregister(self._listening)
        self._listening.close()
        self._listening = successor
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        return True

    def patience(self) -> float | None:
        """Seconds until `turn` should be called even if nothing comes; None for never."""
        return max(0.0, next(iter(self._new.values()))[0] - time.monotonic()) if self._new else None

    def _hang_up_on_the_late(self) -> None:
        """A first line has to come in time. A long one may take longer, but has to come in large pieces."""
        while self.patience() == 0.0:
            sender, (_, had) = next(iter(self._new.items()))
            while sender in self._new and self._read(sender):
                pass  # a program that was busy has not read what came in time
            if self._new.pop(sender, None) is None:
                continue
            if len(sender.lines) - had < _CHUNK:
                self._hang_up(sender)
            else:
                self._new[sender] = (time.monotonic() + HANDSHAKE_SECONDS, len(sender.lines))

    def _accept(self) -> None:
        for _ in range(MAX_CONNECTIONS):
            if (connection := self._listening.accept()) is None:
                return
            if len(self._connections) >= MAX_CONNECTIONS and not self._hang_up_on_a_silent_one():
                with contextlib.suppress(OSError):
                    connection.send(b"error %d connections are open\n" % MAX_CONNECTIONS, _NO_SIGNAL)
                connection.close()
                continue
            sender = Sender()
            self._connections[sender] = connection
            self._new[sender] = (time.monotonic() + HANDSHAKE_SECONDS, 0)
            self._selector.register(connection, selectors.EVENT_READ, sender)
            self._read(sender)

    def _hang_up_on_a_silent_one(self) -> bool:
        """Make room: of those that never sent a whole line, the one that came first has to go."""
        silent = next((sender for sender in self._connections if not sender.has_spoken), None)
        if silent is not None:
            self._hang_up(silent)
        return silent is not None

    def _read(self, sender: Sender) -> bool:
        """Take a piece of what it has said. False when there is none."""
        if (connection := self._connections.get(sender)) is None:
            return False
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._intake.hear(sender, data)
            if sender.has_spoken:
                self._new.pop(sender, None)
            self._send(sender)
        else:
            self._hang_up(sender)
        return bool(data)

    def _send(self, sender: Sender) -> None:
        """Send what fits of the answers. Hang up if that is all there was to be said."""
        if (connection := self._connections.get(sender)) is None:
            return
        try:
            if sender.answers:
                del sender.answers[: connection.send(sender.answers, _NO_SIGNAL)]
        except BlockingIOError:
            pass
        except OSError:
            sender.is_over = True
        if sender.is_over:
            self._hang_up(sender)
        else:
            self._watch(sender, connection)

    def _watch(self, sender: Sender, connection: socket.socket) -> None:
        is_read = not sender.is_paused and len(sender.answers) < _CHUNK
        wanted = (selectors.EVENT_READ if is_read else 0) | (selectors.EVENT_WRITE if sender.answers else 0)
        watched = self._selector.get_map().get(connection)
        if watched is None and wanted:
            self._selector.register(connection, wanted, sender)
        elif watched is not None and not wanted:
            self._selector.unregister(connection)
        elif watched is not None and watched.events != wanted:
            self._selector.modify(connection, wanted, sender)

    def _hang_up(self, sender: Sender) -> None:
        connection = self._connections.pop(sender)
        self._new.pop(sender, None)
        sender.end()
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        connection.close()

    def take(self) -> Delivery | None:
        """The event that has waited longest; None when none waits."""
        for sender in [sender for sender in self._connections if sender.is_paused]:
            if self._intake.resume(sender):
                self._send(sender)
        return self._intake.take()

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Tell those who sent them that these events are handled."""
        for delivery in deliveries:
            self._intake.acknowledge(delivery)
        for sender in {sender for delivery in deliveries for sender in delivery.senders}:
            self._send(sender)

    def refuse(self, delivery: Delivery) -> None:
        """Hang up on those who sent this event, so that they send it again."""
        self._intake.refuse(delivery)
        for sender in delivery.senders:
            self._send(sender)

    def ring(self) -> None:
        """Keep `fileno` readable, whether or not anything comes, until `hush`."""
        self._selector.register(self._bell, selectors.EVENT_READ, None)

    def hush(self) -> None:
        self._selector.unregister(self._bell)

    def close(self) -> None:
        """Hang up on everybody and remove the socket. What is not acknowledged will be sent again."""
        self._listening.close()
        self.close_in_child()

    def close_in_child(self) -> None:
        if self._bell < 0:
            return
        os.close(self._bell)
        self._bell = -1
        self._selector.close()
        if self._file is not None:
            self._file.close()
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self._new.clear()


def _watch(path: str) -> FileWatch | None:
    """Told when something happens to the file; None where there are too many watches already, or sockets cannot be watched."""
    try:
        watch = FileWatch(path)
    except OSError:
        return None
    if watch.arm():
        return watch
    watch.close()
    return None
