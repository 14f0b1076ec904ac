"""The store on one SQLite file: one writer, one reader, one daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

from broker.errors import StoreError
from broker.store.base import Tx
from broker.store.sqlite.database import Database, connect, connect_readonly, create
from broker.store.sqlite.lock import FileLock
from broker.store.sqlite.migrate import migrate, must_be_current
from broker.store.sqlite.reader import Reader, read_with
from broker.store.sqlite.reserve import SIZE, Reserve
from broker.store.sqlite.writer import Writer

T = TypeVar("T")

MAX_GROUP = 256  # operations in one commit: bounds how long the first of them waits
BUSY_SECONDS = 5.0


class SqliteStore:
    """`broker.store.base.Store`."""

    def __init__(
        self, lock: FileLock, writer: Writer, reader: Reader, near: Database, *, made: Path | None = None
    ) -> None:
        self._lock: FileLock | None = lock
        self._made = made  # by us, just now
        self._forsaken = False
        self._writer = writer
        self._reader = reader
        self._near = near  # for quick reads, on the event loop
        self._closed = False

    async def write(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        """As the protocol says. A cancelled caller does not stop the operation."""
        return cast(T, await self._writer.submit(operation, quick=quick))

    async def read(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        """As the protocol says; never waits for a write."""
        if quick and not self._closed:
            return read_with(self._near, operation)
        return await self._reader.run(operation)

    @property
    def sparing(self) -> bool:
        """As the protocol says."""
        return not self._writer.reserve_held

    @property
    def commits(self) -> int:
        """Groups made durable since the start; with `operations`, how well writes are grouped."""
        return self._writer.commits

    @property
    def operations(self) -> int:
        """Operations in those groups."""
        return self._writer.operations

    def forsake(self) -> None:
        """As the protocol says. One that was written to stays."""
        self._forsaken = True

    async def close(self) -> None:
        """Finish what was queued, empty the write-ahead log, let the next daemon in."""
        self._closed = True
        self._near.close()  # here, where it is read with: no read is half done
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._reader.close()
        self._writer.close()
        lock, self._lock = self._lock, None
        if lock is not None and self._made and self._forsaken and not self.commits:
            for end in ("-wal", "-shm", "-reserve", ""):  # itself last: a crash between leaves one that is empty
                self._made.with_name(self._made.name + end).unlink(missing_ok=True)
        if lock is not None:
            lock.release()


def open_store(
    path: Path, *, busy_seconds: float = BUSY_SECONDS, max_group: int = MAX_GROUP, reserve_bytes: int = SIZE
) -> SqliteStore:
    """Open for the daemon, making and migrating the database. Blocks; called once, at start.

    `busy_seconds`: how long a write of another process (an operator's shell) is waited for.
    `reserve_bytes`: room kept for the ends of leases. Raises StoreError
    when another daemon has it, when it is newer than this program, or when it cannot be opened.
    """
    path = path.resolve()
    lock = FileLock(path)
    try:
        made = create(path)
        reserve = Reserve(path, reserve_bytes)
        writer = Writer(_migrated(path, busy_seconds, reserve), reserve, max_group=max_group)
        try:
            near = connect(path, busy_timeout=busy_seconds, query_only=True)
            reader = Reader(lambda: connect(path, busy_timeout=busy_seconds, query_only=True))
        except BaseException:
            writer.close()
            raise
    except BaseException:
        lock.release()
        raise
    return SqliteStore(lock, writer, reader, near, made=path if made else None)


def _migrated(path: Path, busy_seconds: float, reserve: Reserve) -> Database:
    """On a disk so full that the database does not even open, with the reserve given back."""
    try:
        return _open_and_migrate(path, busy_seconds)
    except StoreError:
        if not (reserve.needed() and reserve.give_back()):
            raise
    return _open_and_migrate(path, busy_seconds)


def _open_and_migrate(path: Path, busy_seconds: float) -> Database:
    database = connect(path, busy_timeout=busy_seconds)
    try:
        migrate(database, path)
        database.run("PRAGMA journal_mode = WAL")  # kept in the file; only now do we know that it is ours
        database.impatient()
    except BaseException:
        database.close()
        raise
    return database


class OfflineStore:
    """Read-only access without a daemon, or beside one. Used by one thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, operation: Callable[[Tx], T]) -> T:
        """Run on one snapshot. Writing methods raise StoreError."""
        return read_with(self._database, operation)

    def close(self) -> None:
        """Changes nothing in the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def open_readonly(path: Path, *, busy_seconds: float = BUSY_SECONDS) -> OfflineStore:
    """Open for offline tools: takes no lock and changes nothing, also on read-only ground.

    Raises StoreError when there is no database, or when it is of another version.
    """
    path = path.resolve()
    if not path.is_file():
        raise StoreError(f"database {path}: no such file")
    database = connect_readonly(path, busy_timeout=busy_seconds)
    try:
        must_be_current(database, path)
    except BaseException:
        database.close()
        raise
    return OfflineStore(database)
