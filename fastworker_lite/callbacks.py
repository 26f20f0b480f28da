"""Tells listeners what they wait for: a courier for each address brings its messages in order, until they are acknowledged.

The postman looks for whom something waits, and employs the couriers. A courier holds one connection for as long as it
lasts: one task sends what waits, as far as there is room, the other takes the answers and removes what was acknowledged.

Runs in: the runner's process that leads, on the scheduler's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from . import streams
from .errors import FastWorkerError
from .job import utc
from .store import outbox
from .store.bridge import AsyncConnection
from .store.connection import Connection
from .store.outbox import Message

log = logging.getLogger("fastworker_lite")

#: Messages on their way to one listener at a time.
WINDOW = 256
#: Seconds until a listener that was not there is tried again: the first, and the most that grows to.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0
#: Seconds after which a new message has a listener tried again, however long its pause has become.
NEWS_PAUSE = 1.0
#: Seconds for which a runner that stops waits for the last answers.
PARTING = 1.0
#: Seconds until the postman looks again when the file could not be read.
LOOK_AGAIN = 1.0

_CHUNK = 64 * 1024
#: Characters of a text in a message. Six bytes each at worst, twelve beyond U+FFFF: with these no line is too long.
_MOST_TEXT = 8_192


def longer(pause: float) -> float:
    """The pause after this one."""
    return min(LONGEST_PAUSE, 2 * pause)


class Limits(NamedTuple):
    """How long, and how many, messages wait for a listener."""

    max_age: float
    max_events: int
    clock: Callable[[], float] = time.time


class Courier:
    """Brings the messages for one address, from when there are some until there are none and nobody listens."""

    def __init__(
        self, address: str, newest: int, connection: AsyncConnection, database_id: str, limits: Limits
    ) -> None:
        self.address = address
        self._newest = newest
        self._connection = connection
        self._database_id = database_id
        self._limits = limits
        self._news = asyncio.Event()
        self._is_connected = False
        self._under_way: dict[str, int] = {}
        #: Event id and row of what was sent and is not acknowledged, oldest first.
        self._one_by_one = 0
        #: So many are sent one at a time: they were under way when a connection ended, and one of them may be why.
        self._pause = FIRST_PAUSE
        self.is_resting = False
        #: Nothing to bring, or nobody there.

    def wake(self, newest: int = 0) -> bool:
        """There may be something new; if it is known, the id of the newest message that waits. False when it is busy or away."""
        is_new, self._newest = newest > self._newest, max(newest, self._newest)
        is_ready = self._is_connected and not self._under_way
        if is_new or is_ready:  # one that is to be redelivered is not new
            self._news.set()
        return is_ready

    async def run(self) -> None:
        """Bring messages until none waits, whatever happens meanwhile."""
        while True:
            try:
                if not await self._fetch(0, 1):
                    return
                await self._attempt()
            except (OSError, FastWorkerError, streams.LineTooLong) as error:
                await self._rest(error)
            except Exception as error:
                log.exception("messages for %s are tried again", self.address)
                await self._rest(error)

    async def _fetch(self, after: int, limit: int) -> list[Message]:
        return await self._connection.read(outbox.pending, self.address, after, limit)

    async def _rest(self, error: Exception) -> None:
        """Come back later, and each time later than that, unless there is a new message."""
        if self._pause == longer(FIRST_PAUSE):  # once in each absence, and not when a listener only starts anew
            log.info("the listener at %s cannot be reached, its messages wait: %s", self.address, error)
        pause = self._pause * random.uniform(0.8, 1.0)
        self._news.clear()
        self.is_resting = True
        await asyncio.sleep(min(pause, NEWS_PAUSE))
        is_over = pause <= NEWS_PAUSE or not await self._has_news_within(pause - NEWS_PAUSE)
        self.is_resting = False
        if is_over:
            self._pause = longer(self._pause)

    async def _has_news_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _attempt(self) -> None:
        """Visit the listener; if nobody is there, give up what is too old, or too much, by now."""
        try:
            await self._visit()
        except OSError:
            before, most = self._limits.clock() - self._limits.max_age, self._limits.max_events
            for reason, last in await self._connection.read(outbox.overdue, self.address, before, most):
                await self._connection.run(Connection.write_fast, outbox.give_up_until, self.address, last, reason)
                log.warning("messages for %s are given up: %s", self.address, reason)
            raise

    # ---- one visit

    async def _visit(self) -> None:
        """Hold one connection for as long as it lasts. Raises what ended it, unless that was a message it refused."""
        reader, writer = await asyncio.open_unix_connection(sock=streams.connect(self.address))
        writer.transport.set_write_buffer_limits(0)  # so that drain() waits until nothing is left in this process
        self._is_connected = True
        hearing, bringing = asyncio.create_task(self._hear(reader)), asyncio.create_task(self._bring(writer))
        try:
            await asyncio.wait((hearing, bringing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.transport.abort()
            hearing.cancel()
            bringing.cancel()
            ends = await asyncio.gather(hearing, bringing, return_exceptions=True)
            self._is_connected = self.is_resting = False
            unanswered = list(self._under_way.values())
            self._under_way.clear()
            self._one_by_one = len(unanswered)
        await self._conclude(ends, unanswered)

    async def _conclude(self, ends: Sequence[str | BaseException], unanswered: list[int]) -> None:
        for end in ends:  # what was heard goes before a failure to go on speaking
            if isinstance(end, str) and unanswered:
                if len(unanswered) == 1:
                    await self._connection.run(Connection.write_fast, outbox.give_up, unanswered[0], f"refused: {end}")
                    log.warning("a message for %s is given up, it was refused: %s", self.address, end)
                return
            if isinstance(end, Exception):
                raise end
        raise ConnectionResetError("it refused what nobody sent")

    async def _bring(self, writer: asyncio.StreamWriter) -> NoReturn:
        """Send what waits, in order, as far as there is room."""
        last = 0
        while True:
            self._news.clear()
            if not self._under_way:
                last = 0  # what was given up and is to be redelivered has a lower id than what was sent since
            window = 1 if self._one_by_one else WINDOW
            room = window - len(self._under_way)
            messages = await self._fetch(last, room) if 4 * room >= window else []
            for message in messages:
                self._under_way[self._event_id(message)] = last = message.id
            self._newest = max(self._newest, last)
            writer.write(b"".join(compose(self._event_id(message), message) for message in messages))
            await writer.drain()
            self.is_resting = not self._under_way
            await self._news.wait()  # more messages, or answers and with them more room
            self.is_resting = False

    def _event_id(self, message: Message) -> str:
        return f"{self._database_id}-{message.id}"

    async def _hear(self, reader: asyncio.StreamReader) -> str:
        """Take answers until the listener refuses a message, and return why. Raises when it hangs up."""
        lines = streams.Lines()
        while data := await reader.read(_CHUNK):
            lines.add(data)
            acknowledged = []
            refusal = None
            while refusal is None and (line := lines.take()) is not None:
                word, _, rest = line.decode(errors="replace").strip().partition(" ")
                if word == "ok":
                    acknowledged.append(rest)
                elif word == "error":
                    refusal = rest[:200]
            await self._remove(acknowledged)
            if refusal is not None:
                if refusal.endswith("connections are open"):  # it is busy, and has read nothing
                    raise ConnectionRefusedError(refusal)
                return refusal
        raise ConnectionResetError("it hung up")

    async def _remove(self, event_ids: Iterable[str]) -> None:
        rows = {event_id: self._under_way[event_id] for event_id in event_ids if event_id in self._under_way}
        if not rows:
            return
        await self._connection.run(Connection.write_fast, outbox.remove, list(rows.values()))
        for event_id in rows:
            del self._under_way[event_id]
        self._one_by_one = max(0, self._one_by_one - len(rows))
        self._pause = FIRST_PAUSE
        self._news.set()


_STATUS = {"succeeded": "success", "cancelled": "cancelled"}


def compose(event_id: str, message: Message) -> bytes:
    """One line: how a job ended, with FastWorker's seven keys and ours. No result is unpickled for it."""
    is_success = message.state == "succeeded"
    known = json.dumps(
        {
            "event_id": event_id,
            "task_id": str(message.job),
            "task_name": _cut(message.task),
            "attempt": message.attempt,
            "status": _STATUS.get(message.state, "failure"),
            "error": None if is_success else _cut(message.error or message.reason),
            "reason": _cut(message.reason),
            "started_at": _moment(message.started_at),
            "completed_at": _moment(message.finished_at),
        },
        separators=(",", ":"),
    )
    told = message.told if is_success and message.told is not None else '{"result":null}'
    return f'{known[:-1]},"callback_data":{message.data or "null"},{told[1:]}\n'.encode()


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:_MOST_TEXT]


def _moment(seconds: float | None) -> str | None:
    moment = utc(seconds)
    return None if moment is None else moment.isoformat()


class Postman:
    """Sees for whom something waits, and has a courier for each address."""

    def __init__(self, connection: AsyncConnection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._couriers: dict[str, Courier] = {}
        self._favourite: Courier | None = None
        #: Who was the last to be sent off from a rest, and is woken without looking: likely he is the next, too.
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._database_id = ""
        self._is_open = False

    async def open(self) -> None:
        """From now on this runner tells. Called again, nothing happens."""
        if not self._is_open:
            self._database_id = await self._connection.read(outbox.database_id)
            self._is_open = True
            self._news.set()
            self._start(self._look_when_told())

    def look_soon(self) -> None:
        """There may be something to tell. Cheap: several in a row are one look."""
        if self._favourite is not None:
            self._favourite.wake()
        self._news.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_when_told(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._look()
            except Exception as error:
                log.warning("callbacks are looked at again in a second: %s", error)
                await asyncio.sleep(LOOK_AGAIN)
                self._news.set()

    async def _look(self) -> None:
        for address, newest in await self._connection.read(outbox.addresses):
            courier = self._couriers.get(address)
            if not address.startswith("/"):
                pass  # no socket's path: somebody else sees to that
            elif courier is not None:
                if courier.wake(newest):
                    self._favourite = courier
            else:
                courier = Courier(address, newest, self._connection, self._database_id, self._limits)
                self._couriers[address] = courier
                self._start(self._employ(courier))

    async def _employ(self, courier: Courier) -> None:
        await courier.run()
        del self._couriers[courier.address]
        self._news.set()  # what came while it ended is for the next one

    async def close(self) -> None:
        """Bring what has come by now, wait a moment for the last answers, and stop."""
        with contextlib.suppress(Exception):  # what is missed now, the next runner tells
            await self._look_last()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look_last(self) -> None:
        if not self._is_open:
            return
        give_up = time.monotonic() + PARTING
        await self._look()
        await asyncio.sleep(0.01)  # those who are woken are not yet up
        while time.monotonic() < give_up and not all(courier.is_resting for courier in self._couriers.values()):
            await asyncio.sleep(0.01)
