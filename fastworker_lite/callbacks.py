"""Tells listeners what they wait for: a courier for each address brings its messages in order, until they are acknowledged.

Runs in: the runner's process that leads, on the scheduler's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import deque
from collections.abc import Callable

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
#: Seconds for which a runner that stops waits for the last answers.
PARTING = 1.0
#: Bytes that wait in our process for a listener which does not read.
_BUFFER = 64 * 1024


class _Refused(Exception):
    """The listener said that it cannot take the first message that is under way."""


class Courier:
    """Brings the messages for one address."""

    def __init__(self, address: str, connection: AsyncConnection, database_id: str, limits: Limits) -> None:
        self.address = address
        self._connection = connection
        self._database_id = database_id
        self._limits = limits
        self._news = asyncio.Event()
        self._under_way: dict[str, int] = {}
        #: Event id and row of what was sent and is not acknowledged, oldest first.
        self._acknowledged: deque[int] = deque()
        self._is_over: Exception | None = None
        self._pause = FIRST_PAUSE
        self.is_resting = False
        #: Nothing to do, or nobody there.

    def wake(self) -> None:
        """There may be something new."""
        if not self.is_resting or self._pause == FIRST_PAUSE:
            self._news.set()

    async def run(self) -> None:
        """Bring messages for ever."""
        while True:
            try:
                await self._until_there_is_something()
                await self._visit()
            except _Refused as refusal:
                await self._give_up_first(str(refusal))
            except (OSError, FastWorkerError) as error:
                await self._rest(error)

    async def _until_there_is_something(self) -> None:
        while not await self._fetch(0, 1):
            self.is_resting = True
            await self._news.wait()
            self.is_resting = False
            self._news.clear()

    async def _fetch(self, after: int, limit: int) -> list[Message]:
        return await self._connection.read(outbox.pending, self.address, after, limit)

    async def _rest(self, error: Exception) -> None:
        """Nobody is there, or he went away: come back later, and give up what is too old or too much by then."""
        if self._pause > FIRST_PAUSE:
            log.info("the listener at %s does not answer (%s); tried again in %.1f s", self.address, error, self._pause)
        self.is_resting = True
        with contextlib.suppress(FastWorkerError):
            before = self._limits.clock() - self._limits.max_age
            await self._connection.write(outbox.give_up_old, self.address, before, self._limits.max_events)
        await asyncio.sleep(self._pause * random.uniform(0.8, 1.0))
        self._pause = min(LONGEST_PAUSE, self._pause * 2)
        self.is_resting = False

    async def _give_up_first(self, refusal: str) -> None:
        rows = list(self._under_way.values())
        self._under_way.clear()
        if rows:
            await self._connection.write(outbox.give_up, rows[0], f"refused: {refusal}"[:200])

    # ---- one visit

    async def _visit(self) -> None:
        """Hold one connection for as long as it lasts."""
        reader, writer = await asyncio.open_unix_connection(sock=streams.connect(self.address), limit=_BUFFER)
        writer.transport.set_write_buffer_limits(_BUFFER)
        self._under_way.clear()
        self._is_over = None
        reading = asyncio.create_task(self._read_answers(reader))
        try:
            await self._bring(writer)
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            writer.close()
            await self._store_acknowledged()

    async def _bring(self, writer: asyncio.StreamWriter) -> None:
        last = 0
        is_at_end = False
        while True:
            self._news.clear()
            await self._store_acknowledged()
            if self._is_over is not None:
                raise self._is_over
            room = WINDOW - len(self._under_way)
            if room >= WINDOW // 4 and writer.transport.get_write_buffer_size() == 0:
                messages = await self._fetch(last, room)
                for message in messages:
                    last = message.id
                    self._send(writer, message)
                is_at_end = not messages
            else:
                is_at_end = True
            if is_at_end and not self._acknowledged:
                self.is_resting = not self._under_way
                await self._news.wait()
                self.is_resting = False

    def _send(self, writer: asyncio.StreamWriter, message: Message) -> None:
        event_id = f"{self._database_id}-{message.id}"
        self._under_way[event_id] = message.id
        writer.write(compose(event_id, message))

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        try:
            lines = streams.Lines()
            while data := await reader.read(_BUFFER):
                lines.add(data)
                while (line := lines.take()) is not None:
                    self._on_answer(line)
                self._news.set()
            self._is_over = self._is_over or ConnectionResetError("it closed the connection")
        except (OSError, ValueError) as error:
            self._is_over = self._is_over or OSError(str(error))
        self._news.set()

    def _on_answer(self, line: bytes) -> None:
        word, _, rest = line.decode(errors="replace").partition(" ")
        if word == "ok":
            row = self._under_way.pop(rest.strip(), None)
            if row is not None:
                self._acknowledged.append(row)
                self._pause = FIRST_PAUSE
        elif word == "error" and self._is_over is None:
            is_busy = rest.endswith("connections are open")
            self._is_over = OSError(rest) if is_busy or not self._under_way else _Refused(rest)

    async def _store_acknowledged(self) -> None:
        if self._acknowledged:
            rows = list(self._acknowledged)
            self._acknowledged.clear()
            await self._connection.run(Connection.write_fast, outbox.remove, rows)


_STATUS = {"succeeded": "success", "cancelled": "cancelled"}


def compose(event_id: str, message: Message) -> bytes:
    """One line: how a job ended, with FastWorker's seven keys and ours. No result is unpickled for it."""
    is_success = message.state == "succeeded"
    known = json.dumps(
        {
            "event_id": event_id,
            "task_id": str(message.job),
            "task_name": message.task,
            "attempt": message.attempt,
            "status": _STATUS.get(message.state, "failure"),
            "error": None if is_success else message.error or message.reason,
            "reason": message.reason,
            "started_at": _moment(message.started_at),
            "completed_at": _moment(message.finished_at),
        },
        separators=(",", ":"),
    )
    told = message.told if is_success and message.told is not None else '{"result":null}'
    return f'{known[:-1]},"callback_data":{message.data or "null"},{told[1:]}\n'.encode()


def _moment(seconds: float | None) -> str | None:
    moment = utc(seconds)
    return None if moment is None else moment.isoformat()


class Limits:
    """How long, and how many, messages wait for a listener."""

    def __init__(self, max_age: float, max_events: int, clock: Callable[[], float] = time.time) -> None:
        self.max_age = max_age
        self.max_events = max_events
        self.clock = clock


class Postman:
    """Sees what is to be told, and has a courier for each address."""

    def __init__(self, connection: AsyncConnection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._couriers: dict[str, Courier] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_open = False
        self._database_id = ""
        self._looking: asyncio.Task[None] | None = None
        self._must_look_again = False

    async def open(self) -> None:
        """From now on this runner tells. Called again, it only looks."""
        if not self._is_open:
            self._is_open = True
            self._database_id = await self._connection.read(outbox.database_id)
            self.look_soon()

    def look_soon(self) -> None:
        """There may be something to tell. Cheap: several in a row are one look."""
        if not self._is_open:
            return
        if self._looking is not None:
            self._must_look_again = True
            return
        for courier in self._couriers.values():
            courier.wake()
        self._looking = asyncio.get_running_loop().create_task(self._look())
        self._looking.add_done_callback(self._on_looked)

    def _on_looked(self, task: asyncio.Task[None]) -> None:
        self._looking = None
        if not task.cancelled() and task.exception() is not None:
            log.warning("callbacks are looked at again later: %s", task.exception())
        if self._must_look_again and not task.cancelled():
            self._must_look_again = False
            self.look_soon()

    async def _look(self) -> None:
        for address in await self._connection.read(outbox.addresses):
            if address not in self._couriers:
                courier = Courier(address, self._connection, self._database_id, self._limits)
                self._couriers[address] = courier
                self._tasks.append(asyncio.get_running_loop().create_task(courier.run()))

    async def close(self) -> None:
        """Wait a moment for the last answers, and stop."""
        self._is_open = False
        deadline = time.monotonic() + PARTING
        while time.monotonic() < deadline and not all(courier.is_resting for courier in self._couriers.values()):
            await asyncio.sleep(0.01)
        for task in (*self._tasks, *([self._looking] if self._looking is not None else [])):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
