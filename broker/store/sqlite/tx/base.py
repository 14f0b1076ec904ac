"""What the areas of a transaction share."""

from __future__ import annotations

from broker.store.sqlite.database import Database


class Area:
    """One area's methods over the connection of the running operation."""

    def __init__(self, database: Database) -> None:
        self._db = database
