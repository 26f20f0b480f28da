"""Following what happens to jobs, across processes, from any point of the log.

Runs in: every process that looks at jobs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from . import leases
from .errors import ConfigError
from .exchange import close_lease, open_lease
from .job import utc
from .sockets import wait_readable
from .store import events
from .store.connection import Connection
from .store.events import Event
from .watches import FileWatch

#: Seconds after which a follower looks again, whatever it was not told.
LOOK_AGAIN = 1.0
#: Changes that are told although nobody followed when they happened.
MOST_FROM_ROWS = 1_000
_PAGE = 500


def follow_events(
    connection: Connection,
    *,
    since: int | None = None,
    name: str | None = None,
    is_followed: bool = True,
    until: int | None = None,
) -> Generator[dict[str, Any] | None, None, None]:
    """Every event after the offset *since* (None: from now on), oldest first; without *is_followed* until there is no more.

    With *until* that holds from when this descriptor is readable.

    From 0 on, and without a *name*, the last changes of the newest jobs come first that nobody followed, at offset 0: what
    their rows still tell. A follower with a *name* stays registered when this ends, so that nothing is missed until it comes back. None comes at
    least once a second while nothing happens.
    """
    if since is not None and (not isinstance(since, int) or isinstance(since, bool) or since < 0):
        raise ConfigError(f"since must be the offset of an event, 0 or more, got {since!r}")
    lease = open_lease(connection, leases.new_name("follower")) if name is None else None
    registered = name or (lease.name if lease is not None else "")
    connection.write_fast(events.follow, registered, None if lease is None else lease.name)
    watch = FileWatch(connection.paths.wal)
    offset = connection.read(events.newest) if since is None else since
    try:
        if since == 0 and name is None:
            yield from map(as_dict, connection.read(events.before_the_log, MOST_FROM_ROWS))
        while True:
            watch.arm()
            page = connection.read(events.after, offset, _PAGE)
            for event in page:
                offset = event.offset
                yield as_dict(event)
            if page:
                continue
            if not is_followed:
                return
            yield None
            ready = wait_readable([watch.fileno(), *([] if until is None else [until])], LOOK_AGAIN)
            is_followed = until is None or until not in ready
            watch.clear()
    finally:
        watch.close()
        if lease is not None:
            connection.write_fast(events.unfollow, registered)
            close_lease(connection, lease)


def as_dict(event: Event) -> dict[str, Any]:
    """An event as it is told: JSON can hold it."""
    moment = utc(event.at)
    return {
        "offset": event.offset,
        "job_id": str(event.job),
        "event": event.event,
        "at": None if moment is None else moment.isoformat(),
        "task_name": event.task,
        "queue": event.queue,
        "attempt": event.attempt,
        "reason": event.reason,
    }


def events_of(
    database: str, *, since: int | None = None, name: str | None = None
) -> Generator[dict[str, Any] | None, None, None]:
    """As `follow_events`, on a connection of its own."""
    connection = Connection(database, blocks_signals=True)
    try:
        yield from follow_events(connection, since=since, name=name)
    finally:
        connection.close()
