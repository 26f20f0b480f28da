"""The jobs that another one is to come after.

Runs in: the command line.
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import NOT_FOUND, CommandError, usage
from .session import Session


def read_parents(session: Session, option: str, words: Sequence[str] | None) -> list[int] | None:
    """The jobs that another one is to wait for: `46,47`, a range, a name, `@last`; several in one word or not."""
    if words is None:
        return None
    named = [one for word in words for one in _split(word)]
    if not named or "-" in named:
        raise usage(f"{option}: which jobs? Give ids (46,47), a range (40-45), a name or @last")
    if all(one.isascii() and one.isdigit() for one in named):
        return [int(one) for one in named]
    from .selecting import select_ids

    try:
        with session.open() as connection:
            found = select_ids(connection, named)
    except CommandError as error:
        raise CommandError(f"{option}: {error.message}", error.exit_code, error.hint) from None
    if not found:
        raise CommandError(f"{option} {','.join(named)}: there is no such job", NOT_FOUND)
    return found


def _split(word: str) -> list[str]:
    """By commas, and ids by blanks and ends of lines, too: names may have some."""
    ids = word.replace(",", " ").split()
    if all(one.isascii() and one.isdigit() for one in ids):
        return ids
    return [one.strip() for one in word.split(",") if one.strip()]
