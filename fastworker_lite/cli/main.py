"""The entry point.

Runs in: the command line.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """`fwl`: run the command on the command line, and exit."""
    gc.disable()  # what is imported now stays: looking for garbage in it takes 6 ms. `parsing.Command` enables it again.
    from . import invoking

    code = invoking.run(sys.argv[1:])
    if (
        "multiprocessing" not in sys.modules
    ):  # nothing is left to be ended, and taking the interpreter apart takes 12 ms
        os._exit(code)
    sys.exit(code)
