"""Functions that an event loop calls when a job has ended or has said how far it is: one descriptor to wait for, no thread.

Runs in: the application's process.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .forking import close_in_forked_children
from .job import TERMINAL, Progress
from .paths import SidePaths
from .sockets import WakeSocket, socket_directory
from .store import queries, situation, waiters
from .store.connection import Connection
from .watches import Alarm

#: Seconds after which the file is looked at again, whatever datagrams were lost.
LOOK_AGAIN = 1.0
#: As often as a job's progress is written down.
LOOK_FOR_PROGRESS = 0.2
#: Seconds for which one `dispatch` calls functions, and jobs that it looks at: the loop has other things to do.
TURN = 0.01
PORTION = 1000


class _Watched:
    """A job that has not ended yet, as far as we have seen, and what is to be called."""

    __slots__ = ("on_done", "on_progress", "said_at")

    def __init__(self) -> None:
        self.on_done: list[Callable[[], object]] = []
        self.on_progress: list[Callable[[Progress], object]] = []
        self.said_at = 0.0


class Dispatcher:
    """Any thread may add functions; the one that calls `dispatch` has them called."""

    def __init__(self, call: Callable[..., Any], paths: SidePaths) -> None:
        """*call* runs a function with the connection and further arguments, and returns what it returns."""
        self._call = call
        self._lock = threading.Lock()
        self._watched: dict[int, _Watched] = {}
        self._new: set[int] = set()
        #: Those with which our address is not stored yet.
        self._unseen: list[int] = []
        #: Those that are still to be looked at before it is begun anew.
        self._due: deque[Callable[[], object]] = deque()
        name = f"res-{os.getpid()}-{os.urandom(4).hex()}"
        self._socket = WakeSocket(os.path.join(socket_directory(paths), name))
        self._alarm = Alarm(self._socket.fileno())
        close_in_forked_children(self)

    def fileno(self) -> int:
        return self._alarm.fileno()

    def watch(
        self,
        job_id: int,
        *,
        on_done: Callable[[], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """Have these functions called. Touches no file: the next `dispatch` does."""
        with self._lock:
            if job_id not in self._watched:
                self._watched[job_id] = _Watched()
                self._new.add(job_id)
            watched = self._watched[job_id]
            if on_done is not None:
                watched.on_done.append(on_done)
            if on_progress is not None:
                watched.on_progress.append(on_progress)
                watched.said_at = 0.0
            self._alarm.set(0)

    def dispatch(self) -> int:
        """Call what is due. Returns how many functions were called; raises what one of them raised."""
        try:
            if not self._due:
                self._look()
            return self._call_due()
        finally:
            self._set_alarm()

    def _look(self) -> None:
        """Read how it stands with the next of the jobs, and note what is to be called."""
        with self._lock:
            if not self._unseen:
                self._socket.clear()
                self._unseen = sorted(self._watched)
            ids, self._unseen = self._unseen[:PORTION], self._unseen[PORTION:]
            ids = [job_id for job_id in ids if job_id in self._watched]
            new = [job_id for job_id in ids if job_id in self._new]
            talking = [job_id for job_id in ids if self._watched[job_id].on_progress]
        if new:
            self._call(Connection.write_fast, waiters.add_unfinished, new, self._socket.address)
        if not ids:
            return
        standings, said = self._call(Connection.read, _situation, ids, talking)
        with self._lock:
            self._new.difference_update(new)
            for job_id in ids:
                if job_id in said:
                    self._note_progress(job_id, said[job_id])
                if job_id not in standings or standings[job_id].state in TERMINAL:
                    self._note_end(job_id)

    def _note_progress(self, job_id: int, progress: Progress) -> None:
        watched = self._watched.get(job_id)
        if watched is not None and progress.at > watched.said_at:
            watched.said_at = progress.at
            self._due.extend(partial(function, progress) for function in watched.on_progress)

    def _note_end(self, job_id: int) -> None:
        watched = self._watched.pop(job_id, None)  # another thread may have looked, too
        if watched is not None:
            self._due.extend(watched.on_done)

    def _call_due(self) -> int:
        count, end = 0, time.monotonic() + TURN
        while self._due and (count == 0 or time.monotonic() < end):
            try:
                function = self._due.popleft()  # before the call: it may come back here
            except IndexError:
                break
            count += 1
            function()
        return count

    def _set_alarm(self) -> None:
        with self._lock:
            if self._alarm.is_closed:
                return  # one of the functions has closed the client
            if self._due or self._new or self._unseen:
                self._alarm.set(0)
            elif any(watched.on_progress for watched in self._watched.values()):
                self._alarm.set(LOOK_FOR_PROGRESS)
            else:
                self._alarm.set(LOOK_AGAIN if self._watched else None)

    def close(self) -> None:
        """Remove the socket and the rows that name it; nothing is called any more."""
        with self._lock:
            self._watched.clear()
            self._new.clear()
            self._unseen.clear()
            self._due.clear()
            self._alarm.close()
            self._socket.close()
        self._call(Connection.write_fast, waiters.forget, self._socket.address)

    def close_in_child(self) -> None:
        self._alarm.close()


def _situation(
    sql: sqlite3.Connection, ids: Sequence[int], talking: Sequence[int]
) -> tuple[dict[int, queries.Standing], dict[int, Progress]]:
    return queries.standings(sql, ids), situation.progress_of(sql, talking) if talking else {}
