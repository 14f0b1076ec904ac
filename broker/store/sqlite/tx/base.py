"""What the areas of a transaction share."""

from __future__ import annotations

from broker.errors import StoreError, StoreFull
from broker.store.sqlite.database import Database
from broker.store.sqlite.known import Known

QUICK = 64  # rows: a few milliseconds


class TooLong(StoreError):
    """Of a quick operation: to be run where nobody's event loop stands still."""


class Area:
    """One area's methods over the connection of the running operation."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.known = Known()
        self.quick = False  # on somebody's event loop
        self.grouped = False  # what is owed is written with the group, else at once
        self.sparing = False  # the disk is full: what begins something is refused, what ends something is written

    def must_be_quick(self, rows: int) -> None:
        if self.quick and rows > QUICK:
            raise TooLong("more rows than a quick operation may change")

    def must_have_room(self) -> None:
        """Before anything new. Raises StoreFull."""
        if self.sparing:
            raise StoreFull("the disk is full: what room is left is for revocations")
