"""One connection, used by one thread: pragmas, and statements with translated errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import get_ident

from broker.errors import StoreError
from broker.store.sqlite.errors import translate
from broker.store.sqlite.rows import SqlValue
from broker.store.sqlite.sql import Query

_STATEMENTS = 256  # all of ours fit; the default of 128 would compile some again and again
_OLDEST = (3, 37, 0)  # STRICT tables

# secure_delete: an erased nonce must not stay behind in a page's free space.
_PRAGMAS = """
PRAGMA foreign_keys = ON;
PRAGMA synchronous = FULL;
PRAGMA secure_delete = ON;
PRAGMA temp_store = MEMORY;
"""


class Database:
    """Used by one thread at a time: whoever made it or last began a transaction.

    Statements outside a transaction are refused once one was lost, so that nothing is half written.
    """

    def __init__(self, connection: sqlite3.Connection, *, busy_timeout: float) -> None:
        self._connection = connection
        self._busy_timeout = busy_timeout
        self._user = get_ident()
        self._changes = 0  # before the transaction
        self._lost: StoreError | None = None  # why no statement is taken

    @property
    def in_transaction(self) -> bool:
        """False also when SQLite itself rolled back, as it may on a full disk or an I/O error."""
        return self._connection.in_transaction

    @property
    def changed(self) -> bool:
        """Has this transaction changed a row? Also when it was lost since."""
        return self._connection.total_changes != self._changes

    def all(self, sql: str, params: Mapping[str, SqlValue] | None = None) -> list[sqlite3.Row]:
        """The rows of a query."""
        return self._step(sql, params)[0]

    def one(self, sql: str, params: Mapping[str, SqlValue] | None = None) -> sqlite3.Row | None:
        """The first row, or None."""
        rows = self._step(sql, params)[0]
        return rows[0] if rows else None

    def run(self, sql: str, params: Mapping[str, SqlValue] | None = None) -> int:
        """How many rows it changed."""
        return self._step(sql, params)[1]

    def script(self, sql: str) -> None:
        """Several statements; transactions are the script's own business."""
        try:
            self._connection.executescript(sql)
        except sqlite3.Error as error:
            raise translate(error) from None

    def begin(self, mode: str) -> None:
        """Start a transaction of this thread's: DEFERRED to read, IMMEDIATE to write."""
        self._user, self._lost = get_ident(), None
        self._changes = self._connection.total_changes
        self.run(f"BEGIN {mode}")

    def shut(self) -> None:
        """No statement any more in this transaction: an operation that was given a Tx is over."""
        self._lost = self._lost or _shut()

    def commit(self) -> None:
        """Make it durable, on whatever thread. Raises StoreError when there is nothing to commit: it was lost."""
        self._user, self._lost = get_ident(), None
        self.run("COMMIT")
        self._lost = _shut()

    def rollback(self) -> None:
        """Undo whatever is open; nothing when SQLite did it already."""
        self._user, self._lost = get_ident(), None
        if self.in_transaction:
            self.run("ROLLBACK")
        self._lost = _shut()

    def impatient(self) -> None:
        """From now on another process that writes is waited for within `patience` alone."""
        self._connection.execute("PRAGMA busy_timeout = 0")

    @contextlib.contextmanager
    def patience(self) -> Iterator[None]:
        """Wait for another process as long as was agreed."""
        self._connection.execute(f"PRAGMA busy_timeout = {round(self._busy_timeout * 1000)}")
        try:
            yield
        finally:
            self.impatient()

    def close(self) -> None:
        """The last connection to close also empties the write-ahead log."""
        self._connection.close()

    def _step(self, sql: str, params: Mapping[str, SqlValue] | None) -> tuple[list[sqlite3.Row], int]:
        if self._lost is not None:
            raise self._lost
        if self._user != get_ident():
            raise _shut()
        began = self.in_transaction
        try:
            cursor = self._connection.execute(sql, sql.values(params) if isinstance(sql, Query) and params else ())
            return cursor.fetchall(), cursor.rowcount
        except sqlite3.Error as error:
            problem = translate(error)
        if began and not self.in_transaction:
            self._lost = problem
        raise problem


def _shut() -> StoreError:
    return StoreError("used outside of its operation")


def connect(path: Path, *, busy_timeout: float, query_only: bool = False) -> Database:
    """For the daemon. `busy_timeout` in seconds: how long another process's write is waited for."""
    if sqlite3.sqlite_version_info < _OLDEST:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old; 3.37 or newer is needed")
    database = _open(path.as_uri() + "?mode=rw", path, busy_timeout=busy_timeout)
    try:
        database.script(_PRAGMAS)  # reads the file for the first time
        if query_only:
            database.run("PRAGMA query_only = ON")
    except StoreError as error:
        database.close()
        raise StoreError(f"database {path}: {error}") from None
    return database


def connect_readonly(path: Path, *, busy_timeout: float) -> Database:
    """For offline tools, beside a running daemon or on a copy.

    On read-only ground SQLite cannot make the -shm file it wants; without a write-ahead log there is nothing
    to coordinate, and the file is read as it is.
    """
    wal = path.with_name(path.name + "-wal")
    try:
        return _probe(_open(path.as_uri() + "?mode=ro", path, busy_timeout=busy_timeout))
    except StoreError as error:
        if wal.exists() and wal.stat().st_size:
            hint = "with a -wal file beside it, it must lie in a folder that can be written; copy both to one"
            raise StoreError(f"database {path}: {error} ({hint})") from None
    try:
        return _probe(_open(path.as_uri() + "?mode=ro&immutable=1", path, busy_timeout=busy_timeout))
    except StoreError as error:
        raise StoreError(f"database {path}: {error}") from None


def create(path: Path) -> bool:
    """Make the file, readable by its owner only; SQLite gives -wal and -shm the same mode. False when it was there."""
    there = path.exists()
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"database {path}: {error.strerror}") from None
    return not there


def _open(uri: str, path: Path, *, busy_timeout: float) -> Database:
    try:
        connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=busy_timeout,
            isolation_level=None,
            cached_statements=_STATEMENTS,
            check_same_thread=False,  # a group's COMMIT waits for the disk on a thread of its own
        )
    except sqlite3.Error as error:
        raise StoreError(f"database {path}: {error}") from None
    connection.row_factory = sqlite3.Row
    return Database(connection, busy_timeout=busy_timeout)


def _probe(database: Database) -> Database:
    try:
        database.one("SELECT count(*) FROM sqlite_schema")
    except StoreError:
        database.close()
        raise
    return database
