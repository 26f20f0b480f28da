"""One connection to the file: opened, guarded, written through the gate, closed.

Runs in: every process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from ..errors import (
    ConfigError,
    DatabaseBusy,
    DatabaseGone,
    FastWorkerError,
    ForkedError,
    NotOurDatabase,
    SchemaTooNew,
    StorageError,
    StorageFull,
)
from ..forking import close_in_forked_children
from ..paths import SidePaths, make_private_directory
from .create import APPLICATION_ID, SCHEMA_VERSION, check_owner, create_database, read_header
from .gate import Gate
from .guard import FileGuard, open_descriptors, opening

T = TypeVar("T")

MIB = 1024 * 1024
#: The write-ahead log is written into the database when a commit leaves it larger than this.
CHECKPOINT_SIZE = 4 * MIB
#: Submits are refused while a stuck reader keeps the log above this.
WAL_LIMIT = 1024 * MIB
#: Seconds a process other than a worker waits for the gate.
GATE_PATIENCE = 10.0
_ROW_LIMIT = 256 * MIB

_PRAGMAS = (
    "PRAGMA busy_timeout = 10000",
    "PRAGMA wal_autocheckpoint = 0",  # outside the gate, a checkpoint can damage the file (SQLite 3.7.0 to 3.51.2)
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -8192",
)


class Connection:
    """A connection of ours. Belongs to one thread at a time."""

    def __init__(
        self,
        database: str | os.PathLike[str],
        *,
        durability: str | None = None,
        is_worker: bool = False,
        blocks_signals: bool = False,
        gate_patience: float | None = GATE_PATIENCE,
    ) -> None:
        """Open *database*, creating it.

        *durability* ("full" or "normal") is stored in the file when given. A worker waits for the gate without limit:
        a result must not die of a busy gate.
        Raises `StorageError` when the path cannot be used, `NotOurDatabase`, or `SchemaTooNew`; the file is untouched then.
        """
        self.paths = SidePaths.of(database)
        self.sql: sqlite3.Connection
        self._guard = FileGuard()
        self._is_forked = False
        self._is_gone = False
        self._log_size = 0
        with typed_errors(self.paths.database):
            read_header(self.paths.database)
            make_private_directory(self.paths.directory)
            self._gate = Gate(
                self.paths.gate, patience=None if is_worker else gate_patience, blocks_signals=blocks_signals
            )
            try:
                with self._gate, opening:
                    self._open(durability)
            except BaseException:
                self._gate.close()
                raise
        close_in_forked_children(self)

    def _open(self, durability: str | None) -> None:
        create_database(self.paths)
        check_owner(self.paths)
        before = open_descriptors()
        self.sql = sqlite3.connect(
            self.paths.database, isolation_level=None, timeout=10, cached_statements=256, check_same_thread=False
        )
        try:
            self._configure(durability)
            self._wal_descriptor = self._guard.watch_new_descriptors(
                before, self.paths.database, self.paths.wal, self.paths.shm
            )
            self._guard.watch_descriptor(self._gate.descriptor)
            for path in (self.paths.database, self.paths.wal, self.paths.shm, self.paths.gate):
                self._guard.watch_path(path)
            check_owner(self.paths)  # they are the ones that are open now, even if somebody was quick in between
        except BaseException:
            self._guard.release()
            self.sql.close()
            raise

    def _configure(self, durability: str | None) -> None:
        for pragma in _PRAGMAS:
            self.sql.execute(pragma)
        self.sql.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_LIMIT)
        mode = self.sql.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StorageError(
                f"{self.paths.database}: the file system does not allow SQLite's write-ahead log ({mode})"
            )
        self._check_version()
        self.sql.execute("BEGIN IMMEDIATE")  # opens the log and the shared memory, so that the guard finds them
        if durability is not None:
            self.sql.execute(
                "INSERT INTO setting VALUES ('durability', ?) ON CONFLICT DO UPDATE SET value = excluded.value",
                (parse_durability(durability),),
            )
        row = self.sql.execute("SELECT value FROM setting WHERE key = 'durability'").fetchone()
        self.sql.execute("COMMIT")
        self.is_durable = row is None or row[0] == "full"
        self.sql.execute("PRAGMA synchronous = FULL" if self.is_durable else "PRAGMA synchronous = NORMAL")
        self._are_synced = self.is_durable

    def watch(self, path: str, descriptor: int) -> None:
        """Have the guard watch a lease as well: without it, nobody would know that this process lives."""
        self._guard.watch_path(path)
        self._guard.watch_descriptor(descriptor)

    def unwatch(self, path: str, descriptor: int) -> None:
        """The lease is given up in good order. To be called before it is."""
        self._guard.forget(path, descriptor)

    # ---- transactions

    def write(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(sql, *args)` in one transaction through the gate. What it wrote is durable when this returns.

        Raises what *work* raised, after rolling back; `DatabaseBusy`, `DatabaseGone`, `StorageFull` or `StorageError`
        when it could not be stored.
        """
        return self._write(self.is_durable, work, args)

    def write_fast(self, work: Callable[..., T], *args: Any) -> T:
        """As `write`, for what a power cut may undo: the commit does not wait for the disk."""
        return self._write(False, work, args)

    def _write(self, is_synced: bool, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        self._check_usable()
        self._check_descriptors()  # before the gate: its own descriptor may lead to another file by now
        with typed_errors(self.paths.database), self._gate:
            self._sync_commits(is_synced)
            result = self._transact(work, args)
            self._after_commit()
        return result

    def read(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(sql, *args)` on one snapshot, without the gate."""
        self._check_usable()
        with typed_errors(self.paths.database), self._gate.shield:
            self._check_descriptors()
            self.sql.execute("BEGIN")
            try:
                return work(self.sql, *args)
            finally:
                if self.sql.in_transaction:  # a failing disk has ended it already
                    self.sql.execute("ROLLBACK")

    def probe(self, statement: str, parameters: dict[str, Any]) -> Any:
        """One statement's first row, or None: a look that costs less than a transaction."""
        self._check_descriptors()
        with typed_errors(self.paths.database):
            return self.sql.execute(statement, parameters).fetchone()

    def sync(self, *, always: bool = False) -> None:
        """Make the last commit survive a power cut although the file's durability is "normal", or *always*."""
        if (always or not self.is_durable) and self._wal_descriptor >= 0:
            os.fsync(self._wal_descriptor)

    def check_room(self) -> None:
        """Raise `StorageFull` when the log has grown too large to take more jobs."""
        if self._log_size > WAL_LIMIT:
            raise StorageFull(
                f"{self.paths.wal} holds {self._log_size // MIB} MiB, more than {WAL_LIMIT // MIB}: "
                "some process reads the database without end; stop it and try again"
            )

    def _transact(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            self._check_version()
            result = work(self.sql, *args)
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:
                self.sql.execute("ROLLBACK")
            raise
        return result

    def _sync_commits(self, are_synced: bool) -> None:
        """Have the next commits wait for the disk, or not. Before them: what fails after one would deny what it stored."""
        if are_synced != self._are_synced:
            self.sql.execute("PRAGMA synchronous = FULL" if are_synced else "PRAGMA synchronous = NORMAL")
            self._are_synced = are_synced

    def _check_version(self) -> None:
        version = self.sql.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise SchemaTooNew(self.paths.database, version, SCHEMA_VERSION)
        if version < SCHEMA_VERSION:
            raise NotOurDatabase(
                f"{self.paths.database} has schema {version}, which no release has written; restore a backup"
            )

    def check_paths(self) -> None:
        """Raise `DatabaseGone` when another file, or none, has this one's name by now. Writes see to it themselves."""
        try:
            self._log_size = self._guard.check_paths()
        except DatabaseGone:
            self._is_gone = True
            raise

    def _after_commit(self) -> None:
        self.check_paths()
        if self._log_size > CHECKPOINT_SIZE:
            with contextlib.suppress(sqlite3.Error, OSError):  # what is stored is stored; the next one tries again
                self._checkpoint()

    def checkpoint(self) -> bool:
        """Write the log into the database and empty it. False when a reader is in the way; try later."""
        self._check_usable()
        self._check_descriptors()
        with typed_errors(self.paths.database), self._gate:
            return self._checkpoint()

    def _checkpoint(self) -> bool:
        if not self._gate.may_checkpoint():
            return False
        # Milliseconds to wait for readers: with 5,000 one stuck reader stalled the writers for 5.8 s, with 100 for 0.2 s.
        self.sql.execute("PRAGMA busy_timeout = 100")
        try:
            busy = self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            busy = 1
        finally:
            self.sql.execute("PRAGMA busy_timeout = 10000")
        if busy:
            self._gate.pause_checkpoints()
        return not busy

    def vacuum(self) -> None:
        """Give some free pages of the database back to the file system."""
        self._check_usable()
        self._check_descriptors()
        with typed_errors(self.paths.database), self._gate:
            # By executescript: Python steps a statement of execute once, which frees one page.
            self.sql.executescript("PRAGMA incremental_vacuum(200);")
            self._after_commit()

    # ---- the end

    def _check_usable(self) -> None:
        if self._is_forked:
            raise ForkedError
        if self._is_gone:
            raise DatabaseGone(f"{self.paths.database} is not the file any more that was opened; open it anew")

    def _check_descriptors(self) -> None:
        try:
            self._guard.check_descriptors()
        except DatabaseGone:
            self._is_gone = True
            raise

    def close(self) -> None:
        """Close the connection inside the gate. One whose files are gone is left to the kernel: closing could write."""
        if self._is_forked or self._is_gone:
            _leaked.append(self)
            return
        try:
            self._check_descriptors()
            with typed_errors(self.paths.database), self._gate, opening:
                self._guard.release()
                self.sql.close()
        except (DatabaseGone, DatabaseBusy):
            self._is_gone = True
            _leaked.append(self)
        finally:
            self._gate.close()

    def close_in_child(self) -> None:
        self._is_forked = True
        _leaked.append(self)


#: Connections that must not be closed, and so must not be collected either.
_leaked: list[Connection] = []


def parse_durability(value: object) -> str:
    """ "full" or "normal", or a `ConfigError`."""
    if value not in ("full", "normal"):
        raise ConfigError(f'durability must be "full" or "normal", got {value!r}')
    return str(value)


@contextlib.contextmanager
def typed_errors(database: str) -> Iterator[None]:
    """SQLite's and the system's errors as ours, each with its remedy."""
    try:
        yield
    except FastWorkerError:
        raise
    except sqlite3.Error as error:
        raise _typed(database, error) from error
    except UnicodeDecodeError as error:  # of a name in the schema, in SQLite's own message
        raise _damaged(database, error) from error
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else database
        raise StorageError(
            f"{where}: {error.strerror or error}; the database and its folder must be writable"
        ) from error


def _typed(database: str, error: sqlite3.Error) -> FastWorkerError | sqlite3.Error:
    code = getattr(error, "sqlite_errorcode", None)
    match None if code is None else code & 0xFF:
        case sqlite3.SQLITE_FULL:
            return StorageFull(f"{database}: no room left on the disk; nothing was stored. Make room and try again")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return DatabaseBusy(f"{database}: a program other than fastworker_lite holds the database; try again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(database, error)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StorageError(f"{database}: {error}; nothing was stored. Check the disk and the folder's permissions")
    if isinstance(error, sqlite3.OperationalError):  # no statement of ours is wrong: the schema or a text is
        return _damaged(database, error)
    return error


def _damaged(database: str, error: Exception) -> NotOurDatabase:
    return NotOurDatabase(f"{database} is damaged ({error}); restore a backup")


def is_ours(path: str) -> bool:
    """Whether *path* exists and is a database of this package."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and read_header(path) == APPLICATION_ID
    except (OSError, FastWorkerError):
        return False
