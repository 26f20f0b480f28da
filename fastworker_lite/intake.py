"""The conversation about events, without sockets: what a line is, what it is answered, what is given to the program.

    sender    {"event_id": "7", "task_id": "1042", "status": "success", ...}    one JSON object a line, UTF-8
    listener  ok 7                                                              once the program has handled it
    sender    ping
    listener  pong                                                              at once
    listener  error not JSON                                                    about anything else, and hangs up

What is not acknowledged is sent again, so each event comes at least once.

Runs in: every process that listens.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict, cast

from .streams import MAX_CONNECTIONS, Lines

#: Events that wait for the program, at most.
MAX_WAITING = 1_000
#: Acknowledged events that are known again, and not given to the program a second time.
MAX_REMEMBERED = 10_000

#: So many waiting events, or bytes of them, are enough: each connection may bring one more, and is then no longer read.
#: One more, because until then its pings are answered.
ENOUGH = MAX_WAITING - MAX_CONNECTIONS
ENOUGH_BYTES = 16 * 1024 * 1024

#: The id stands in a line of ours, and must not be able to end it.
_EVENT_ID = re.compile(r"[!-~]{1,200}")


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
        event = _JSON.decode(line.decode())
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


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


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
        #: It is hung up on, or will be when its answers are sent.

    def answer(self, text: str) -> None:
        self.answers += text.encode() + b"\n"

    def end(self) -> None:
        """Nothing comes or goes any more. Events of its may be pending for long: let them not keep its bytes."""
        self.is_over = True
        self.lines = Lines()
        self.answers.clear()


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
            known.senders = [other for other in known.senders if not other.is_over and other is not sender] + [sender]
        else:
            delivery = Delivery(event_id=event_id, event=event, size=size, senders=[sender])
            self._pending[event_id] = delivery
            self._waiting.append(delivery)
            self._bytes += size
            sender.is_paused = not self._has_room(1)

    def _has_room(self, share: float) -> bool:
        return len(self._waiting) < ENOUGH * share and self._bytes < ENOUGH_BYTES * share

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
        """Be done with those who sent this event; forget it and what nobody else is there to send, to get it again in order."""
        for sender in delivery.senders:
            sender.is_over = True
        gone = [other for other in self._waiting if all(sender.is_over for sender in other.senders)]
        for other in [delivery, *gone]:
            self._pending.pop(other.event_id, None)
        self._bytes -= sum(other.size for other in gone)
        self._waiting = deque(other for other in self._waiting if other.event_id in self._pending)
