"""What happens to jobs, a line for each, while a worker runs in the foreground: `02:45:19 45 backup succeeded 4m12s`.

Runs in: the command line, on a thread of its own.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..errors import FastWorkerError
from ..events import follow_events
from ..store import queries
from ..store.connection import Connection
from . import render
from .records import seconds_taken, sentence

_ENDS = {"succeeded", "failed", "cancelled", "expired"}


class Narrator:
    """Tells of the file's jobs from when it is made until `stop`."""

    def __init__(self, database: str, say: Callable[[str], None]) -> None:
        """Returns once nothing is missed any more."""
        self._database = database
        self._say = say
        self._is_over, self._end = os.pipe()
        self._follows = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fastworker-narrator", daemon=True)
        self._thread.start()
        self._follows.wait()

    def stop(self) -> None:
        """Tell what has happened until now, and no more."""
        os.close(self._end)
        self._thread.join()
        os.close(self._is_over)

    def _run(self) -> None:
        try:
            connection = Connection(self._database)
            try:
                for event in follow_events(connection, until=self._is_over):
                    self._follows.set()
                    if event is not None and (line := _line(connection, event)) is not None:
                        self._say(line)
            finally:
                connection.close()
        except FastWorkerError as error:
            self._say(f"jobs are not told of any more: {render.clean(error)}")
        finally:
            self._follows.set()


def _line(connection: Connection, event: dict[str, Any]) -> str | None:
    what = event["event"]
    if what not in {"started", "retrying"} | _ENDS:
        return None
    job = connection.read(queries.get, int(event["job_id"]))
    name = event["task_name"] if job is None or job.name is None else job.name
    if job is not None and job.state == what and what in _ENDS:
        taken = seconds_taken(job, time.time())
        what = sentence(job) if taken is None else f"{sentence(job)} {render.duration(taken)}"
    elif event["reason"] and what != "started":
        what = f"{what}: {event['reason']}"
    clock = datetime.fromisoformat(event["at"]).astimezone().strftime("%H:%M:%S")
    return render.clean(f"{clock} {event['job_id']} {name} {what}")
