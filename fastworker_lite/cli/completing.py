"""What may come next on a command line of `fwl`: the answer to a shell whose user has pressed Tab.

The database is only read, and a wrong or missing one is no reason for a word on the screen.

Runs in: the command line, in a shell that completes a word.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..store import naming
from . import render
from .commands import COMMANDS, entries_in, names_in

#: What a shell completes by itself, beside the words that it is given.
NOTHING, FILES, FOLDERS, COMMAND = "nothing", "files", "folders", "command"
#: Jobs that are offered at most.
MOST = 100


class Word(NamedTuple):
    """A candidate."""

    text: str
    about: str = ""


class Answer(NamedTuple):
    """What may come next."""

    words: Sequence[Word] = ()
    by_shell: str = NOTHING
    position: int = 0
    #: With COMMAND: of the word that names the command, among those that follow `fwl`.


def answer(words: Sequence[str]) -> None:
    """Say what may stand where the last of *words* does, which follow `fwl`: a line for the shell, then the candidates."""
    found = _complete(words)
    print(found.by_shell, found.position)
    for word in found.words:
        print(render.clean(word.text), render.clean(word.about)[:80], sep="\t")


def answer_bash(line: str, piece: str) -> None:
    """As `answer` for bash, which cuts words at = and : and @ too. The candidates replace *piece*, the end of the last word."""
    words = _split(line)[1:]
    found = _complete(words)
    current = words[-1] if words else ""
    cut = len(current) - len(piece) if current.endswith(piece) else 0
    print(found.by_shell, len(words) - 1 - found.position)
    for word in found.words:
        text = render.clean(word.text)
        print(text[cut:] if cut else shlex.quote(text) if text[:1] != "@" else text)


def _complete(words: Sequence[str]) -> Answer:
    try:
        return complete(list(words))
    except Exception:  # nobody asked to be told, and the line that is being typed is on the screen
        return Answer()


def _split(line: str) -> list[str]:
    """The words of a line that is not finished."""
    for end in ("", "'", '"'):
        try:
            words = shlex.split(line + end)
        except ValueError:
            continue
        return [*words, ""] if not end and line[-1:].isspace() else words
    return [""]


# ---- where we are


class Place(NamedTuple):
    """How far a line has come."""

    path: str
    #: The command: `cron next`.
    words: list[str]
    #: Those after its name.
    position: int
    #: Of the first of these.
    database: str | None
    config: str | None
    #: What --db and --config say.


def complete(words: list[str]) -> Answer:
    """What may stand where the last of *words* does."""
    *before, current = words
    place = _place(before)
    if names_in(place.path) and not current.startswith("-"):
        inside = entries_in(place.path).items()
        return Answer(_beginning(current, (Word(name, entry.summary) for name, entry in inside)))
    return _Command(place).complete(current)


def _place(words: list[str]) -> Place:
    path, position = "", 0
    given: dict[str, str] = {}
    while position < len(words) and (names_in(path) or words[position] in _WITH_VALUE):
        word = words[position]
        if word in _WITH_VALUE:
            given[word] = words[position + 1] if position + 1 < len(words) else ""
            position += 1
        elif f"{path} {word}".strip() in COMMANDS:
            path = f"{path} {word}".strip()
        position += 1
    rest = words[position:]
    for name, value in pairwise(rest):
        if name == "--":
            break
        given |= {name: value} if name in _WITH_VALUE else {}
    return Place(path, rest, position, given.get("--db"), given.get("--config"))


#: The options before a command that are followed by a value.
_WITH_VALUE = ("--db", "--config", "--color")


class _Command:
    """The command whose words are completed."""

    def __init__(self, place: Place) -> None:
        from . import parsing
        from .app import app

        self._place = place
        command = parsing.load(place.path) if place.path else app()
        self._options = {name: one for one in command.params if not _is_argument(one) for name in one.opts}
        self._argument = next((one for one in command.params if _is_argument(one)), None)
        self._is_before_words = place.path in COMMANDS and COMMANDS[place.path].is_before_words

    def complete(self, current: str) -> Answer:
        """What may stand where *current* does."""
        option = None
        for number, word in enumerate(self._place.words):
            if option is not None:
                option = None
            elif word == "--" or (self._is_before_words and not word.startswith("-")):
                return self._another_program(number + (word == "--"))
            elif word.startswith("-"):
                found = self._options.get(word)
                option = found if found is not None and not found.is_flag else None
        if option is not None:
            return self._value(option, current)
        if current.startswith("--") and "=" in current:
            name, _, begun = current.partition("=")
            answer = self._value(self._options[name], begun)
            return answer._replace(words=[Word(f"{name}={one.text}", one.about) for one in answer.words])
        if current.startswith("-"):
            return Answer(_beginning(current, self._names_of_options()))
        return self._positional(current)

    def _another_program(self, number: int) -> Answer:
        """The shell knows what follows the name of a program, and nobody what follows that of a task."""
        is_call = "--task" in self._place.words[:number]
        return Answer() if is_call else Answer(by_shell=COMMAND, position=self._place.position + number)

    def _names_of_options(self) -> Iterator[Word]:
        for name, option in self._options.items():
            is_new = option.multiple or not set(option.opts).intersection(self._place.words)
            if name.startswith("--") and not option.hidden and is_new:
                yield Word(name, option.help or "")
        yield Word("--help", "Show this message and exit.")

    def _value(self, option: Any, current: str) -> Answer:
        name, metavar = max(option.opts, key=len), option.metavar or ""
        if metavar == "DIR":
            return Answer(by_shell=FOLDERS)
        if metavar.startswith("FILE"):
            return Answer(by_shell=FILES)
        if name.startswith("--after"):
            done, comma, begun = current.rpartition(",")
            return Answer([Word(done + comma + one.text, one.about) for one in self._jobs(begun, "")])
        if name in _NAMED:
            return Answer(_beginning(current, self._read(_NAMED[name])))
        choices = _CHOICES.get(name) or (
            metavar.split("|") if metavar.replace("|", "").isalpha() and "|" in metavar else ()
        )
        return Answer(_beginning(current, map(Word, choices)))

    def _positional(self, current: str) -> Answer:
        metavar = (self._argument.metavar or "") if self._argument is not None else ""
        group = self._place.path.partition(" ")[0]
        if group == "help":
            return Answer(_beginning(current, self._explained()))
        if "CMD" in metavar:
            return Answer(by_shell=COMMAND, position=self._place.position + len(self._place.words))
        if "ID" in metavar.strip("[].").split("|"):
            return Answer([*_beginning(current, _SELECTORS), *self._jobs(current, _STATES_FOR.get(group, ""))])
        if "NAME" in metavar and group in _NAMED:
            return Answer(_beginning(current, self._read(_NAMED[group])))
        if metavar.replace("|", "").isalpha() and "|" in metavar and metavar.islower():
            return Answer(_beginning(current, map(Word, metavar.split("|"))))
        return Answer()

    def _explained(self) -> Iterator[Word]:
        from .topics import TOPICS

        for name, entry in entries_in(" ".join(self._place.words)).items():
            yield Word(name, entry.summary)
        if not self._place.words:
            yield from (Word(name, "a topic") for name in TOPICS)

    # ---- what is in the file

    def _jobs(self, begun: str, states: str) -> list[Word]:
        if begun and not (begun.isascii() and begun.isdigit()):
            return []
        return self._read(lambda sql: naming.jobs(sql, begun, states, MOST))

    def _read(self, names: Callable[[sqlite3.Connection], list[tuple[str, str]]]) -> list[Word]:
        from .. import config

        path = config.expected_database(self._place.database, config.load(self._place.config))
        if not os.path.isfile(path):
            return []
        sql = naming.open_to_read(path)
        try:
            return [Word(*row) for row in names(sql)]
        finally:
            sql.close()


def _is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def _beginning(begun: str, words: Iterable[Word]) -> list[Word]:
    return [word for word in words if word.text.startswith(begun)]


_SELECTORS = (
    Word("@last", "the newest"),
    Word("@failed", "those that failed"),
    Word("@active", "those that have not ended"),
)
_ACTIVE, _ENDED = "queued scheduled blocked running", "succeeded failed cancelled expired"
#: The states of the jobs that a command can do something with; all where it is not named.
_STATES_FOR = {
    "cancel": _ACTIVE,
    "wait": _ACTIVE,
    "retry": "failed cancelled expired",
    "logs": "running succeeded failed cancelled",
    "rm": _ENDED,
    "edit": _ACTIVE,
    "hold": "queued scheduled blocked",
    "release": "blocked",
}
_CHOICES = {
    "--state": ("queued", "scheduled", "blocked", "running", "succeeded", "failed", "cancelled", "expired"),
    "--priority": ("low", "normal", "high", "critical"),
}
#: What is named by the value of an option, or by the argument of a command.
_NAMED = {
    "--queue": naming.queues,
    "--task": naming.tasks,
    "queue": naming.queues,
    "cron": naming.schedules,
    "listeners": naming.listeners,
}
