"""Faults of our own: kept in a file for whoever looks into them, without the values that a job or its user may hold secret.

Runs in: the command line, when it fails.
"""

from __future__ import annotations

import os
import platform
import time
import traceback

from .. import __version__, config
from ..errors import ConfigError


def keep(error: BaseException) -> str | None:
    """Write down where *error* arose, and return the path of the file; None when there is no place for it."""
    try:
        folder = config.state_folder()
        config.make_private_folders(folder)
        path = os.path.join(folder, f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.write(f"fastworker_lite {__version__}, Python {platform.python_version()}, {platform.platform()}\n\n")
            file.write(traced(error))
    except (OSError, ConfigError):
        return None
    return path


def traced(error: BaseException) -> str:
    """Where *error* arose: files and lines, no values."""
    return "".join(traceback.format_exception(error))
