"""`fwl config`: the settings that apply, where they come from, and what is wrong with them.

Runs in: the command line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, NamedTuple

import typer

from .. import config as configuration
from ..config import Source
from ..errors import ConfigError
from ..rules import RULES, parse_setting
from ..settings import Config, CronSetting, ListenerSetting, QueueSetting
from . import render
from .problems import CONFIG, NOT_FOUND, CommandError
from .session import Session

#: What a setting means that has no value.
_UNSET = {"queues": "all", "durability": "as the database has it", "keep.results": "as long as their jobs"}
#: The variables that go before the file, beside FWL_DB.
_VARIABLES = {"autostart": "FWL_AUTOSTART", "idle_exit": "FWL_IDLE_EXIT"}
_NO_FILE, _MAKE_ONE = "there is no fastworker.toml here or above", "Make one: fwl init"


class Setting(NamedTuple):
    """A setting as it applies."""

    name: str
    #: Of one in a table, `keep.jobs`.
    value: Any
    source: str
    #: "default", "file", "environment" or "flag".
    where: str
    #: For a person: `fastworker.toml:7`, `FWL_DB`.


class Fault(NamedTuple):
    """What is wrong with the file."""

    line: int | None
    name: str | None
    text: str


def group(context: typer.Context) -> int:
    """The settings that apply, where they come from, and what is wrong with them. Without a command: fwl config show.

    fwl config show
    fwl config check

    They are changed in fastworker.toml: fwl help settings
    """
    return show(context) if context.invoked_subcommand is None else 0


def show(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this one, or those of this table: workers, hooks.")
    ] = None,
    sources: Annotated[bool, typer.Option("--sources", help="Say where each value comes from.")] = False,
) -> int:
    """Print every setting with its value, as TOML.

    fwl config show --sources
    fwl config show hooks
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    settings = list(_settings(session))
    if name is not None:
        settings = _named(settings, name)
    if session.is_json:
        listed = [one._asdict() | {"value": _plain(one.value)} for one in settings]
        session.put_json("fwl.config/1", file=session.config.path, settings=listed)
        return 0
    for one in settings:
        value = f"# {one.name}: {_UNSET.get(one.name, 'not set')}" if one.value is None else _line(one)
        print(render.clean(value) + (f"  # {render.clean(one.where)}" if sources else ""))
    return 0


def _named(settings: Sequence[Setting], name: str) -> list[Setting]:
    found = [one for one in settings if one.name == name or one.name.startswith(f"{name}.")]
    if not found and name not in RULES:
        from difflib import get_close_matches

        close = get_close_matches(name, [*RULES, *(one.name for one in settings)], n=1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise CommandError(f'there is no setting "{name}".{meant}', NOT_FOUND, "See them all: fwl config show")
    return found


def path(context: typer.Context) -> int:
    """Print the path of the file with the settings that apply here.

    fwl config path
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    file = _find_file(session)
    if file is None:
        raise CommandError(_NO_FILE, NOT_FOUND, _MAKE_ONE)
    if session.is_json:
        session.put_json("fwl.config_path/1", path=file)
    else:
        render.put_path(file)
    return 0


def check(context: typer.Context) -> int:
    """Look through the settings of this folder, and say all that is wrong. Exit 0 when nothing is, else 78.

    fwl config check
    """
    session: Session = context.find_object(Session)  # type: ignore[assignment]
    file, found = find_faults(session)
    if file is None:
        raise CommandError(_NO_FILE, NOT_FOUND, _MAKE_ONE)
    if session.is_json:
        problems = [{"line": fault.line, "setting": fault.name, "message": fault.text} for fault in found]
        session.put_json("fwl.config_check/1", path=file, problems=problems)
    else:
        for fault in found:
            print(render.clean(short_text(file, fault)))
        if not found:
            print(f"no problems in {render.clean(configuration.short_name(file))}")
    return CONFIG if found else 0


def find_faults(session: Session) -> tuple[str | None, list[Fault]]:
    """The file that applies, and all that is wrong with it."""
    file = _find_file(session)
    if file is None:
        return None, []
    try:
        return file, sorted(_faults(configuration.read_file(file)), key=lambda fault: fault.line or 0)
    except ConfigError as error:
        return file, [Fault(None, None, str(error))]


def _find_file(session: Session) -> str | None:
    try:
        return configuration.find_file(session.config_flag)
    except ConfigError as error:
        raise CommandError(str(error), CONFIG) from error


# ---- show


def _settings(session: Session) -> Iterator[Setting]:
    source = None if session.config.path is None else configuration.read_file(session.config.path)
    for name, inner, value in _values(session.config):
        if name == "db":
            yield _database(session, source)
        elif os.environ.get(_VARIABLES.get(name, "")):
            yield _from_environment(name, _VARIABLES[name])
        else:
            yield _setting(source, name, inner, value)


def _values(config: Config) -> Iterator[tuple[str, str | None, Any]]:
    """Each setting's name, the name within its table, and its value."""
    for field, value in config._asdict().items():
        if field in ("cron", "listener", "queue"):
            yield from ((field, one.name, _table(one)) for one in value)
        elif hasattr(value, "_asdict"):
            given = {name: one for name, one in value._asdict().items() if field != "job" or one is not None}
            yield from ((field, name, one) for name, one in given.items())
        elif field != "path":
            yield field, None, value


def _table(one: CronSetting | ListenerSetting | QueueSetting) -> dict[str, Any]:
    if isinstance(one, CronSetting):
        return one.table
    if isinstance(one, QueueSetting):
        return dict(one.limits)
    return {key: value for key, value in one._asdict().items() if key != "name" and value is not None}


def _setting(source: Source | None, name: str, inner: str | None, value: Any) -> Setting:
    full = name if inner is None else f"{name}.{_key(inner)}"
    if source is None or name not in source.table or (inner is not None and inner not in source.table[name]):
        return Setting(full, value, "default", "default")
    return Setting(full, value, "file", _place(source.path, configuration.line_of(source, name, inner)))


def _database(session: Session, source: Source | None) -> Setting:
    database = session.find_database()
    if session.database_flag is not None:
        return Setting("db", database, "flag", "--db")
    if os.environ.get("FWL_DB"):
        return Setting("db", database, "environment", "FWL_DB")
    return _setting(source, "db", None, database)


def _from_environment(name: str, variable: str) -> Setting:
    said = os.environ[variable]
    try:
        value = parse_setting("", name, "never" if (name, said) == ("autostart", "0") else said)
    except ConfigError as error:
        raise CommandError(f"{variable}: {error}", CONFIG) from error
    return Setting(name, value, "environment", variable)


def _line(one: Setting) -> str:
    return f"{one.name} = {_toml(one.value)}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    """A value as TOML has it."""
    value = _seconds(value)
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(one)}' for key, one in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    value = _seconds(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


# ---- check


def _faults(source: Source) -> Iterator[Fault]:
    """Each setting that is wrong; of a table, each setting in it."""
    good: dict[str, Any] = {}
    for key, value in source.table.items():
        try:
            good[key] = parse_setting("", key, value)
        except ConfigError as error:
            inner = list(_inner_faults(source, key, value)) if isinstance(value, dict) and key in RULES else []
            yield from inner or [Fault(configuration.line_of(source, key), key, str(error))]
    yield from _schedule_faults(Config(**good, path=source.path))


def _inner_faults(source: Source, key: str, table: dict[str, Any]) -> Iterator[Fault]:
    for name, value in table.items():
        try:
            parse_setting("", key, {name: value})
        except ConfigError as error:
            yield Fault(configuration.line_of(source, key, name), f"{key}.{name}", str(error))


def _schedule_faults(config: Config) -> Iterator[Fault]:
    if not config.cron:
        return
    from .. import declarations

    for problem in declarations.read_config(config)[1]:
        name = f"cron.{problem.name}" + (f".{problem.field}" if problem.field else "")
        yield Fault(declarations.line_of(config, problem), name, f"{name}: {problem.text}")


def short_text(file: str, fault: Fault) -> str:
    """`fastworker.toml:7: workers must be…`; what could not be read at all names its place itself."""
    return fault.text if fault.name is None else f"{_place(file, fault.line)}: {fault.text}"


def _place(file: str, line: int | None) -> str:
    return configuration.short_name(file) + ("" if line is None else f":{line}")
