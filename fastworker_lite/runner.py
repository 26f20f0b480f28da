"""A runner on a thread of its own: the scheduler and its workers, begun and ended from any thread.

Runs in: the runner's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable

from . import declarations, leases
from .endings import close_when_main_thread_ends
from .paths import SidePaths
from .scheduler import Scheduler
from .settings import Config
from .store import runners
from .store.connection import Connection
from .watches import FileWatch, watch_process


class Runner:
    """Serves one file. Its thread outlives a blocked host loop, and keeps the process until the drain is over."""

    def __init__(
        self,
        database: str,
        config: Config,
        *,
        output: str | None = None,
        is_standby: bool = False,
        has_cron: bool = True,
        idle_exit: float | None = None,
        role: str = "embedded",
    ) -> None:
        """*output* is the file for what workers print, None to share this process's. A standby waits until nobody serves.

        Without *has_cron* it sees to no schedules. With *idle_exit* it ends after so many seconds without anything to do.
        *role* is what its row says of this process. Raises `ConfigError` when the configuration's schedules cannot be.
        """
        self._database = database
        self._is_standby = is_standby
        self._scheduler = Scheduler(database, config, output=output, has_cron=has_cron, idle_exit=idle_exit, role=role)
        self._thread = threading.Thread(target=self._run, name="fastworker-runner")
        self._opened = threading.Event()
        self._ended = threading.Event()
        self._must_stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._error: BaseException | None = None

    @property
    def error(self) -> BaseException | None:
        """What ended the runner, None while it is well."""
        return self._error or self._scheduler.error

    def start(self) -> None:
        """Start it, and return once the file is open; workers start meanwhile. Raises what opening the file raised."""
        self._thread.start()
        close_when_main_thread_ends(self)
        self._opened.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def reload(self, config: Config) -> None:
        """Have schedules, queues, listeners, hooks and what is kept be as these settings say. Returns at once.

        Raises `ConfigError` when the schedules cannot be; everything stays as it was then.
        """
        self.call(self._scheduler.reload, config, declarations.from_config(config))

    def stop(self) -> None:
        """Begin the drain; said twice, what runs is ended. Returns at once."""
        self._must_stop.set()
        self.call(self._on_stop)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have it call *function*, which must not block, on its own thread. Returns at once."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(function, *arguments)

    def close_at_end(self) -> None:
        self.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end. True when it has come."""
        has_ended = self._ended.wait(timeout)
        if has_ended:
            self._thread.join()  # it has nothing left to do
        return has_ended

    def _on_stop(self) -> None:
        self._stop_standing_by.set()
        self._scheduler.stop()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
            self._opened.set()

    async def _serve(self) -> None:
        self._stop_standing_by = asyncio.Event()
        if self._is_standby:
            self._opened.set()
            await self._stand_by()
            if self._must_stop.is_set():
                return
        await self._scheduler.run(self._on_open)

    def _on_open(self) -> None:
        self._opened.set()
        if self._must_stop.is_set():
            self._scheduler.stop()

    async def _stand_by(self) -> None:
        """Wait until no runner serves the file, told by the kernel."""
        loop = asyncio.get_running_loop()
        while not self._must_stop.is_set():
            found = await loop.run_in_executor(None, serving_runner, self._database)
            if found is None:
                return
            await self._until_gone(*found)

    async def _until_gone(self, pid: int, lease: str) -> None:
        loop = asyncio.get_running_loop()
        process, file = watch_process(pid), FileWatch(lease)
        try:
            if process is None or not file.arm() or leases.is_free(lease):
                return
            gone = self._stop_standing_by
            loop.add_reader(process, gone.set)
            loop.add_reader(file.fileno(), gone.set)
            await gone.wait()
            loop.remove_reader(process)
            loop.remove_reader(file.fileno())
            if not self._must_stop.is_set():
                gone.clear()
        finally:
            file.close()
            if process is not None:
                os.close(process)


def serving_runner(database: str) -> tuple[int, str] | None:
    """Process and lease of a runner that serves the file now, None when there is none."""
    paths = SidePaths.of(database)
    connection = Connection(database)
    try:
        rows = connection.read(runners.runners)
    finally:
        connection.close()
    for row in rows:
        lease = paths.lease(row.lease)
        if not leases.is_free(lease):
            return row.pid, lease
    return None
