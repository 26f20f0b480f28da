"""A runner for as long as this process lives: what it says, and what signals mean to it.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable

from .. import __version__
from ..errors import FastWorkerError
from ..runner import Runner
from ..settings import Config
from ..store import runners
from . import render
from .narrating import Narrator
from .problems import IO, CommandError
from .readiness import ServiceManager
from .session import Session, live_runners
from .signals import Arrivals

_ENDED = 0


class Foreground:
    """What `fwl worker` is once its options are read."""

    def __init__(self, session: Session, configure: Callable[[], Config], log_file: str | None) -> None:
        """*configure* reads the settings, again whenever it is called; *log_file* takes the place of stdout and stderr."""
        self._session = session
        self._configure = configure
        self._log_file = log_file
        self._has_terminal = render.is_terminal(sys.stdin)
        self._manager = ServiceManager()
        self._happened: Arrivals
        self._runner: Runner
        self._is_stopping = False

    def serve(self, *, idle_exit: float | None, has_cron: bool, starting_lock: int | None) -> int:
        """Run jobs until told to stop, or for *idle_exit* seconds without any. *starting_lock* is let go of when it has begun."""
        self._config = self._configure()
        self._open_log()
        self._happened = Arrivals()
        self._runner = Runner(
            self._session.database, self._config, has_cron=has_cron, idle_exit=idle_exit, role="worker"
        )
        others = self._others()
        narrator = self._narrator()
        self._runner.start()
        if starting_lock is not None:
            with contextlib.suppress(OSError):
                os.close(starting_lock)
        self._manager.tell(f"READY=1\nMAINPID={os.getpid()}")
        self._put_banner(others)
        self._wait_for_the_end()
        if narrator is not None:
            narrator.stop()
        if self._runner.error is not None:
            raise self._runner.error
        is_idle = idle_exit is not None and not self._is_stopping
        self._say(f"stopped: nothing to do for {render.duration(idle_exit)}" if is_idle else "stopped")
        return 0

    # ---- what it says

    def _say(self, text: str, *, is_trouble: bool = False) -> None:
        """Say it as long as there is somebody: a worker does not end because nobody reads what it says."""
        try:
            if is_trouble or not self._session.is_quiet:
                render.say(text)
        except OSError:
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)

    def _open_log(self) -> None:
        """Write to the log from here on; to a new file, if it was moved away."""
        if self._log_file is None:
            return
        try:
            log = os.open(self._log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandError(f"--log-file {self._log_file}: {error.strerror}", IO) from error
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)

    def _narrator(self) -> Narrator | None:
        """Who tells of jobs to somebody that looks: to be told of them all makes a worker slower."""
        is_seen = self._log_file is not None or render.is_terminal(sys.stderr)
        return Narrator(self._session.database, self._say) if is_seen and not self._session.is_quiet else None

    def _others(self) -> list[int]:
        """Processes that serve the file already."""
        with self._session.open() as connection:
            return [row.pid for row in live_runners(connection)]

    def _put_banner(self, others: list[int]) -> None:
        words = [
            f"fastworker_lite {__version__}",
            f"db {self._session.database}",
            _count(self._config.worker_count, "worker"),
        ]
        if self._config.cron:
            words.append(_count(len(self._config.cron), "schedule"))
        dot = " · " if (getattr(sys.stderr, "encoding", "") or "").lower().replace("-", "") == "utf8" else " - "
        self._say(render.clean(dot.join([*words, f"pid {os.getpid()}"])))
        if others:
            self._say(f"joins {_count(len(others), 'worker')} of this file: pid {', '.join(map(str, others))}")

    # ---- what happens to it

    def _wait_for_the_end(self) -> None:
        """Sleep until the runner has ended. Signals are passed on to it from here: a handler that runs in it could block it."""

        def watch() -> None:
            while not self._runner.join(self._manager.interval):
                self._runner.call(self._manager.tell, "WATCHDOG=1")  # one that hangs does not say that it lives
            self._happened.put(_ENDED)

        threading.Thread(target=watch, daemon=True).start()
        while number := self._happened.get():
            if number == signal.SIGHUP and not self._has_lost_its_terminal():
                self._reload()
            else:
                self._stop()

    def _has_lost_its_terminal(self) -> bool:
        """A terminal that is closed sends HUP, too, and means the end."""
        return self._has_terminal and not os.isatty(0)

    def _reload(self) -> None:
        try:
            self._open_log()
            self._config = self._configure()
            self._runner.reload(self._config)
        except (CommandError, FastWorkerError) as error:
            self._say(f"error: {render.clean(error)}; the settings stay as they were", is_trouble=True)
        else:
            self._say("the configuration was read again")

    def _stop(self) -> None:
        self._manager.tell("STOPPING=1")
        self._say("stopping at once" if self._is_stopping else self._describe_stop())
        self._is_stopping = True
        self._runner.stop()

    def _describe_stop(self) -> str:
        running = 0
        with contextlib.suppress(FastWorkerError), self._session.open() as connection:
            running = connection.read(runners.count_running, os.getpid())
        if not running:
            return "stopping"
        patience, them = render.duration(self._config.stop_timeout), "it" if running == 1 else "them"
        return f"stopping: {_count(running, 'job')} running, waiting up to {patience} (Ctrl-C again to end {them})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
