"""What there is to be named: the jobs, queues, tasks, schedules and listeners of a file, for whoever types one.

Runs in: the command line, in a shell that completes a word.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from urllib.parse import quote

#: Names of one kind that are given at most.
MOST = 1000

_JOBS = """
SELECT id, ifnull(name, task) || ' ' || state
  FROM (SELECT id, name, task, state
          FROM job
         WHERE id BETWEEN :low AND :high
         ORDER BY id DESC
         LIMIT 2000)                    -- so that it takes no longer where there are more
 WHERE :states = '' OR instr(:states, state)
 ORDER BY id DESC
 LIMIT :most
"""
_QUEUES = "SELECT name, CASE WHEN paused THEN 'paused' ELSE 'a queue' END FROM queue ORDER BY name LIMIT ?"
_TASKS = "SELECT DISTINCT value, 'a task' FROM runner, json_each(runner.tasks) ORDER BY value LIMIT ?"
_SCHEDULES = "SELECT name, CASE WHEN paused THEN 'paused' ELSE 'a schedule' END FROM schedule ORDER BY name LIMIT ?"
_LISTENERS = "SELECT name, address FROM listener ORDER BY name LIMIT ?"


def open_to_read(path: str) -> sqlite3.Connection:
    """The file to read and nothing else: no wait for another's lock, no checkpoint, no file created beside it."""
    # Without a write-ahead log nobody has it open, and SQLite would make one to look into.
    alone = "" if os.path.exists(f"{path}-wal") else "&immutable=1"
    return sqlite3.connect(f"file:{quote(path)}?mode=ro{alone}", uri=True, timeout=0.05, isolation_level=None)


def jobs(sql: sqlite3.Connection, begun: str, states: str, most: int) -> list[tuple[str, str]]:
    """The newest jobs in these *states* (words, "" for all) whose ids begin with these digits: id, and name with state."""
    newest = int(sql.execute("SELECT ifnull(max(id), 0) FROM job").fetchone()[0])
    found: dict[str, str] = {}
    for low, high in _ranges(begun, newest):
        given = {"low": low, "high": high, "states": states, "most": most - len(found)}
        found |= {str(row[0]): row[1] for row in sql.execute(_JOBS, given)}
    return list(found.items())


def _ranges(begun: str, newest: int) -> Iterable[tuple[int, int]]:
    """The ids that begin with these digits, the highest first: those of 4 are 400-499, 40-49 and 4."""
    if not begun:
        return [(1, newest)]
    sizes = (10**digits for digits in range(len(str(newest)) - len(begun), -1, -1))
    return [(int(begun) * size, int(begun) * size + size - 1) for size in sizes if begun[0] != "0"]


def queues(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    return sql.execute(_QUEUES, (MOST,)).fetchall()


def tasks(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    """The tasks that runners know."""
    return sql.execute(_TASKS, (MOST,)).fetchall()


def schedules(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    return sql.execute(_SCHEDULES, (MOST,)).fetchall()


def listeners(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    return sql.execute(_LISTENERS, (MOST,)).fetchall()
