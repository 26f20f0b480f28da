"""What a frozen program needs: one call, and what PyInstaller is told of this package.

Runs in: a frozen program, before anything else; PyInstaller, when one is made.
"""

from __future__ import annotations

import os
import sys

_is_called = False


def freeze_support() -> None:
    """Be a worker, or the command line, where this process was started as one; then this never returns.

    A frozen program starts its workers, and a worker that outlives it, by starting itself. The first lines of its main
    script, before it imports anything else:

        from fastworker_lite import freeze_support
        freeze_support()

    Otherwise every worker would be the program again; so without it no client starts a runner. `PROGRAM -m
    fastworker_lite status` is `fwl status` then. Processes that the program itself starts with `multiprocessing` are
    left to it: their functions may stand further down. Does nothing in a program that is not frozen.
    """
    global _is_called
    if _is_called or not getattr(sys, "frozen", False):
        return
    _is_called = True
    if sys.argv[1:3] == ["-m", "fastworker_lite"]:
        _restore_library_path()
        from ..cli.main import main

        del sys.argv[1:3]
        main()
    is_worker = sys.argv[1:3] == ["--multiprocessing-fork", "tracker_fd=None"]  # as only ours are started
    if is_worker:
        _restore_library_path()
    from multiprocessing import spawn

    if is_worker or not spawn.is_forking(sys.argv):
        spawn.freeze_support()  # sees to the helpers of multiprocessing, too


def check_called() -> None:
    """Raise `ConfigError` in a frozen program whose workers would be the whole program again."""
    if getattr(sys, "frozen", False) and not _is_called:
        from ..errors import ConfigError

        raise ConfigError("a frozen program must call fastworker_lite.freeze_support() before anything else")


def _restore_library_path() -> None:
    """Let commands find the libraries of the system: PyInstaller's start has led us, who have ours, to the bundle's."""
    if hasattr(sys, "_MEIPASS"):
        os.environ.pop("LD_LIBRARY_PATH", None)
        if (before := os.environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def hook_folders() -> list[str]:
    """Where PyInstaller finds `hook-fastworker_lite.py`."""
    return [os.path.dirname(__file__)]
