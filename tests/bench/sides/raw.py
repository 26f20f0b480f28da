"""What SQLite itself costs: rows of the size of ours, inserted without a queue around them."""

import asyncio
import os
import sqlite3
import time

from told import main

#: The columns that a simple job of ours fills, among as many that stay empty, and the index that a claim reads.
EMPTY = ", ".join(f"rare{number}" for number in range(40))
SCHEMA = f"""
CREATE TABLE job (id INTEGER PRIMARY KEY, state TEXT NOT NULL, queue TEXT NOT NULL, lane INTEGER NOT NULL, priority INTEGER
    NOT NULL, created_at REAL NOT NULL, kind TEXT NOT NULL, task TEXT NOT NULL, park INTEGER NOT NULL, checksum INTEGER NOT NULL,
    target BLOB, payload BLOB NOT NULL, {EMPTY})
"""
INDEX = "CREATE INDEX job_queued ON job (queue, lane, priority DESC, id) WHERE state = 'queued'"
INSERT = (
    "INSERT INTO job (state, queue, lane, priority, created_at, kind, task, park, checksum, payload)"
    " VALUES ('queued', 'default', 0, 0, ?, 'call', 'tests.bench.tasks:noop', 1, 123456789, ?)"
)


def awaited(size, folder):
    import aiosqlite

    async def insert():
        async with aiosqlite.connect(os.path.join(folder, "raw.db"), isolation_level=None) as sql:
            for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", SCHEMA, INDEX):
                await sql.execute(statement)
            began = time.perf_counter()
            for number in range(size):
                await sql.execute(INSERT, (began, b"x" * 40 + str(number).encode()))
            return size / (time.perf_counter() - began)

    return {"rate": asyncio.run(insert())}


def together(size, folder):
    sql = sqlite3.connect(os.path.join(folder, "raw.db"), isolation_level=None)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", SCHEMA, INDEX):
        sql.execute(statement)
    began = time.perf_counter()
    sql.execute("BEGIN IMMEDIATE")
    sql.executemany(INSERT, [(began, b"x" * 40 + str(number).encode()) for number in range(size)])
    sql.execute("COMMIT")
    return {"rate": size / (time.perf_counter() - began)}


if __name__ == "__main__":
    main({"W4": awaited, "W5": together})
