"""Which jobs a command is about: the words that name them, and the filters that pick them out.

Runs in: the command line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from ..job import ACTIVE, State
from ..store import queries, selection
from ..store.connection import Connection
from ..store.selection import Filter
from . import render
from .problems import NOT_FOUND, CommandError, usage
from .session import Session, find_jobs
from .values import parse_duration, parse_pairs

_MOST_IDS = 100_000

#: The group that is proposed to who acts on jobs in this state; the first that fits.
_GROUPS = {State.RUNNING: "@active, ", State.QUEUED: "@queued, ", State.FAILED: "@failed, "}


def read_filter(session: Session, states: frozenset[State] | None = None) -> Filter:
    """The conditions on the command line; *states* are those that count where none is given."""
    given = session.filters
    since = parse_duration("--since", given.get("since"))
    tags = parse_pairs("--tag", given.get("tags") or ())
    wanted = frozenset(map(_parse_state, given.get("states") or ()))
    return Filter(
        states=wanted or states or frozenset(State),
        queue=given.get("queue"),
        name=given.get("name"),
        tags=tags or None,
        since=None if since is None else time.time() - since,
    )


def _parse_state(text: str) -> State:
    try:
        return State(text)
    except ValueError:
        raise usage(f'--state: "{text}" is not a state. States: {" ".join(State)}') from None


def has_filter(session: Session) -> bool:
    """Whether there is any condition on the command line."""
    return any(session.filters.get(name) for name in ("states", "queue", "name", "tags", "since"))


def select(
    session: Session, connection: Connection, words: Sequence[str], states: frozenset[State] | None = None
) -> list[int]:
    """The jobs that a person means, each once: those of the words in their order, less what the filters leave out.

    Without words, those of the filters that are in *states*, by id. Raises when nothing was said, or when nothing is meant.
    """
    if not words and not has_filter(session) and not session.filters.get("everything"):
        group = next((_GROUPS[state] for state in _GROUPS if state in (states or ())), "")
        raise usage(f"which jobs? Give ids, {group}--queue Q or --all", "More: fwl help selectors")
    wanted = read_filter(session, None if words else states)
    if words:
        ids = select_ids(connection, words)
        if has_filter(session):
            matching = set(connection.read(selection.everything, _among(wanted, ids)))
            ids = [job_id for job_id in ids if job_id in matching]
    else:
        ids = connection.read(selection.everything, wanted)
    if not ids and words:
        raise CommandError(f"no job is {' or '.join(map(_said, words))}", NOT_FOUND)
    return ids or _refuse_all(session, connection, states)


def select_to_wait_for(session: Session, connection: Connection, words: Sequence[str]) -> list[int]:
    """As `select`, of the jobs that have not ended; where the filters find none, the newest that has.

    Who waits for what was just submitted may come after its end.
    """
    if words or session.filters.get("states") or not session.filters:
        return select(session, connection, words, ACTIVE)
    wanted = read_filter(session)
    found = sorted(connection.read(selection.active, wanted)) or connection.read(selection.ended, wanted, 1)
    return found or _refuse_all(session, connection, ACTIVE)


def _among(wanted: Filter, ids: Sequence[int]) -> Filter:
    return wanted._replace(ids=tuple(ids))


def _refuse_all(session: Session, connection: Connection, states: frozenset[State] | None) -> NoReturn:
    """No job is meant; says so of the state that it would have to be in, if there are some in another one."""
    others = [] if states is None else connection.read(selection.everything, read_filter(session))
    if not others:
        raise CommandError("no job matches", NOT_FOUND)
    wanted = " or ".join(state for state in State if state in (states or ()))
    raise CommandError(f"no job that matches is {wanted}", NOT_FOUND)


def _said(word: str) -> str:
    return "on stdin" if word == "-" else word.removeprefix("@")


def confirm(session: Session, count: int, what: str, *, is_sure: bool) -> None:
    """Have a person agree to what would be done to jobs that were not named one by one. Raises when they do not."""
    if is_sure:
        return
    jobs = "1 job" if count == 1 else f"{count} jobs"
    if not session.can_ask:
        raise usage(f"that would {what} {jobs}; add --yes if it is what you want")
    render.say(f"{what} {jobs}? [y/N] ", end="")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was done", 1)


# ---- words


def select_ids(connection: Connection, words: Sequence[str]) -> list[int]:
    """The jobs that a person names, each once, in this order: `45`, `40-45`, `@last`, `@failed`, a name, `-` for stdin."""
    ids: dict[int, None] = {}
    for word in words:
        ids.update(dict.fromkeys(_of_word(connection, word)))
    return list(ids)


def select_one(connection: Connection, word: str, command: str) -> int:
    """The one job that a word means. Raises when it means none, or several."""
    ids = select_ids(connection, [word])
    if not ids:
        raise CommandError(f"no job is {_said(word)}", NOT_FOUND)
    if len(ids) > 1:
        some = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
        raise usage(f"{command} takes one job, and {word} is {len(ids)}: {some}")
    return find_jobs(connection, ids)[0].id


def _of_word(connection: Connection, word: str) -> Sequence[int]:
    if word == "-":
        return select_ids(connection, _read_words())
    if word.startswith("@"):
        return _of_group(connection, word)
    if word[:1].isdigit():
        return _parse_ids(word)
    found = connection.read(selection.newest_named, word) if word and not word.startswith("-") else None
    return [found] if found is not None else _refuse(connection, word)


def _of_group(connection: Connection, word: str) -> list[int]:
    if word == "@last":
        return [connection.read(queries.newest_id)]
    if word == "@active":
        return connection.read(selection.active, Filter())
    if word[1:] not in list(State):
        _refuse(connection, word)
    return connection.read(selection.everything, Filter(states=frozenset({State(word[1:])})))


def _refuse(connection: Connection, word: str) -> NoReturn:
    from difflib import get_close_matches

    close = get_close_matches(word, connection.read(selection.names), n=1)
    if close:
        raise CommandError(f'no job is named "{word}". Did you mean "{close[0]}"?', NOT_FOUND)
    if word and not word.startswith(("@", "-")):
        raise CommandError(
            f'no job is named "{word}"; jobs are ids (45), ranges (40-45), names, @last, @failed', NOT_FOUND
        )
    raise _not_a_job(word)


def _not_a_job(word: str) -> CommandError:
    return usage(
        f'"{word}" is not a job; give ids (45), ranges (40-45), @last, @failed, @active, or - for ids on stdin'
    )


def _read_words() -> list[str]:
    if render.is_terminal(sys.stdin):
        raise usage("- reads ids from stdin, which is a terminal; name them instead")
    return [word for word in sys.stdin.read().split() if word != "-"]


def _parse_ids(word: str) -> Sequence[int]:
    first, dash, last = word.partition("-")
    if not (_is_id(first) and (_is_id(last) if dash else True)):
        raise _not_a_job(word)
    if not dash:
        return [int(first)]
    if int(last) < int(first) or int(last) - int(first) >= _MOST_IDS:
        raise usage(f'"{word}" is not a range of up to {_MOST_IDS} ids')
    return range(int(first), int(last) + 1)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
