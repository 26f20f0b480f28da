"""A job runner that lives in one SQLite file.

      any process                 the runner's process                      worker processes
      Client.delay ──INSERT──▶  jobs.db (SQLite, WAL)  ◀──claim / settle──  run your function
           │                        ▲        │                                   │
           └── wake datagram ───────┼────────┼──────────────────────────────────▶│ (one idle worker wakes)
                                    │        │
                                 Scheduler (asyncio): due jobs, schedules, timeouts, dead workers

Follow a job through client, producer, store.jobs, worker, execution and exchange.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if os.name != "posix":
    raise ImportError("fastworker_lite needs Unix sockets and kernel locks: it runs on Linux and macOS, not on Windows")

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .client import Client as Client
    from .current import current_job as current_job
    from .errors import Cancel as Cancel
    from .errors import ConfigError as ConfigError
    from .errors import DatabaseBusy as DatabaseBusy
    from .errors import DatabaseGone as DatabaseGone
    from .errors import FastWorkerError as FastWorkerError
    from .errors import ForkedError as ForkedError
    from .errors import JobCancelled as JobCancelled
    from .errors import JobExists as JobExists
    from .errors import JobFailed as JobFailed
    from .errors import JobNotFound as JobNotFound
    from .errors import NotInJob as NotInJob
    from .errors import NotOurDatabase as NotOurDatabase
    from .errors import PayloadTooLarge as PayloadTooLarge
    from .errors import QueueFull as QueueFull
    from .errors import ResultTimeout as ResultTimeout
    from .errors import Retry as Retry
    from .errors import SchemaTooNew as SchemaTooNew
    from .errors import SerializationError as SerializationError
    from .errors import StorageError as StorageError
    from .errors import StorageFull as StorageFull
    from .freezing import freeze_support as freeze_support
    from .graph import call as call
    from .handles import JobHandle as JobHandle
    from .listener import CallbackListener as CallbackListener
    from .listener import SyncCallbackListener as SyncCallbackListener
    from .sync import SyncClient as SyncClient
    from .tasks.models import CallbackInfo as CallbackInfo
    from .tasks.models import TaskPriority as TaskPriority
    from .tasks.models import TaskResult as TaskResult
    from .tasks.models import TaskStatus as TaskStatus
    from .tasks.registry import task as task
    from .tasks.registry import task_registry as task_registry

_WHERE = {
    "Client": "client",
    "JobHandle": "handles",
    "CallbackListener": "listener",
    "SyncCallbackListener": "listener",
    "SyncClient": "sync",
    "freeze_support": "freezing",
    "call": "graph",
    "current_job": "current",
    "CallbackInfo": "tasks.models",
    "TaskPriority": "tasks.models",
    "TaskResult": "tasks.models",
    "TaskStatus": "tasks.models",
    "task": "tasks.registry",
    "task_registry": "tasks.registry",
} | dict.fromkeys(
    [
        "Cancel",
        "ConfigError",
        "DatabaseBusy",
        "DatabaseGone",
        "FastWorkerError",
        "ForkedError",
        "JobCancelled",
        "JobFailed",
        "JobNotFound",
        "NotInJob",
        "NotOurDatabase",
        "PayloadTooLarge",
        "JobExists",
        "QueueFull",
        "ResultTimeout",
        "Retry",
        "SchemaTooNew",
        "SerializationError",
        "StorageError",
        "StorageFull",
    ],
    "errors",
)

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Public names are loaded when first used: a command line that submits one job needs no asyncio."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


if getattr(sys, "frozen", False):  # a frozen program starts its workers by starting itself
    from .freezing import freeze_support

    freeze_support()
