"""What can be read of a call, a result or a command without unpickling anything: JSON.

Runs in: every process.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

from .errors import SerializationError
from .job import Command


def checksum(task: str, target: bytes | None, payload: bytes) -> int:
    """What a worker compares before it reads a call: SQLite itself does not notice a flipped bit."""
    return zlib.crc32(payload, zlib.crc32(target or b"", zlib.crc32(task.encode())))


def result_checksum(data: bytes) -> int:
    return zlib.crc32(data)


def is_json(data: bytes) -> bool:
    return data[:1] == b"J"


def encode_json(value: object) -> bytes:
    """*value* as JSON. Raises `SerializationError` when it would come back as something else."""
    try:
        text = json.dumps(value, separators=(",", ":"))
        if json.loads(text) != value:
            raise ValueError("it would come back changed")
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"{type(value).__name__} cannot be stored as JSON: {error}") from error
    return b"J" + text.encode()


def encode_json_call(args: list[Any], kwargs: dict[str, Any]) -> bytes:
    """The arguments of a call, all of them JSON; its result will be JSON too, if it can."""
    return encode_json({"args": args, "kwargs": kwargs})


def read_json_result(data: bytes | None) -> Any:
    """A result for those who must not unpickle: its value when it was stored as JSON, else None."""
    return json.loads(data[1:]) if data and is_json(data) else None


def encode_command(command: Command) -> bytes:
    """A command as JSON; bytes that are not UTF-8 come back as they were."""
    fields = {"argv": command.argv, "shell": command.shell, "cwd": command.cwd}
    if command.script is not None or command.stdin is not None or command.input is not None:
        fields |= {"script": command.script, "stdin": command.stdin, "input": command.input}
    return json.dumps(fields).encode()


def decode_command(payload: bytes) -> Command:
    return Command(**json.loads(payload))


def encode_environment(variables: dict[str, str]) -> bytes:
    return json.dumps(variables, sort_keys=True).encode()


def decode_environment(data: bytes) -> dict[str, str]:
    variables: dict[str, str] = json.loads(data)
    return variables
