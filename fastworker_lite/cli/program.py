"""How this very program is started again: as the one file that it is, or with the Python that runs it.

Runs in: the command line.
"""

from __future__ import annotations

import sys

from ..interpreters import is_bundled

#: Whether we are the file that brings its own Python. Its path is in sys.argv[0] then.
IS_ONE_FILE = is_bundled()


def own_command() -> list[str]:
    """What `fwl` is here, by absolute paths."""
    return [sys.argv[0]] if IS_ONE_FILE else [sys.executable, "-m", "fastworker_lite"]


def python_command() -> list[str]:
    """What takes the options and the words that `python` takes."""
    return [sys.argv[0], "_python"] if IS_ONE_FILE else [sys.executable]
