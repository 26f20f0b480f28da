"""What can be read of a call, a result or a command without unpickling anything: JSON.

Runs in: every process.
"""

from __future__ import annotations

import json
from typing import Any

from .job import Command


def is_json(data: bytes) -> bool:
    return data[:1] == b"J"


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
