"""The entry point.

Runs in: the command line.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys


def main() -> None:
    """`fwl`: run the command on the command line, and exit."""
    gc.disable()  # what is imported now stays: looking for garbage in it takes 6 ms. `parsing.Command` enables it again.
    try:
        code = _complete(sys.argv[2:]) if sys.argv[1:2] == ["_complete"] else _run(sys.argv[1:])
    except KeyboardInterrupt:  # while it was still importing what it needs
        code = 130
    if (
        "multiprocessing" not in sys.modules
    ):  # nothing is left to be ended, and taking the interpreter apart takes 12 ms
        os._exit(code)
    sys.exit(code)


def _run(argv: list[str]) -> int:
    from . import invoking

    return invoking.run(argv)


def _complete(words: list[str]) -> int:
    """`fwl _complete SHELL WORD...`: what the scripts of `fwl completion` ask, many times while a line is typed."""
    from . import completing

    with contextlib.suppress(OSError):
        if words[:1] == ["bash"] and len(words) == 3:
            completing.answer_bash(words[1], words[2])
        else:
            completing.answer(words[1:])
        sys.stdout.flush()
    return 0
