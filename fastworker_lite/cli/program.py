"""How this very program is started again: as the one file that it is, or with the Python that runs it.

Runs in: the command line.
"""

from __future__ import annotations

import os
import sys

from ..interpreters import is_bundled

#: Whether we are the file that brings its own Python. Its path is in sys.argv[0] then. A program that PyInstaller has
#: frozen has us in it, and is not us.
IS_ONE_FILE = is_bundled() and not hasattr(sys, "_MEIPASS")


def own_command() -> list[str]:
    """What `fwl` is here, by absolute paths."""
    if IS_ONE_FILE:
        return [sys.argv[0]]
    archive = getattr(getattr(sys.modules["__main__"], "__loader__", None), "archive", None)
    if archive is not None:  # a .pyz: only it knows where its packages are
        return [sys.executable, os.path.abspath(archive)]
    return [sys.executable, "-m", "fastworker_lite"]


def python_command() -> list[str]:
    """What takes the options and the words that `python` takes."""
    return [sys.argv[0], "_python"] if IS_ONE_FILE else [sys.executable]
