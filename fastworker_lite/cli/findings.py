"""What `fwl doctor` says of one thing it has looked at.

Runs in: the command line.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Finding(NamedTuple):
    """One line of the report."""

    level: str
    #: "ok", "warning" or "problem".
    check: str
    #: What was looked at, one word.
    text: str
    hint: str | None = None
    #: What to type; there is one for all that is not ok.


def ok(check: str, text: str) -> Finding:
    return Finding("ok", check, text)


def warning(check: str, text: str, hint: str) -> Finding:
    return Finding("warning", check, text, hint)


def problem(check: str, text: str, hint: str) -> Finding:
    return Finding("problem", check, text, hint)


def nearest_folder(path: str) -> str:
    """The folder that *path* is in, or the one above it that there is."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
