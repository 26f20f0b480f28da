"""Which Python runs the tasks, when it is not our own, and what it finds in its environment.

Runs in: the command line, runners, and workers.
"""

from __future__ import annotations

import os
import sys

from .config import folders_upwards
from .errors import ConfigError
from .settings import Config

#: The word for our own.
BUILT_IN = "built-in"

#: What leads a Python to its parts: those of one are not those of another one.
_LEADING = (
    "PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__",
)  # fmt: skip


def chosen(config: Config) -> str | None:
    """The program that a configuration means: by a path from its folder, that of a virtual environment, or a command.

    None for our own. Raises `ConfigError` when there is none.
    """
    if config.python is None or config.python == BUILT_IN:
        return None
    named, folder = config.python, module_folders(config)[0]
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(named)))
    if os.path.isdir(path):
        path = program_of(path)
    elif os.sep not in named and not os.path.exists(path):
        import shutil  # with the modules of archives, which few need

        path = shutil.which(named) or path
    if not os.path.exists(path):
        raise ConfigError(f"python {named}: there is no {path}; name a Python, or the folder of a virtual environment")
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise ConfigError(f"python {named}: {path} is not a program; name a Python")
    return path  # not what it is a link to: by its place it knows its environment


def default(config: Config) -> str | None:
    """What a command line means where neither it nor the configuration names one, None for our own.

    A bundle has no packages but its own: there it is the Python of the project.
    """
    return nearest() if is_bundled() and config.python is None else None


def module_folders(config: Config) -> tuple[str, ...]:
    """Where modules with tasks are looked for first: beside the configuration, and in the current folder."""
    beside = [os.path.dirname(os.path.abspath(config.path))] if config.path is not None else []
    return tuple(dict.fromkeys([*beside, os.getcwd()]))


def nearest() -> str | None:
    """The Python of the environment that is active, else that of the nearest `.venv` from here upwards; None for none."""
    active = os.environ.get("VIRTUAL_ENV")
    near = (os.path.join(folder, ".venv") for folder in folders_upwards(None))
    for environment in [*([active] if active else []), *near]:
        program = program_of(environment)
        if os.access(program, os.X_OK):
            return os.path.abspath(program)
    return None


def program_of(environment: str) -> str:
    """The Python of a virtual environment."""
    return os.path.join(environment, "bin", "python")


def variables() -> dict[str, str]:
    """Our environment without what is meant for our own Python; what a bundle has set is as it was before.

    A bundle keeps what it replaces under the name with `_ORIG` behind it.
    """
    found = {name: value for name, value in os.environ.items() if name not in _LEADING}
    for name in (*_LEADING, "SSL_CERT_FILE"):
        before = found.pop(f"{name}_ORIG", None)
        if before is not None:
            found.pop(name, None)
        if before:
            found[name] = before
    return found


def is_bundled() -> bool:
    """Whether this program has a Python of its own within it."""
    return bool(getattr(sys, "frozen", False))
