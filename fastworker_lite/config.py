"""How a file, the environment and arguments change the settings.

`load` reads fastworker.toml, or [tool.fastworker] of a pyproject.toml; `with_overrides` lays arguments over it;
`database_path` says which file is meant. fastworker.toml.example shows every setting.

Runs in: every process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from .durations import shown
from .errors import ConfigError
from .rules import RULES, parse_setting
from .settings import Config

FILE_NAME = "fastworker.toml"
_PYPROJECT = "pyproject.toml"
_VCS = (".git", ".hg", ".svn", ".jj")
#: A larger file is no configuration; a device or a pipe would never end.
_MOST_BYTES = 1024 * 1024


def load(config_path: str | os.PathLike[str] | None = None, start: str | os.PathLike[str] | None = None) -> Config:
    """The settings of the file that applies, or the defaults when there is none.

    The file is *config_path*, else $FWL_CONFIG, else the nearest fastworker.toml from *start* (the current folder)
    upwards, else the nearest pyproject.toml with a table [tool.fastworker]. The search ends at the root of a checkout,
    at $HOME, or at /.
    Raises `ConfigError` naming the file, the line where it is known, the setting and the rule it breaks.
    """
    if config_path is not None:
        return _read_named(_path("the configuration's path", config_path))
    if os.environ.get("FWL_CONFIG"):
        return _read_named(_path("FWL_CONFIG", os.environ["FWL_CONFIG"]))
    folders = list(_folders(start))
    for folder in folders:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return _read_named(path)
    for folder in folders:
        path = os.path.join(folder, _PYPROJECT)
        if os.path.isfile(path) and (config := _read_pyproject(path)) is not None:
            return config
    return Config()


def with_overrides(config: Config, **given: object) -> Config:
    """*config* with the settings in *given*, checked as those of a file are; None leaves one as it is.

    A relative *db* is taken from the current folder, not from the file's. Raises `ConfigError`.
    """
    changes = {
        key: parse_setting("", key, value) for key, value in given.items() if value is not None or key not in RULES
    }
    if "db" in changes:
        changes["db"] = _absolute(changes["db"], os.curdir)
    return replace(config, **changes)


def database_path(flag: str | None, config: Config) -> str:
    """The absolute path of the database: *flag*, else $FWL_DB, else the configuration's, else one for this user.

    A folder that has to exist for a default is created, for this user alone. Raises `ConfigError`.
    """
    if flag is not None:
        return _absolute(_path("--db", flag), os.curdir)
    if os.environ.get("FWL_DB"):
        return _absolute(_path("FWL_DB", os.environ["FWL_DB"]), os.curdir)
    beside = os.path.dirname(os.path.abspath(config.path)) if config.path is not None else os.curdir
    if config.db is not None:
        return _absolute(config.db, beside)
    folder = os.path.join(beside, ".fastworker") if config.path is not None else _state_folder()
    _make_private_folders(folder)
    return os.path.join(folder, "fwl.db")


# ---- files


class _Source(NamedTuple):
    """A file's text, and the table of it that is ours."""

    path: str
    text: str
    table: dict[str, Any]
    is_pyproject: bool


def _folders(start: str | os.PathLike[str] | None) -> Iterator[str]:
    try:
        folder = os.path.abspath(os.curdir if start is None else start)
    except FileNotFoundError:  # the current folder was removed
        return
    home = os.path.abspath(os.path.expanduser("~"))
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if folder in (home, parent) or any(os.path.lexists(os.path.join(folder, name)) for name in _VCS):
            return
        folder = parent


def _read_named(path: str) -> Config:
    path = os.path.abspath(path)
    if os.path.basename(path) != _PYPROJECT:
        text = _read(path)
        return _config(_Source(path, text, _toml(path, text), False))
    config = _read_pyproject(path)
    if config is None:
        raise ConfigError(f"{_name(path)} has no table [tool.fastworker]; add it or name another file")
    return config


def _read_pyproject(path: str) -> Config | None:
    text = _read(path)
    if "fastworker" not in text:  # most do not, and parsing takes longer than looking
        return None
    tool = _toml(path, text).get("tool")
    table = tool.get("fastworker") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(f"{_name(path)}: tool.fastworker must be a table, got {shown(table)}")
    return _config(_Source(path, text, table, True))


def _config(source: _Source) -> Config:
    settings = {key: parse_setting(_where(source, key), key, value) for key, value in source.table.items()}
    return Config(**settings, path=source.path)


def _read(path: str) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{_name(path)} is not a regular file; name the file with the settings")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{_name(path)} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{_name(path)} is larger than {_MOST_BYTES} bytes, which no configuration needs")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{_name(path)}:{line}: the file must be UTF-8, got byte 0x{data[error.start]:02x}") from None


def _toml(path: str, text: str) -> dict[str, Any]:
    import tomllib  # 6 ms that a process without a file need not spend

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of more digits than Python reads
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = (place[1] or text.count("\n") + 1) if place else None
        what = str(error)[: place.start()] if place else str(error)
        raise ConfigError(f"{_name(path)}{f':{line}' if line else ''}: not TOML: {what}") from None


def _where(source: _Source, key: str) -> str:
    """`fastworker.toml:7: `, without the line when the key is written in an unusual way."""
    is_ours = not source.is_pyproject
    named = re.compile(rf"""\s*(?:\[\s*)?(?:tool\s*\.\s*fastworker\s*\.\s*)?["']?{re.escape(key)}["']?\s*[].=]""")
    for number, line in enumerate(source.text.splitlines(), 1):
        if is_ours and named.match(line):
            return f"{_name(source.path)}:{number}: "
        if source.is_pyproject and re.match(r"\s*\[", line):
            is_ours = re.match(r"\s*\[\s*tool\s*\.\s*fastworker\s*[].]", line) is not None
            if is_ours and named.match(line):
                return f"{_name(source.path)}:{number}: "
    return f"{_name(source.path)}: "


def _name(path: str) -> str:
    """A path as a person in the current folder would write it."""
    try:
        near = os.path.relpath(path)
    except OSError:
        return path
    return path if near.startswith(os.pardir) else near


# ---- paths


def _path(what: str, value: str | os.PathLike[str]) -> str:
    text = os.fspath(value)
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{what} must be the path of a file, got {shown(text)}")
    if text == ":memory:" or text.startswith("file:"):
        raise ConfigError(f"{what} must be the path of a file that several processes can open, got {shown(text)}")
    return text


def _absolute(path: str, folder: str) -> str:
    return os.path.abspath(os.path.join(folder, os.path.expanduser(path)))


def _state_folder() -> str:
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification has relative ones ignored
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "fastworker")


def _make_private_folders(folder: str) -> None:
    missing = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise ConfigError(f"{path} is in the way of a folder; name the database with --db or FWL_DB") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name the database with --db or FWL_DB") from error
        else:
            _sync(os.path.dirname(path))


def _sync(folder: str) -> None:
    """Make the names in *folder* survive a power cut, and with them the database that will lie below."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
