"""The exceptions a caller can meet: one class for each thing that can be done about it.

    FastWorkerError
    ├── ConfigError (ValueError)         correct the setting, option or argument
    ├── JobNotFound (LookupError)        there is no such job on this file
    ├── JobFailed                        the task raised, or its worker died
    ├── JobCancelled                     somebody cancelled the job
    ├── ResultTimeout (TimeoutError)     wait longer; the job goes on
    ├── SerializationError (ValueError)  send values that pickle
    │   └── PayloadTooLarge              send less, or a path to a file
    ├── DatabaseBusy                     another process holds the write gate; try again
    ├── StorageError                     the file cannot be used where it is
    │   ├── DatabaseGone                 the file was deleted, replaced or closed underneath us
    │   ├── StorageFull                  make room
    │   └── NotOurDatabase               the path names some other file
    ├── SchemaTooNew                     upgrade this package
    ├── QueueFull                        drain the queue or raise its limit
    ├── JobExists                        there is a job with this unique key already
    └── ForkedError                      open a new client in the child

Each message is a rule and the value that broke it, or a fact and its remedy.

Runs in: every process.
"""

from __future__ import annotations


class FastWorkerError(Exception):
    """The parent of every exception that this package raises on purpose."""


class ConfigError(FastWorkerError, ValueError):
    """A setting, option or argument breaks a rule; nothing was stored."""


class JobNotFound(FastWorkerError, LookupError):
    """No job has this id: it never existed here, or its record has expired."""

    def __init__(self, job_id: int | str) -> None:
        super().__init__(f"no job {job_id}")
        self.job_id = str(job_id)

    def __reduce__(self) -> tuple[type[JobNotFound], tuple[str]]:
        return JobNotFound, (self.job_id,)


class JobFailed(FastWorkerError):
    """The job ended without a result.

    `error_type` and `error` are the task's exception as text, `remote_traceback` is where it was raised in the worker.
    """

    def __init__(
        self, job_id: int | str, error_type: str | None, error: str, remote_traceback: str | None = None
    ) -> None:
        super().__init__(f"job {job_id} failed: {error_type + ': ' if error_type else ''}{error}")
        self.job_id = str(job_id)
        self.error_type = error_type
        self.error = error
        self.remote_traceback = remote_traceback

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str, str | None, str, str | None]]:
        return JobFailed, (self.job_id, self.error_type, self.error, self.remote_traceback)

    def __str__(self) -> str:
        text: str = self.args[0]
        return f"{text}\n\nIn the worker:\n{self.remote_traceback}" if self.remote_traceback else text


class JobCancelled(FastWorkerError):
    """The job was cancelled, or expired, before it ended by itself."""

    def __init__(self, job_id: int | str, reason: str | None = None) -> None:
        super().__init__(f"job {job_id} was cancelled" + (f": {reason}" if reason else ""))
        self.job_id = str(job_id)
        self.reason = reason

    def __reduce__(self) -> tuple[type[JobCancelled], tuple[str, str | None]]:
        return JobCancelled, (self.job_id, self.reason)


class ResultTimeout(FastWorkerError, TimeoutError):
    """The job had not ended in time. It goes on, and its result can still be fetched."""

    def __init__(self, job_id: int | str, seconds: float) -> None:
        super().__init__(
            f"job {job_id} timed out after {seconds:g} s of waiting; it goes on and can be asked for again"
        )
        self.job_id = str(job_id)
        self.seconds = seconds

    def __reduce__(self) -> tuple[type[ResultTimeout], tuple[str, float]]:
        return ResultTimeout, (self.job_id, self.seconds)


class SerializationError(FastWorkerError, ValueError):
    """A call or a value cannot be turned into bytes, or back."""


class PayloadTooLarge(SerializationError):
    """The arguments of a call take more room than the file's limit allows."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the call takes {size} bytes, more than max_payload = {limit}; pass a path or a key to the data instead, or raise the limit"
        )
        self.size = size
        self.limit = limit

    def __reduce__(self) -> tuple[type[PayloadTooLarge], tuple[int, int]]:
        return PayloadTooLarge, (self.size, self.limit)


class DatabaseBusy(FastWorkerError):
    """The write gate was not free in time. Nothing was stored; try again."""


class StorageError(FastWorkerError):
    """The database file cannot be opened, read or written where it is."""


class DatabaseGone(StorageError):
    """The file that was opened is no longer the file at its path. Nothing is acknowledged any more; open it anew."""


class StorageFull(StorageError):
    """The disk, or the log that waits to be written into the database, has no room left."""


class NotOurDatabase(StorageError):
    """The file is not a database of this package, or it is damaged. It was not changed."""


class SchemaTooNew(FastWorkerError):
    """A newer version wrote the file. It was not changed."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema {found}, this version knows up to {known}; upgrade: pip install -U fastworker-lite"
        )
        self.path, self.found, self.known = path, found, known

    def __reduce__(self) -> tuple[type[SchemaTooNew], tuple[str, int, int]]:
        return SchemaTooNew, (self.path, self.found, self.known)


class QueueFull(FastWorkerError):
    """The queue holds as many jobs as it may; nothing was stored."""

    def __init__(self, queue: str, most: int) -> None:
        super().__init__(f'queue "{queue}" may hold {most} jobs, its max_length; drain it or raise the limit')
        self.queue, self.most = queue, most

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int]]:
        return QueueFull, (self.queue, self.most)


class JobExists(FastWorkerError):
    """A job with this unique key is waiting or running, and `on_conflict` says "fail"; nothing was stored."""

    def __init__(self, job_id: int | str, key: str) -> None:
        super().__init__(f'job {job_id} has the unique key "{key}" already; wait for its end, or cancel it')
        self.job_id, self.key = str(job_id), key

    def __reduce__(self) -> tuple[type[JobExists], tuple[str, str]]:
        return JobExists, (self.job_id, self.key)


class ForkedError(FastWorkerError):
    """The handle was opened before a fork and cannot be used in the child."""

    def __init__(self, what: str = "this client") -> None:
        super().__init__(f"{what} was opened before a fork; open a new one in the child process")


class Retry(Exception):
    """Raised by a task: try this job again, after *after* seconds. Needs no `retries`; where they are given they are the limit."""

    def __init__(self, *, after: float = 0.0) -> None:
        if not isinstance(after, (int, float)) or not 0 <= after <= 1e10:
            raise ValueError(f"after must be seconds, 0 or more, got {after!r}")
        super().__init__(f"try again after {after:g} s")
        self.after = float(after)


class Cancel(Exception):
    """Raised by a task: end this job as cancelled, with this reason, and do not try it again."""

    def __init__(self, reason: str = "cancelled by its task") -> None:
        super().__init__(reason)
        self.reason = str(reason)


class ImportTrouble(FastWorkerError):
    """Another Python cannot be used, or cannot import the tasks."""

    def __init__(self, text: str, sys_path: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.sys_path = sys_path


class NotInJob(FastWorkerError):
    """`current_job()` was called outside of a running job."""

    def __init__(self) -> None:
        super().__init__("current_job() is for code that a worker runs; here no job is running")


class PoolFailed(FastWorkerError):
    """Workers die before they are ready; the runner has stopped."""
