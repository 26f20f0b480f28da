"""What was meant by words that the parser does not know: one line, with the words to type instead.

Runs in: the command line, when it has been mistyped.
"""

from __future__ import annotations

import shlex
import shutil
from difflib import get_close_matches
from typing import Any

from .commands import COMMANDS, entries_in
from .problems import CommandError, usage
from .topics import find

#: What people type who come from other job runners; `{}` is what they named.
_MEANT = {
    "add": "submit {}",
    "enqueue": "submit {}",
    "exec": "run {}",
    "kill": "cancel {} --signal KILL",
    "abort": "cancel {}",
    "restart": "retry {}",
    "rerun": "retry {}",
    "requeue": "retry {}",
    "clean": "prune {}",
    "tail": "logs -f {}",
    "follow": "logs -f {}",
    "output": "logs {}",
    "log": "logs {}",
    "explain": "why {}",
    "list": "status {}",
    "ps": "status {}",
    "jobs": "status {}",
    "info": "show {}",
    "start": "worker {}",
    "serve": "worker {}",
    "schedule": "cron list {}",
    "schedules": "cron list {}",
    "crontab": "cron list {}",
    "queues": "queue {}",
    "group": "queue {}",
    "groups": "queue {}",
    "parallel": "queue set default --workers {}",
    "daemon": "worker {}",
    "shutdown": "stop {}",
    "stash": "hold {}",
    "delete": "rm {}",
    "remove": "rm {}",
    "manual": "man {}",
    "watch": "top {}",
    "notifications": "notify test",
    "settings": "config show {}",
    "upgrade": "db migrate",
    "backup": "db backup {}",
    "config get": "config show {}",
    "config list": "config show {}",
    "config init": "init {}",
    "config validate": "config check {}",
    "cron show": "cron history {}",
    "cron status": "cron list",
    "cron enable": "cron resume {}",
    "cron disable": "cron pause {}",
    "cron start": "cron run {}",
    "cron trigger": "cron run {}",
    "db upgrade": "db migrate",
    "db copy": "db backup {}",
    "db dump": "db backup {}",
    "db info": "doctor",
    "listeners list": "listeners",
    "listeners show": "listeners",
    "listeners test": "notify test",
    "notify list": "listeners",
    "service start": "service install",
    "service enable": "service install",
    "service stop": "service uninstall",
    "service remove": "service uninstall",
    "service disable": "service uninstall",
}

#: Where that is done which no command and no option does.
_ELSEWHERE = {
    "Schedules stand in fastworker.toml: fwl help schedules": (
        *("cron add", "cron create", "cron new", "cron set", "cron edit", "cron remove", "cron rm", "cron delete"),
        *("--cron", "--schedule", "--every", "--daily"),
    ),
    "Settings are changed in fastworker.toml: fwl help settings": (
        *("config set", "config edit", "config add", "config unset", "config reset"),
    ),
    "What is run when jobs end stands in fastworker.toml: fwl help hooks": (
        *("notify add", "notify set", "notify on", "notify remove", "notify desktop"),
        *("--on-failure", "--on-success", "--hook", "--desktop", "--mail", "--email", "--webhook", "--callback"),
    ),
    "Of one command: fwl run --ping URL -- CMD   Of all jobs: fwl help hooks": ("--ping",),
    "A copy is a database like any other: fwl db backup -h": ("db restore",),
    "With systemd: journalctl --user -u fastworker": ("service logs", "service log"),
    "With systemd: systemctl --user restart fastworker": ("service restart",),
}
_HINTS = {words: hint for hint, all_words in _ELSEWHERE.items() for words in all_words}

#: Words of the parser's, and ours.
_OURS = {
    "is not a valid integer range": "is not a whole number",
    "is not a valid integer": "is not a whole number",
    "is not a valid int range": "is not a whole number",
    "is not a valid int": "is not a whole number",
    "is not a valid float range": "is not a number",
    "is not a valid float": "is not a number",
    "'": '"',
}

#: What an option wants whose name for its value does not say it.
_WANTED = {
    "DUR": "90s, 5m, 1h30m or 2d",
    "N": "a number",
    "F": "a number",
    "IDS": "46 or 46,47",
    "K=V": "NAME=VALUE",
    "N/s|m|h|d": "a rate such as 10/s or 100/h",
}


def no_such_command(group: str, words: list[str]) -> CommandError:
    """*words* were typed where a command of *group* was to be named."""
    name, rest = words[0], words[1:]
    known = entries_in(group)
    full = f"{group} {name}".strip()
    said = f'no command "{full}".'
    if full in _HINTS:
        return usage(said, _HINTS[full])
    close = get_close_matches(name, known, n=1)
    if full in _MEANT:
        meant = [one for word in _MEANT[full].split() for one in (rest if word == "{}" else [word])]
    elif not group and (topic := find(name)) is not None:
        meant = ["help", topic]
    elif close or group:
        meant = [*group.split(), close[0], *rest] if close else []
    else:
        meant = ["submit", "--", name, *rest] if shutil.which(name) else []
    if meant:
        return usage(f"{said} Did you mean: fwl {shlex.join(meant)}?")
    return usage(f"{said} Commands: {' '.join(known)}")


def describe(error: Any) -> CommandError:
    """What the parser complains of, in our words."""
    kind, context = type(error).__name__, getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fwl"
    hint = f"See: {path} -h"
    parameter = getattr(error, "param", None)
    if kind == "NoSuchOption":
        return _no_such_option(error, path, hint)
    if kind == "BadOptionUsage":
        option = _find(context, error.option_name)
        if "does not take a value" in error.message or option is None:
            return usage(f"{error.option_name} takes no value", hint)
        return usage(f"{error.option_name} needs a value: {wanted(option)}", hint)
    if kind == "MissingParameter" and parameter is not None:
        return usage(f"{_label(parameter)} is missing: {_sentence(parameter.help)}", hint)
    if kind == "BadParameter" and parameter is not None:
        return usage(f"{_label(parameter)}: {_plain(error.message)}", hint)
    return usage(_plain(error.format_message()), hint)


def _no_such_option(error: Any, path: str, hint: str) -> CommandError:
    name = error.option_name
    known = [
        one
        for option in error.ctx.command.get_params(error.ctx)
        for one in getattr(option, "opts", ())
        if one.startswith("-")
    ]
    close = get_close_matches(name, known, n=1)
    if name in _HINTS:
        close, hint = [], _HINTS[name]
    meant = f" Did you mean {close[0]}?" if close else ""
    entry = COMMANDS.get(path.partition(" ")[2])
    if entry is not None and entry.is_before_words:
        said = f"unknown option {name} before the command.{meant}  (Options of CMD go after --)"
        return usage(said, _HINTS.get(name))
    return usage(f"unknown option {name}.{meant}", None if close else hint)


def _find(context: Any, name: str) -> Any:
    return next((one for one in context.command.get_params(context) if name in one.opts), None)


def wanted(option: Any) -> str:
    """What is to follow an option: `low, normal or high`, `a number`, `FILE`."""
    metavar = option.metavar or "a value"
    if metavar in _WANTED:
        return _WANTED[metavar]
    first, _, last = metavar.rpartition("|")
    return f"{first.replace('|', ', ')} or {last}" if first else last


def _label(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return max(parameter.opts, key=len)  # type: ignore[no-any-return]
    return str(parameter.metavar or parameter.name).strip("[]")


def _sentence(text: str | None) -> str:
    """A help text as the end of a sentence."""
    line = (text or "see the help").rstrip(".")
    return line[:1].lower() + line[1:]


def _plain(text: str) -> str:
    """A message of the parser's in our words: `"x" is not a whole number`."""
    line = str(text).rstrip(".")
    if line.startswith("Got unexpected extra argument"):
        return f"too many words: {line.partition(' (')[2].removesuffix(')')}"
    for theirs, ours in _OURS.items():
        line = line.replace(theirs, ours)
    return line[:1].lower() + line[1:]
