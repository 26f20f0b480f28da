"""What a frozen program needs: one call, and what PyInstaller is told of this package.

Runs in: a frozen program, before anything else; PyInstaller, when one is made.
"""

from __future__ import annotations

import os
import sys


def freeze_support() -> None:
    """Be a worker, or the command line, where this process was started as one; then this never returns.

    A frozen program starts its workers, and a worker that outlives it, by starting itself. The first lines of its main
    script, before it imports anything else:

        from fastworker_lite import freeze_support
        freeze_support()

    Otherwise every worker would open its windows again. `PROGRAM -m fastworker_lite status` is `fwl status` then. Does
    nothing in a program that is not frozen.
    """
    if not getattr(sys, "frozen", False):
        return
    _restore_library_path()
    from multiprocessing import spawn

    spawn.freeze_support()
    if sys.argv[1:3] == ["-m", "fastworker_lite"]:
        from ..cli.main import main

        del sys.argv[1:3]
        main()


def _restore_library_path() -> None:
    """Let commands find the libraries of the system: PyInstaller's start has led us, who have ours by now, to the bundle's."""
    if hasattr(sys, "_MEIPASS"):
        os.environ.pop("LD_LIBRARY_PATH", None)
        if (before := os.environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def hook_folders() -> list[str]:
    """Where PyInstaller finds `hook-fastworker_lite.py`."""
    return [os.path.dirname(__file__)]
