"""What a submit of `SyncClient` returns: one job, or several.

Runs in: the application's process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from . import calls, changing, producer
from .dispatching import Dispatcher
from .errors import ResultTimeout
from .job import Attempt, Progress, State
from .logs import log_lines
from .sockets import Waker
from .store import queries
from .store.connection import Connection
from .store.queries import Ended

R = TypeVar("R")
T = TypeVar("T")


class SyncSubmitter(Protocol):
    """The client that a handle asks."""

    database: str
    _waker: Waker

    def _call(self, function: Callable[..., T], *args: Any) -> T: ...

    def _wait_any(self, numbers: list[int], timeout: float | None) -> list[Ended]: ...

    def _dispatching(self) -> Dispatcher: ...


class SyncJobHandle(Generic[R]):
    """One submitted job. Can be pickled."""

    def __init__(self, client: SyncSubmitter, number: int, *, created: bool = True) -> None:
        self._client = client
        self.number = number
        self.created = created  # as `JobHandle.created`
        self.parents: SyncGroupHandle = SyncGroupHandle([])  # as `JobHandle.parents`

    @property
    def id(self) -> str:
        return str(self.number)

    def result(self, timeout: float | None = None) -> R:
        """The return value. Raises `JobFailed`, `JobCancelled`, or `ResultTimeout` after *timeout* seconds."""
        found = self._client._wait_any([self.number], timeout)
        if not found:
            raise ResultTimeout(self.number, timeout or 0.0)
        value: R = calls.value_of(found[0])
        return value

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, however it did. False when it has not within *timeout* seconds."""
        return bool(self._client._wait_any([self.number], timeout))

    def status(self) -> str:
        """`scheduled`, `queued`, `blocked`, `running`, `succeeded`, `failed`, `cancelled` or `expired`."""
        return str(self._job().state)

    def cancel(self) -> bool:
        """Cancel the job, and wait until it is gone if it was running. False when it ended otherwise first."""
        found = self._client._call(changing.cancel, self._client._waker, self.number)
        if found == "running":
            return self._client._wait_any([self.number], None)[0].job.state is State.CANCELLED
        return found in changing.UNBEGUN

    def retry(self) -> bool:
        """Queue the job again if it failed, was cancelled or expired: the same id, attempts go on. False otherwise."""
        return self._client._call(changing.retry, self._client._waker, self.number) in changing.RETRIED

    def attempts(self) -> list[Attempt]:
        """Every try so far and how it ended, the last or running one included."""
        return self._client._call(Connection.read, queries.attempts, self.number)

    def progress(self) -> Progress | None:
        """How far the job said it was last, None if it never did."""
        found: Progress | None = self._client._call(Connection.read, queries.progress, self.number)
        return found

    def on_done(self, function: Callable[[SyncJobHandle[R]], object]) -> None:
        """Have `client.dispatch()` call `function(handle)` once the job has ended, however it did; then `result()` is there.

        Also when it had ended before. One that is removed has ended: `result()` raises `JobNotFound`. May be said more than
        once, and from any thread.
        """
        self._client._dispatching().watch(self.number, on_done=lambda: function(self))

    def on_progress(self, function: Callable[[SyncJobHandle[R], Progress], object]) -> None:
        """Have `client.dispatch()` call `function(handle, progress)` when the job has said how far it is.

        At most five times a second, with what it said last; the last of all comes before `on_done`.
        """
        self._client._dispatching().watch(self.number, on_progress=lambda so_far: function(self, so_far))

    def logs(self, follow: bool = False) -> Iterator[str]:
        """The lines the job has printed or logged; with *follow* also those to come, until it has ended."""
        return log_lines(self._client.database, self.number, is_followed=follow)

    def _job(self) -> Any:
        return producer.job_or_raise(self._client._call(Connection.read, queries.get, self.number), self.number)

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.number}>"


class SyncGroupHandle:
    """Several submitted jobs."""

    def __init__(self, handles: Sequence[SyncJobHandle[Any]]) -> None:
        self.handles = list(handles)

    def __len__(self) -> int:
        return len(self.handles)

    def __iter__(self) -> Iterator[SyncJobHandle[Any]]:
        return iter(self.handles)

    def __getitem__(self, index: int) -> SyncJobHandle[Any]:
        return self.handles[index]

    def results(self, timeout: float | None = None) -> list[Any]:
        """As `GroupHandle.results`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        return [
            handle.result(None if deadline is None else max(0.0, deadline - time.monotonic()))
            for handle in self.handles
        ]

    def done(self) -> int:
        """How many of the jobs have ended, however they did."""
        numbers = [handle.number for handle in self.handles]
        return int(self.handles[0]._client._call(Connection.read, queries.count_ended, numbers)) if numbers else 0

    def status(self) -> str:
        """Such as `3/10 done`."""
        return f"{self.done()}/{len(self)} done"

    def cancel(self) -> int:
        """Cancel those that have not ended. Returns how many that were."""
        return sum(handle.cancel() for handle in self.handles)

    def __repr__(self) -> str:
        return f"<SyncGroupHandle of {len(self)} jobs>"
