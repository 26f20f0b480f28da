"""The receiving end of callbacks: takes events from a socket, gives them to the program, acknowledges what it has handled.

    sender    {"event_id": "7", "task_id": "1042", "status": "success", ...}    one JSON object a line, UTF-8
    listener  ok 7                                                              once the program has handled it
    sender    ping
    listener  pong                                                              at once
    listener  error not JSON                                                    about anything else, and hangs up

What is not acknowledged is sent again, so each event comes at least once. `Intake` is this conversation without sockets,
`Reception` holds it over sockets, and two listeners open a reception to programs with asyncio and without.

Runs in: every process that listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import inspect
import json
import logging
import os
import re
import selectors
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NotRequired, TypedDict, TypeVar, cast

from .errors import ConfigError, ForkedError
from .forking import close_in_forked_children
from .streams import MAX_CONNECTIONS, Lines, ListeningSocket, callback_path

log = logging.getLogger("fastworker_lite")

#: Events that wait for the program, at most.
MAX_WAITING = 1_000
#: Acknowledged events that are known again, and not given to the program a second time.
MAX_REMEMBERED = 10_000

#: So many waiting events, or bytes of them, are enough: each connection may bring one more, and is then no longer read.
#: One more, because until then its pings are answered.
_ENOUGH = MAX_WAITING - MAX_CONNECTIONS
_ENOUGH_BYTES = 16 * 1024 * 1024

_CHUNK = 64 * 1024
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
#: The id stands in a line of ours, and must not be able to end it.
_EVENT_ID = re.compile(r"[!-~]{1,200}")

Handler = TypeVar("Handler", bound=Callable[["Event"], object])


class Event(TypedDict):
    """How a job ended. A plain dict; the runner sends all keys but the last two every time."""

    task_id: str
    status: str
    #: "success", "failure" or "cancelled".
    result: Any
    #: None on failure, and if it is not JSON: `result_repr` is its text then.
    error: str | None
    started_at: str | None
    #: RFC 3339, as completed_at; None if the job never started.
    completed_at: str | None
    callback_data: Any
    #: What the submitter gave to be sent along.
    event_id: str
    #: The same each time this event is delivered.
    task_name: str | None
    attempt: int
    result_repr: NotRequired[str]
    reason: NotRequired[str]


def read_event(line: bytes) -> tuple[str, Event]:
    """The event in *line*, with its id. Of two equal keys the last one counts. Raises `ValueError` with a short reason."""
    try:
        event = json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except ValueError:  # a number of more digits than Python reads, too
        raise ValueError("not JSON") from None
    event_id = event.get("event_id") if isinstance(event, dict) else None
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise ValueError("not an object with an event_id of 1 to 200 visible ASCII characters")
    return event_id, cast(Event, event)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Sender:
    """One connection: what it has said and nobody has read yet, and the answers that are not sent yet."""

    def __init__(self) -> None:
        self.lines = Lines()
        self.answers = bytearray()
        self.has_spoken = False
        #: A whole line has come.
        self.is_paused = False
        #: It has brought an event when enough waited; it is read again when there are fewer.
        self.is_over = False
        #: It is hung up on when its answers are sent.

    def answer(self, text: str) -> None:
        self.answers += text.encode() + b"\n"


@dataclass(slots=True, kw_only=True, eq=False)
class Delivery:
    """An event between its arrival and its acknowledgement."""

    event_id: str
    event: Event
    size: int
    senders: list[Sender]
    #: Those that wait for the acknowledgement: more than one if it came again meanwhile.


class Intake:
    """What senders say, as events in order; each event once, as far as memory goes. Touches no socket."""

    def __init__(self) -> None:
        self._waiting: deque[Delivery] = deque()
        self._bytes = 0
        self._pending: dict[str, Delivery] = {}
        #: Not acknowledged: those that wait, and those that the program has in hand.
        self._remembered: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        """How many events wait for the program."""
        return len(self._waiting)

    def hear(self, sender: Sender, data: bytes) -> None:
        """Take *data* from *sender*, and read what is whole of it."""
        sender.lines.add(data)
        self.read(sender)

    def read(self, sender: Sender) -> None:
        """Read the lines of *sender* until they or the room for events end."""
        try:
            while not (sender.is_paused or sender.is_over) and (line := sender.lines.take()) is not None:
                sender.has_spoken = True
                if line.strip() == b"ping":
                    sender.answer("pong")
                else:
                    self._receive(sender, *read_event(line), len(line))
        except ValueError as reason:
            sender.answer(f"error {reason}")
            sender.is_over = True

    def _receive(self, sender: Sender, event_id: str, event: Event, size: int) -> None:
        if event_id in self._remembered:
            sender.answer(f"ok {event_id}")
        elif (known := self._pending.get(event_id)) is not None:
            if sender not in known.senders:
                known.senders.append(sender)
        else:
            delivery = Delivery(event_id=event_id, event=event, size=size, senders=[sender])
            self._pending[event_id] = delivery
            self._waiting.append(delivery)
            self._bytes += size
            sender.is_paused = not self._has_room(1)

    def _has_room(self, share: float) -> bool:
        return len(self._waiting) < _ENOUGH * share and self._bytes < _ENOUGH_BYTES * share

    def resume(self, sender: Sender) -> bool:
        """Go on reading a paused sender, once half of the room is free. Tells whether that was so."""
        if not sender.is_paused or not self._has_room(0.5):
            return False
        sender.is_paused = False
        self.read(sender)
        return True

    def take(self) -> Delivery | None:
        """The event that has waited longest; None when none waits."""
        if not self._waiting:
            return None
        delivery = self._waiting.popleft()
        self._bytes -= delivery.size
        return delivery

    def acknowledge(self, delivery: Delivery) -> None:
        """Answer those who sent this event, and know it from now on."""
        self._pending.pop(delivery.event_id, None)
        self._remembered[delivery.event_id] = None
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        for sender in delivery.senders:
            sender.answer(f"ok {delivery.event_id}")

    def refuse(self, delivery: Delivery) -> None:
        """Be done with those who sent this event; forget it and what they sent after it, to get all again in order."""
        for sender in delivery.senders:
            sender.is_over = True
        gone = [other for other in self._waiting if all(sender.is_over for sender in other.senders)]
        for other in [delivery, *gone]:
            self._pending.pop(other.event_id, None)
        self._bytes -= sum(other.size for other in gone)
        self._waiting = deque(other for other in self._waiting if other.event_id in self._pending)


class Reception:
    """Holds the connections of one listening socket. For one thread, whose loop watches `fileno` and calls `turn`."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self._selector = selectors.DefaultSelector()
        self._listening = ListeningSocket(address)
        self.path = self._listening.path
        self._selector.register(self._listening, selectors.EVENT_READ, None)
        # Nobody can write to this pipe: it is readable at any time, and watched when somebody is to come back by himself.
        self._bell, silent = os.pipe()
        os.close(silent)
        self._intake = Intake()
        self._connections: dict[Sender, socket.socket] = {}
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
        for key, happened in self._selector.select(0 if len(self._intake) else seconds):
            if key.data is None:
                is_asked_in = key.fileobj is self._listening
                continue
            if happened & selectors.EVENT_WRITE:
                self._send(key.data)
            if happened & selectors.EVENT_READ:
                self._read(key.data)
        if is_asked_in:  # last, so that nobody is sent away as silent who has just spoken
            self._accept()

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
            self._selector.register(connection, selectors.EVENT_READ, sender)
            self._read(sender)

    def _hang_up_on_a_silent_one(self) -> bool:
        """Make room: of those that never sent a whole line, the one that came first has to go."""
        silent = next((sender for sender in self._connections if not sender.has_spoken), None)
        if silent is not None:
            self._hang_up(silent)
        return silent is not None

    def _read(self, sender: Sender) -> None:
        if (connection := self._connections.get(sender)) is None:
            return
        try:
            data = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._intake.hear(sender, data)
            self._send(sender)
        else:
            self._hang_up(sender)

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
        if connection in self._selector.get_map():
            self._selector.unregister(connection)
        connection.close()

    def take(self) -> Delivery | None:
        """The event that has waited longest; None when none waits."""
        delivery = self._intake.take()
        for sender in [sender for sender in self._connections if sender.is_paused]:
            if self._intake.resume(sender):
                self._send(sender)
        return delivery

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
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


class CallbackListener:
    """Events for a program with asyncio, one after the other.

        async with CallbackListener("/run/app.sock") as listener:
            async for event in listener:
                print(event["task_id"], event["result"])

    An event is acknowledged when the loop comes back for the next one, or when the block ends without an exception: leave
    it by one, and the event in hand comes again. Or name functions for tasks with `on`, and let `run` call them. For one
    loop or `run` at a time.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Nothing is opened yet. Raises `ConfigError` for an address that cannot be one; `callback_path` knows which."""
        self.path = callback_path(address)
        self._functions: list[tuple[str, Callable[[Event], object]]] = []
        self._reception: Reception | None = None
        self._in_hand: Delivery | None = None
        self._something_happened = asyncio.Event()

    async def start(self) -> None:
        """Listen: senders can connect from now on. Raises `StorageError` if somebody else does, or if the path is taken."""
        if self._reception is None:
            self._reception = Reception(self.path)
            asyncio.get_running_loop().add_reader(self._reception.fileno(), self._turn, self._reception)

    async def aclose(self) -> None:
        """Stop listening and remove the socket, without acknowledging what is in hand. Loops and `run` end."""
        reception, self._reception, self._in_hand = self._reception, None, None
        if reception is not None:
            asyncio.get_running_loop().remove_reader(reception.fileno())
            reception.close()
            self._something_happened.set()

    async def __aenter__(self) -> CallbackListener:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._acknowledge_in_hand()
        await self.aclose()

    def _turn(self, reception: Reception) -> None:
        reception.turn(0)
        if len(reception):
            self._something_happened.set()

    def __aiter__(self) -> CallbackListener:
        if self._reception is None:
            raise ConfigError(
                f"nobody listens at {self.path}; enter the listener with `async with`, or await its start()"
            )
        return self

    async def __anext__(self) -> Event:
        self._acknowledge_in_hand()
        self._in_hand = await self._next()
        if self._in_hand is None:
            raise StopAsyncIteration
        return self._in_hand.event

    def _acknowledge_in_hand(self) -> None:
        if self._in_hand is not None:
            self._settle(self._in_hand, is_handled=True)
        self._in_hand = None

    def _settle(self, delivery: Delivery, *, is_handled: bool) -> None:
        if self._reception is None:  # closed meanwhile
            return
        if is_handled:
            self._reception.acknowledge([delivery])
        else:
            self._reception.refuse(delivery)

    async def _next(self) -> Delivery | None:
        await asyncio.sleep(0)  # a program that never waits would leave no time for pings
        while self._reception is not None:
            if (delivery := self._reception.take()) is not None:
                return delivery
            self._something_happened.clear()
            await self._something_happened.wait()
        return None

    def on(self, task: str = "*") -> Callable[[Handler], Handler]:
        """Have `run` call the decorated function, plain or async, with events of tasks whose name matches *task* ("resize*").

        An event is acknowledged once all its functions have returned; if no function wants it, at once. When one raises,
        that is logged and the event comes again, for all of them.
        """

        def add(function: Handler) -> Handler:
            self._functions.append((task, function))
            return function

        return add

    async def run(self) -> None:
        """Call the functions named with `on`, one event after the other, until cancelled or closed. Starts if need be."""
        was_started = self._reception is not None
        await self.start()
        try:
            while (delivery := await self._next()) is not None:
                await self._handle(delivery)
        finally:
            if not was_started:
                await self.aclose()

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._call_functions(delivery.event)
        except BaseException as error:  # CancelledError too: it was not handled
            self._settle(delivery, is_handled=False)
            if not isinstance(error, Exception):
                raise
            log.exception("event %s is not acknowledged: a function called with it raised", delivery.event_id)
        else:
            self._settle(delivery, is_handled=True)

    async def _call_functions(self, event: Event) -> None:
        for task, function in self._functions:
            if fnmatch.fnmatchcase(str(event.get("task_name")), task):
                answer = function(event)
                if inspect.isawaitable(answer):
                    await answer


class SyncCallbackListener:
    """Events for a program without asyncio: a script, or a desktop program that watches a descriptor.

        with SyncCallbackListener("/run/app.sock") as listener:
            for event in listener:
                print(event["task_id"], event["result"])

    An event is acknowledged when the loop comes back for the next one, or `poll` is called again, or the block ends without
    an exception: leave it by one, and what is in hand comes again. Pings are answered meanwhile by `poll` and the loop only.
    For one thread.
    """

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Listen at once. Raises `ConfigError` for an impossible address, `StorageError` if the path is taken."""
        self._reception = Reception(address)
        self.path = self._reception.path
        self._in_hand: list[Delivery] = []

    def fileno(self) -> int:
        """A descriptor for Tk's `createfilehandler`, `QSocketNotifier` or `select`: call `poll` when it can be read from.

        So it can also while events are in hand, so that `poll` is called again and acknowledges them.
        """
        return self._reception.fileno()

    def poll(self, timeout: float | None = 0.0) -> list[Event]:
        """Acknowledge the events returned last time; return those that have come, at most 1,000.

        Waits up to *timeout* seconds for the first one, without end if it is None.
        """
        self._acknowledge_in_hand()
        give_up = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = give_up - time.monotonic()
            self._reception.turn(None if timeout is None else max(0.0, left))
            if len(self._reception) or left <= 0:
                return self._give(len(self._reception))

    def __iter__(self) -> SyncCallbackListener:
        return self

    def __next__(self) -> Event:
        self._acknowledge_in_hand()
        while not len(self._reception):
            self._reception.turn(None)
        return self._give(1)[0]

    def _give(self, count: int) -> list[Event]:
        taken = (self._reception.take() for _ in range(count))
        self._in_hand = [delivery for delivery in taken if delivery is not None]
        if self._in_hand:
            self._reception.ring()
        return [delivery.event for delivery in self._in_hand]

    def _acknowledge_in_hand(self) -> None:
        if self._in_hand:
            self._reception.hush()
            self._reception.acknowledge(self._in_hand)
            self._in_hand = []

    def close(self) -> None:
        """Stop listening and remove the socket, without acknowledging what is in hand."""
        self._in_hand = []
        self._reception.close()

    def __enter__(self) -> SyncCallbackListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._acknowledge_in_hand()
        self.close()
