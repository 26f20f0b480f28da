"""How a file, the environment and arguments change the settings.

`load` reads fastworker.toml, or [tool.fastworker] of a pyproject.toml; `with_overrides` lays arguments over it;
`database_path` says which file is meant. fastworker.toml.example shows every setting.

Runs in: every process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from .durations import shown
from .errors import ConfigError
from .rules import RULES, parse_setting
from .settings import Config

FILE_NAME = "fastworker.toml"
PYPROJECT = "pyproject.toml"
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
    path = find_file(config_path, start)
    return Config() if path is None else _config(read_file(path))


def find_file(
    config_path: str | os.PathLike[str] | None = None, start: str | os.PathLike[str] | None = None
) -> str | None:
    """The absolute path of the file that `load` would read, None when there is none."""
    if config_path is not None:
        return os.path.abspath(_path("the configuration's path", config_path))
    if os.environ.get("FWL_CONFIG"):
        return os.path.abspath(_path("FWL_CONFIG", os.environ["FWL_CONFIG"]))
    folders = list(folders_upwards(start))
    for folder in folders:
        path = os.path.join(folder, FILE_NAME)
        if os.path.lexists(path):
            return path
    for folder in folders:
        path = os.path.join(folder, PYPROJECT)
        if os.path.isfile(path) and read_pyproject(path) is not None:
            return path
    return None


def with_overrides(config: Config, **given: object) -> Config:
    """*config* with the settings in *given*, checked as those of a file are; None leaves one as it is.

    A relative *db* or *python* is taken from the current folder, not from the file's. Raises `ConfigError`.
    """
    changes = {
        key: parse_setting("", key, value) for key, value in given.items() if value is not None or key not in RULES
    }
    if "db" in changes:
        changes["db"] = _absolute(changes["db"], os.curdir)
    if "python" in changes and os.path.exists(path := _absolute(changes["python"], os.curdir)):
        changes["python"] = path
    return config._replace(**changes)


def database_path(flag: str | None, config: Config) -> str:
    """The absolute path of the database: *flag*, else $FWL_DB, else the configuration's, else one for this user.

    The folder of a default is created, for this user alone, also where the default is named. Raises `ConfigError`.
    """
    path = expected_database(flag, config)
    if path == _default_database(config):
        make_private_folders(os.path.dirname(path))
    return path


def expected_database(flag: str | None, config: Config) -> str:
    """As `database_path`, and creates nothing."""
    return _named_database(flag, config) or _default_database(config)


def _named_database(flag: str | None, config: Config) -> str | None:
    if flag is not None:
        return _absolute(_path("--db", flag), os.curdir)
    if os.environ.get("FWL_DB"):
        return _absolute(_path("FWL_DB", os.environ["FWL_DB"]), os.curdir)
    return None if config.db is None else _absolute(config.db, _beside(config))


def _default_database(config: Config) -> str:
    folder = state_folder() if config.path is None else os.path.join(_beside(config), ".fastworker")
    return os.path.join(folder, "fwl.db")


def _beside(config: Config) -> str:
    return os.curdir if config.path is None else os.path.dirname(os.path.abspath(config.path))


# ---- files


class Source(NamedTuple):
    """A file's text, and the table of it that is ours."""

    path: str
    text: str
    table: dict[str, Any]
    is_pyproject: bool


def folders_upwards(start: str | os.PathLike[str] | None) -> Iterator[str]:
    """*start* (None: the current folder) and those above it, to the root of a checkout, $HOME or /."""
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


def read_file(path: str) -> Source:
    """What a configuration holds, its settings unchecked. Raises `ConfigError` when it cannot be read or is not TOML."""
    if os.path.basename(path) != PYPROJECT:
        text = _read(path)
        return Source(path, text, _toml(path, text), False)
    source = read_pyproject(path)
    if source is None:
        raise ConfigError(f"{short_name(path)} has no table [tool.fastworker]; add it or name another file")
    return source


def read_pyproject(path: str) -> Source | None:
    """As `read_file`; None when this pyproject.toml has no table for us."""
    text = _read(path)
    if "fastworker" not in text:  # most do not, and parsing takes longer than looking
        return None
    tool = _toml(path, text).get("tool")
    table = tool.get("fastworker") if isinstance(tool, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ConfigError(f"{short_name(path)}: tool.fastworker must be a table, got {shown(table)}")
    return Source(path, text, table, True)


def _config(source: Source) -> Config:
    return Config(**{key: _setting(source, key, value) for key, value in source.table.items()}, path=source.path)


def _setting(source: Source, key: str, value: object) -> Any:
    try:
        return parse_setting("", key, value)
    except ConfigError as error:
        raise ConfigError(f"{_where(source, key, _faulty(key, value))}{error}") from None


def _faulty(key: str, table: object) -> str | None:
    """The setting of a table that is wrong by itself, None where it is the whole."""
    if not isinstance(table, dict) or not _is_right(key, {}):
        return None
    return next((inner for inner, value in table.items() if not _is_right(key, {inner: value})), None)


def _is_right(key: str, value: object) -> bool:
    try:
        parse_setting("", key, value)
    except ConfigError:
        return False
    return True


def _read(path: str) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise ConfigError(f"{short_name(path)} is not a regular file; name the file with the settings")
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{short_name(path)} cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{short_name(path)} is larger than {_MOST_BYTES} bytes, which no configuration needs")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{short_name(path)}:{line}: the file must be UTF-8, got byte 0x{data[error.start]:02x}"
        ) from None


@lru_cache(maxsize=1)  # a pyproject.toml is read to see whether it is the one, and then again
def _toml(path: str, text: str) -> dict[str, Any]:
    import tomllib  # 6 ms that a process without a file need not spend

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: a number of more digits than Python reads
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        line = (place[1] or text.count("\n") + 1) if place else None
        what = str(error)[: place.start()] if place else str(error)
        raise ConfigError(f"{short_name(path)}{f':{line}' if line else ''}: not TOML: {what}") from None


def _where(source: Source, key: str, inner: str | None) -> str:
    """`fastworker.toml:7: `, without the line when the key is written in an unusual way."""
    line = line_of(source, key, inner)
    return f"{short_name(source.path)}{'' if line is None else f':{line}'}: "


def line_of(source: Source, key: str, inner: str | None = None) -> int | None:
    """The line in which a setting stands, or of a table's *inner* one; None when it is written in an unusual way."""
    first = _line_of(source, key)
    if first is None or inner is None:
        return first
    lines = list(enumerate(source.text.splitlines(), 1))[first - 1 :]
    name = rf"""["']?{re.escape(inner)}["']?"""
    full = re.compile(
        rf"""\s*\[?\s*(?:tool\s*\.\s*fastworker\s*\.\s*)?["']?{re.escape(key)}["']?\s*\.\s*{name}\s*[].=]"""
    )
    for number, line in lines:
        if full.match(line):
            return number
    for number, line in lines[1:]:
        if re.match(r"\s*\[", line):
            break
        if re.match(rf"\s*{name}\s*[.=]", line):
            return number
    return first


def _line_of(source: Source, key: str) -> int | None:
    is_ours = not source.is_pyproject
    named = re.compile(rf"""\s*(?:\[\s*)?(?:tool\s*\.\s*fastworker\s*\.\s*)?["']?{re.escape(key)}["']?\s*[].=]""")
    for number, line in enumerate(source.text.splitlines(), 1):
        if is_ours and named.match(line):
            return number
        if source.is_pyproject and re.match(r"\s*\[", line):
            is_ours = re.match(r"\s*\[\s*tool\s*\.\s*fastworker\s*[].]", line) is not None
            if is_ours and named.match(line):
                return number
    return None


def short_name(path: str) -> str:
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


def home_folder() -> str:
    """The user's; / where neither the environment nor the system knows one, as in containers."""
    home = os.path.expanduser("~")
    return home if os.path.isabs(home) else "/"


def state_folder() -> str:
    """Where what belongs to no project is kept for this user."""
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the specification has relative ones ignored
        state = os.path.join(home_folder(), ".local", "state")
    return os.path.join(state, "fastworker")


def make_private_folders(folder: str) -> None:
    """Create *folder* and what is missing above it, for this user alone. Raises `ConfigError`."""
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
