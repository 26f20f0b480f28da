"""What is still to be told: one row for each ended job and each who wants to know.

The rows are written by the trigger `job_ended_is_told`, in the transaction that ends the job.

Runs in: every process.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

#: Bytes of messages in one page, beyond its first: a backlog must not fill the runner's memory.
_PAGE_BYTES = 256 * 1024


class Message(NamedTuple):
    """How a job ended, for one who wants to know."""

    id: int
    job: int
    task: str
    attempt: int
    state: str
    reason: str | None
    error: str | None
    started_at: float | None
    finished_at: float
    data: str | None
    #: JSON.
    told: str | None
    #: JSON, see `serialization.tell`.


_FIELDS = ", ".join(Message._fields)
_PENDING = f"""
SELECT {_FIELDS}
  FROM outbox
 WHERE dead IS NULL
   AND address = ?
   AND id > ?
 ORDER BY id
 LIMIT ?
"""


def addresses(sql: sqlite3.Connection) -> list[tuple[str, int]]:
    """Where something is to be told, and the id of the newest. Costs two steps for each address, however many rows wait."""
    return sql.execute(
        """
        WITH RECURSIVE next (address) AS (
            SELECT min(address) FROM outbox WHERE dead IS NULL
            UNION ALL
            SELECT (SELECT min(address) FROM outbox WHERE dead IS NULL AND address > next.address)
              FROM next
             WHERE next.address IS NOT NULL)
        SELECT address, (SELECT max(id) FROM outbox WHERE dead IS NULL AND outbox.address = next.address)
          FROM next
         WHERE address IS NOT NULL
        """
    ).fetchall()


def pending(sql: sqlite3.Connection, address: str, after: int, limit: int) -> list[Message]:
    """The next messages for an address, in their order: at most *limit*, and not many bytes."""
    found, size = [], 0
    for row in sql.execute(_PENDING, (address, after, limit)):
        message = Message._make(row)
        found.append(message)
        size += len(message.told or "") + len(message.data or "") + len(message.error or "")
        if size > _PAGE_BYTES:
            break
    return found


def remove(sql: sqlite3.Connection, ids: Iterable[int]) -> None:
    """These have been acknowledged."""
    sql.executemany("DELETE FROM outbox WHERE id = ?", [(one,) for one in ids])


def give_up(sql: sqlite3.Connection, message: int, reason: str) -> None:
    """Try this one no more."""
    sql.execute("UPDATE outbox SET dead = ? WHERE id = ?", (reason, message))


_TOO_OLD = """
SELECT max(id)
  FROM outbox
 WHERE dead IS NULL
   AND address = :address
   AND id < ifnull((SELECT id                   -- they are in the order of their ends, so it stops at the first young one
                      FROM outbox
                     WHERE dead IS NULL
                       AND address = :address
                       AND finished_at >= :before
                     ORDER BY id
                     LIMIT 1), 9223372036854775807)
"""

_TOO_MANY = """
SELECT id
  FROM outbox
 WHERE dead IS NULL
   AND address = :address
 ORDER BY id DESC
 LIMIT 1 OFFSET :most
"""


def overdue(sql: sqlite3.Connection, address: str, before: float, most: int) -> list[tuple[str, int]]:
    """Why messages for *address* should be tried no more, and the last of them: older than *before*, more than *most*."""
    parameters = {"address": address, "before": before, "most": most}
    found = [(reason, sql.execute(query, parameters).fetchone()) for reason, query in _LIMITS]
    return [(reason, row[0]) for reason, row in found if row is not None and row[0] is not None]


_LIMITS = (("too old", _TOO_OLD), ("too many", _TOO_MANY))

_GIVE_UP = """
UPDATE outbox
   SET dead = :reason
 WHERE dead IS NULL
   AND address = :address
   AND id <= :last
"""


def give_up_until(sql: sqlite3.Connection, address: str, last: int, reason: str) -> None:
    """Try those no more that wait for *address*, up to the *last*."""
    sql.execute(_GIVE_UP, {"reason": reason, "address": address, "last": last})


def _of_a_paused_listener(statement: str) -> str:
    return statement.replace("dead IS NULL", "dead = 'paused' AND dead IS NOT NULL")  # the last term names the index


_PAUSED = tuple((reason, _of_a_paused_listener(query)) for reason, query in _LIMITS)
_GIVE_UP_PAUSED = _of_a_paused_listener(_GIVE_UP)


def give_up_overdue(sql: sqlite3.Connection, before: float, most: int) -> int:
    """Try no more what is older than *before*, and the oldest of more than *most* for one address, whatever keeps them there.

    A listener may be away, or silent, or paused. Returns how many were given up.
    """
    count = 0
    for (address,) in sql.execute("SELECT DISTINCT address FROM outbox").fetchall():
        for limits, statement in ((_LIMITS, _GIVE_UP), (_PAUSED, _GIVE_UP_PAUSED)):
            for reason, query in limits:
                row = sql.execute(query, {"address": address, "before": before, "most": most}).fetchone()
                if row is not None and row[0] is not None:
                    count += sql.execute(statement, {"reason": reason, "address": address, "last": row[0]}).rowcount
    return count


def forget_dead(sql: sqlite3.Connection, before: float, most: int) -> int:
    """Delete what was given up and is older than *before*, or among the oldest of more than *most* for one address.

    At most 1,000 at a time. Returns how many.
    """
    return sql.execute(
        """
        DELETE FROM outbox
         WHERE id IN (SELECT id
                        FROM (SELECT id, finished_at, row_number() OVER (PARTITION BY address ORDER BY id DESC) AS place
                                FROM outbox
                               WHERE dead IS NOT NULL
                                 AND dead <> 'paused')
                       WHERE finished_at < :before
                          OR place > :most
                       LIMIT 1000)
        """,
        {"before": before, "most": most},
    ).rowcount


class Backlog(NamedTuple):
    """What waits for one address."""

    address: str
    waiting: int
    #: Those of a paused listener too.
    dead: int
    oldest: float | None
    #: When the job ended of which was to be told first.


def backlogs(sql: sqlite3.Connection) -> list[Backlog]:
    """For each address, how much waits and how much was given up."""
    rows = sql.execute(
        """
        SELECT address, sum(dead IS NULL OR dead = 'paused'), sum(dead IS NOT NULL AND dead <> 'paused'), min(finished_at)
          FROM outbox
         GROUP BY address
         ORDER BY address
        """
    )
    return [Backlog._make(row) for row in rows]


def dead_letters(sql: sqlite3.Connection, limit: int) -> list[tuple[int, str, int, float, str]]:
    """Those that were given up: id, address, job, moment, reason."""
    return sql.execute(
        """
        SELECT id, address, job, finished_at, dead
          FROM outbox
         WHERE dead IS NOT NULL
           AND dead <> 'paused'
         ORDER BY id
         LIMIT ?
        """,
        (limit,),
    ).fetchall()


def redeliver(sql: sqlite3.Connection, address: str) -> int:
    """Try again what was given up for this address. Returns how many."""
    return sql.execute(
        """
        UPDATE outbox
           SET dead = NULL
         WHERE dead IS NOT NULL
           AND dead <> 'paused'
           AND address = ?
        """,
        (address,),
    ).rowcount


def is_empty(sql: sqlite3.Connection) -> bool:
    return sql.execute("SELECT 1 FROM outbox WHERE dead IS NULL LIMIT 1").fetchone() is None


def database_id(sql: sqlite3.Connection) -> str:
    """What tells this file's events from another's."""
    return str(sql.execute("SELECT value FROM setting WHERE key = 'id'").fetchone()[0])
