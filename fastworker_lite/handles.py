"""What a submit returns: one job, or several, to be awaited, watched and cancelled.

Runs in: the application's process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from . import calls, changing
from .errors import ResultTimeout
from .job import Attempt, Job, Progress
from .logs import log_lines
from .sockets import Waker
from .store import queries
from .store.bridge import AsyncConnection
from .store.queries import Ended

R = TypeVar("R")


class Submitter(Protocol):
    """The client that a handle asks."""

    database: str
    _waker: Waker

    async def cancel_task(self, task_id: str) -> bool: ...

    async def _open(self) -> AsyncConnection: ...

    async def _wait(self, number: int) -> Ended: ...

    async def _job(self, number: int) -> Job: ...


class JobHandle(Generic[R]):
    """One submitted job. Awaiting it gives its result. Can be pickled."""

    def __init__(self, client: Submitter, number: int, *, created: bool = True) -> None:
        self._client = client
        self.number = number
        self.created = created  # False when the submit led to a job that was there: see `unique` and `idempotency_key`
        self.parents: GroupHandle = GroupHandle([])  # of a chain or a chord, the jobs that lead to this one

    @property
    def id(self) -> str:
        return str(self.number)

    def __await__(self) -> Any:
        return self.result().__await__()

    async def result(self, timeout: float | None = None) -> R:
        """The return value. Raises `JobFailed`, `JobCancelled`, or `ResultTimeout` after *timeout* seconds."""
        value: R = calls.value_of(await self._ended(timeout))
        return value

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the job has ended, however it did. False when it has not within *timeout* seconds."""
        try:
            await self._ended(timeout)
        except ResultTimeout:
            return False
        return True

    async def _ended(self, timeout: float | None) -> Ended:
        try:
            async with asyncio.timeout(timeout):
                return await self._client._wait(self.number)
        except TimeoutError as error:
            raise ResultTimeout(self.number, timeout or 0.0) from error

    async def status(self) -> str:
        """`scheduled`, `queued`, `blocked`, `running`, `succeeded`, `failed`, `cancelled` or `expired`."""
        return str((await self._client._job(self.number)).state)

    async def cancel(self) -> bool:
        """Cancel the job, and wait until it is gone if it was running. False when it ended otherwise first."""
        return await self._client.cancel_task(self.id)

    async def retry(self) -> bool:
        """Queue the job again if it failed, was cancelled or expired: the same id, attempts go on. False otherwise."""
        connection = await self._client._open()
        return await connection.run(changing.retry, self._client._waker, self.number) in changing.RETRIED

    async def attempts(self) -> list[Attempt]:
        """Every try so far and how it ended, the last or running one included."""
        return await (await self._client._open()).read(queries.attempts, self.number)

    async def progress(self) -> Progress | None:
        """How far the job said it was last, None if it never did."""
        return await (await self._client._open()).read(queries.progress, self.number)

    async def logs(self, follow: bool = False) -> AsyncIterator[str]:
        """The lines the job has printed or logged; with *follow* also those to come, until it has ended."""
        lines = log_lines(self._client.database, self.number, is_followed=follow)
        try:
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                yield line
        finally:
            await asyncio.to_thread(lines.close)

    def __repr__(self) -> str:
        return f"<JobHandle {self.number}>"


class GroupHandle:
    """Several submitted jobs. Awaiting it gives the list of their results, in order."""

    def __init__(self, handles: Sequence[JobHandle[Any]]) -> None:
        self.handles = list(handles)

    def __len__(self) -> int:
        return len(self.handles)

    def __iter__(self) -> Iterator[JobHandle[Any]]:
        return iter(self.handles)

    def __getitem__(self, index: int) -> JobHandle[Any]:
        return self.handles[index]

    def __await__(self) -> Any:
        return self.results().__await__()

    async def results(self, timeout: float | None = None) -> list[Any]:
        """The results in order. Raises what the first job that did not succeed raises, or `ResultTimeout`."""
        try:
            async with asyncio.timeout(timeout):
                return [await handle.result() for handle in self.handles]
        except TimeoutError as error:
            raise ResultTimeout(self.handles[0].number, timeout or 0.0) from error

    async def done(self) -> int:
        """How many of the jobs have ended, however they did."""
        if not self.handles:
            return 0
        connection = await self.handles[0]._client._open()
        return await connection.read(queries.count_ended, [handle.number for handle in self.handles])

    async def status(self) -> str:
        """Such as `3/10 done`."""
        return f"{await self.done()}/{len(self)} done"

    async def cancel(self) -> int:
        """Cancel those that have not ended. Returns how many that were."""
        return sum([await handle.cancel() for handle in self.handles])

    def __repr__(self) -> str:
        return f"<GroupHandle of {len(self)} jobs>"
