"""What the areas of a transaction share."""

from __future__ import annotations

from sqlite3 import Row

from broker.errors import StoreError, StoreFull
from broker.store.sqlite.database import Database
from broker.store.sqlite.known import Known

QUICK = 64  # rows changed by one operation: a few milliseconds
QUICK_READ = 256  # rows read by one query: the same


class TooLong(StoreError):
    """Of a quick operation: to be run where nobody's event loop stands still."""


class Area:
    """One area's methods over the connection of the running operation."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.known = Known()
        self.quick = False  # on somebody's event loop
        self.touched = 0  # rows that the running operation has said it changes
        self.grouped = False  # what is owed is written with the group, else at once
        self.sparing = False  # the disk is full: what begins something is refused, what ends something is written

    def must_be_quick(self, rows: int) -> None:
        self.touched += rows
        if self.quick and self.touched > QUICK:
            raise TooLong("more rows than a quick operation may change")

    @property
    def most(self) -> int:
        """LIMIT of a query of unknown length: one more than may be read, or -1, none. Its rows go through `bounded`."""
        return QUICK_READ + 1 if self.quick else -1

    def bounded(self, rows: list[Row]) -> list[Row]:
        """Raises TooLong, before they are made into anything."""
        if self.quick and len(rows) > QUICK_READ:
            raise TooLong("more rows than a quick operation may read")
        return rows

    def must_have_room(self) -> None:
        """Before anything new. Raises StoreFull."""
        if self.sparing:
            raise StoreFull("the disk is full: what room is left is for revocations")
