"""The receiving end of callbacks: takes events from a socket, gives them to the program, acknowledges what it has handled.

`intake` is the conversation, `reception` holds it over sockets; the two listeners here open a reception to programs with
asyncio and without.

Runs in: every process that listens.
"""

from __future__ import annotations

import asyncio
import fnmatch
import inspect
import logging
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from .errors import ConfigError
from .intake import Delivery, Event
from .reception import Reception
from .streams import callback_path

log = logging.getLogger("fastworker_lite")

Handler = TypeVar("Handler", bound=Callable[["Event"], object])


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
        self._timer: asyncio.TimerHandle | None = None
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
            self._stop_timer()
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
        self._stop_timer()
        if (seconds := reception.patience()) is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._turn, reception)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

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
