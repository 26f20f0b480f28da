"""The words and values of FastWorker's client API.

Runs in: every process.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any


class TaskStatus(str, Enum):
    """Where a task is, in FastWorker's words. Compares equal to its lower-case string."""

    PENDING = "pending"
    QUEUED = "queued"
    SCHEDULED = "scheduled"
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCESS = "success"
    FAILURE = "failure"
    RETRYING = "retrying"
    CANCELLED = "cancelled"

    def __str__(self) -> str:
        return self.value


class TaskPriority(str, Enum):
    """How urgent a task is. Higher ones are started first, equal ones in the order of submission."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackInfo:
    """Where a task's end is told, and what is sent along."""

    address: str
    data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """How a task ended.

    `result` is the task's return value, `error` its exception as text. Times are aware datetimes in UTC, None where the
    task never started or has not ended.
    """

    task_id: str
    status: TaskStatus
    result: Any = None
    error: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    callback: CallbackInfo | None = None
    traceback: str | None = None
    error_type: str | None = None
    attempt: int = 0

    def model_dump(self) -> dict[str, Any]:
        """The fields as a dictionary; values are left as they are."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "callback": dataclasses.asdict(self.callback) if self.callback else None
        }

    def model_dump_json(self) -> str:
        """The fields as JSON. A result that JSON cannot hold appears as its `repr`."""
        return json.dumps(self.model_dump(), default=_jsonable)


def _jsonable(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else repr(value)
