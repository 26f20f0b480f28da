"""What a frozen program needs: one call, and what PyInstaller is told of this package.

Runs in: a frozen program, before anything else; PyInstaller, when one is made.
"""

from __future__ import annotations

import os
import sys

_has_looked = False


def freeze_support() -> None:
    """Be a worker, or the command line, where this process was started as one; then this never returns.

    A frozen program starts its workers, and a worker that outlives it, by starting itself. So importing fastworker_lite
    calls this there, and what the main script does before that is done in each of them. The first lines of it are best

        from fastworker_lite import freeze_support
        freeze_support()

    `PROGRAM -m fastworker_lite status` is `fwl status` then. Processes that the program itself starts with
    `multiprocessing` are left to it: their functions may stand further down. Does nothing in a program that is not frozen.
    """
    global _has_looked
    if _has_looked or not getattr(sys, "frozen", False):
        return
    _has_looked = True
    is_command_line = sys.argv[1:3] == ["-m", "fastworker_lite"]
    is_worker = sys.argv[1:3] == ["--multiprocessing-fork", "tracker_fd=None"]  # as only ours are started
    if is_command_line or is_worker:
        _restore_library_path()
        _forget_half_imported_modules()
    if is_command_line:
        from ..cli.main import main

        del sys.argv[1:3]
        main()
    from multiprocessing import spawn

    if is_worker or not spawn.is_forking(sys.argv):
        spawn.freeze_support()  # sees to the helpers of multiprocessing, too


def _forget_half_imported_modules() -> None:
    """The imports that have led here never go on; who needs such a module imports it from its beginning."""
    for name, module in list(sys.modules.items()):
        if getattr(getattr(module, "__spec__", None), "_initializing", False):
            if name.partition(".")[0] == "fastworker_lite":  # it is whole but for this call
                module.__spec__._initializing = False  # type: ignore[union-attr]
            else:
                del sys.modules[name]


def _restore_library_path() -> None:
    """Let commands find the libraries of the system: PyInstaller's start has led us, who have ours, to the bundle's."""
    if hasattr(sys, "_MEIPASS"):
        os.environ.pop("LD_LIBRARY_PATH", None)
        if (before := os.environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
            os.environ["LD_LIBRARY_PATH"] = before


def hook_folders() -> list[str]:
    """Where PyInstaller finds `hook-fastworker_lite.py`."""
    return [os.path.dirname(__file__)]
