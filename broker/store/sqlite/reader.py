"""The read path: a connection that cannot write, on a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from broker.errors import StoreError
from broker.store.base import Tx
from broker.store.sqlite.database import Database
from broker.store.sqlite.tx import SqliteTx

T = TypeVar("T")


def read_with(database: Database, operation: Callable[[Tx], T]) -> T:
    """Run on one snapshot, so that several queries of one operation fit together."""
    database.begin("DEFERRED")
    try:
        return operation(SqliteTx(database))
    except StopIteration:  # a future cannot carry one
        raise RuntimeError("the operation raised StopIteration") from None
    finally:
        database.rollback()


class Reader:
    """Never waits for the writer: WAL readers see the last committed state."""

    def __init__(self, open_database: Callable[[], Database]) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="store-reader")
        self._closed = False
        try:
            self._database = self._pool.submit(open_database).result()
        except BaseException:
            self._pool.shutdown()
            raise

    async def run(self, operation: Callable[[Tx], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, read_with, self._database, operation)

    def close(self) -> None:
        """Finish what was queued. Blocks."""
        if not self._closed:
            self._closed = True
            self._pool.submit(self._database.close)
        self._pool.shutdown()
