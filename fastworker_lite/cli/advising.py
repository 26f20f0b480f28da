"""What to type instead of a program that is not there.

Runs in: the command line.
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from shlex import quote

#: What a shell does itself, and no program.
_OF_THE_SHELL = {
    "alias",
    "cd",
    "declare",
    "eval",
    "exec",
    "export",
    "local",
    "set",
    "source",
    "type",
    "ulimit",
    "unset",
}


def advise(program: str, cwd: str, path: str) -> str:
    """A line for who has named this program, which cannot be started."""
    if program in _OF_THE_SHELL:
        return f"The shell does that itself. Use:  fwl submit -c '{program} ...'   To run it in a folder: --cwd DIR"
    here = os.path.join(cwd, program)
    if os.path.isdir(here):
        return "That is a folder. To run a command in it: --cwd DIR"
    if os.path.isfile(here):
        own = program if "/" in program else f"./{program}"
        if os.access(here, os.X_OK):
            return f"Did you mean {quote(own)}?"
        return f"It may not be executed. Allow it: chmod +x {quote(own)}   Or: fwl submit --script {quote(own)}"
    if any(character in program for character in " |;&<>$"):
        return f"That is a shell line. Use:  fwl submit -c {quote(program)}"
    close = [] if "/" in program else get_close_matches(program, _programs(path), n=1, cutoff=0.75)
    meant = f"Did you mean {quote(close[0])}?  " if close else ""
    return f"{meant}Queue it anyway: --no-check"


def _programs(path: str) -> list[str]:
    names: set[str] = set()
    for folder in path.split(os.pathsep):
        if os.path.isdir(folder):
            names.update(os.listdir(folder))
    return sorted(names)
