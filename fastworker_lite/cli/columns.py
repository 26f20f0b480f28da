"""What a list of jobs can show of each, for people and for programs.

Runs in: the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from ..job import State
from . import render
from .problems import usage
from .records import Record, as_json, progress_text, seconds_taken, state_label

#: What a list shows unless --fields says otherwise; the last one is cut where there is no room for it.
FIELDS = ("id", "state", "queue", "name", "age", "time", "command")
MACHINE_FIELDS = (
    "id", "state", "queue", "name", "created_at", "started_at", "finished_at", "exit_code", "reason", "command",
)  # fmt: skip


def _time(record: Record, now: float) -> str:
    job = record.job
    is_said = job.state is State.RUNNING or job.has_ended
    return render.duration(seconds_taken(job, now) if is_said else None)


def _remark(record: Record, now: float) -> str:
    """What a person asks next: `  (in 25s)`, `  (40/100 half-way)`."""
    job = record.job
    remarks = []
    if job.state is State.SCHEDULED and job.due_at is not None:
        remarks.append(f"in {render.duration(job.due_at - now)}")
    elif job.state is State.BLOCKED and job.reason:
        remarks.append(job.reason)
    elif job.state is State.RUNNING:
        remarks += [progress_text(record.progress)] if record.progress is not None else []
        remarks += ["being cancelled"] if job.cancel is not None else []
    return "".join(f"  ({remark})" for remark in remarks)


#: What people get to see otherwise than as programs do.
_FOR_PEOPLE: dict[str, Callable[[Record, float], str]] = {
    "state": lambda record, _: state_label(record.job),
    "age": lambda record, now: render.age(now - record.job.created_at),
    "time": _time,
    "command": lambda record, now: record.text + _remark(record, now),
    "created_at": lambda record, _: render.local_time(record.job.created_at),
    "started_at": lambda record, _: render.local_time(record.job.started_at),
    "finished_at": lambda record, _: render.local_time(record.job.finished_at),
    "run_after": lambda record, _: render.local_time(record.job.due_at),
    "tags": lambda record, _: " ".join(f"{key}={value}" for key, value in record.tags.items()) or "-",
}
_KNOWN = (
    *_FOR_PEOPLE, "id", "name", "kind", "task", "argv", "shell", "cwd", "queue", "priority", "exit_code", "signal",
    "reason", "error", "error_type", "attempt", "max_attempts", "unique_key", "lock", "after", "after_mode", "schedule",
    "scheduled_for", "duration_s", "timeout_s", "worker", "log", "result", "progress", "cancel", "expires_at",
)  # fmt: skip


def parse_fields(text: str | None) -> tuple[str, ...] | None:
    """The names in `id,state,name`."""
    if text is None:
        return None
    return tuple(_field("--fields", name) for name in text.split(","))


def parse_order(text: str | None, *, is_reversed: bool) -> tuple[str | None, bool]:
    """The field in `name` or `-duration`, and whether the largest comes first."""
    if text is None:
        return None, is_reversed
    name = text.removeprefix("-")
    return _field("--sort", name), is_reversed != (name != text)


def _field(option: str, text: str) -> str:
    """The name of a field; its unit may be left out: `duration`, `created`."""
    name = text.strip().lower()
    for known in (name, f"{name}_s", f"{name}_at"):
        if known in _KNOWN:
            return known
    raise usage(f'{option}: there is no field "{name}"', f"Fields: {' '.join(sorted(_KNOWN))}")


def table(records: Sequence[Record], fields: Sequence[str], now: float) -> tuple[list[str], list[list[str]]]:
    """Header and rows for a person."""
    return [name.upper() for name in fields], [[_shown(record, name, now) for name in fields] for record in records]


def _shown(record: Record, name: str, now: float) -> str:
    if name in _FOR_PEOPLE:
        return _FOR_PEOPLE[name](record, now)
    found = value(record, name)
    return "-" if found is None else found if isinstance(found, str) else json.dumps(found)


def row(record: Record, fields: Sequence[str]) -> list[object]:
    """One record for programs: `state` is one of the eight words, times are in UTC."""
    values = [value(record, name) for name in fields]
    return [json.dumps(value) if isinstance(value, (dict, list)) else value for value in values]


def value(record: Record, name: str) -> Any:
    """One field as JSON has it."""
    if name == "command":
        return record.text
    return as_json(record)[{"age": "created_at", "time": "duration_s"}.get(name, name)]


def sort(records: list[Record], name: str | None, *, is_reversed: bool) -> list[Record]:
    """The records by this field, those without it last either way."""
    if name is None:
        return records[::-1] if is_reversed else records
    values = [(value(record, name), record) for record in records]
    has = sorted((one for one in values if one[0] is not None), key=lambda one: _key(one[0]), reverse=is_reversed)
    return [record for _, record in has] + [record for value, record in values if value is None]


def _key(value: Any) -> tuple[bool, Any]:
    is_number = isinstance(value, (int, float))
    return not is_number, value if is_number else json.dumps(value)
