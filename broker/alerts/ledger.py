"""Alerts as the database has them, and those that it does not take: a database that cannot be written must be told of too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from broker.alert import Alert
from broker.clock import Clock
from broker.errors import StoreError
from broker.store.base import Store, Tx
from broker.store.notices import AlertRow, Delivery

T = TypeVar("T")

Due = Sequence[tuple[AlertRow, Delivery | None]]


class NotOurs(Exception):
    """The right to write is not this process's now."""


class Ledger:
    """Used on one event loop. `fence`: the first line of every writing operation; raises NotOurs."""

    def __init__(self, store: Store, fence: Callable[[Tx], None], clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self.clock = clock
        self.unwritten: dict[
            str, AlertRow
        ] = {}  # by fingerprint, of serial 0; a few, and only while nothing is written

    async def read(self, operation: Callable[[Tx], T]) -> T:
        """Raises StoreError."""
        return await self._store.read(operation)

    async def write(self, operation: Callable[[Tx], T]) -> T:
        """Raises NotOurs, StoreError, and what the operation raises."""

        def fenced(tx: Tx) -> T:
            self._fence(tx)
            return operation(tx)

        return await self._store.write(fenced)

    def remember(self, alert: Alert) -> None:
        """It fires, and could not be written."""
        at, known = self.clock.now(), self.unwritten.get(alert.fingerprint)
        fresh = AlertRow(alert=alert, since=at, last_at=at, count=1, serial=0)
        again = replace(known, alert=alert, last_at=at) if known else fresh
        self.unwritten[alert.fingerprint] = again

    async def undelivered(self, sink: str, limit: int) -> Due:
        """What this sink has not taken, as far as it can be read; the unwritten always."""
        unwritten = [(row, None) for row in self.unwritten.values()]
        try:
            return [*unwritten, *await self.read(lambda tx: tx.undelivered(sink, self.clock.now(), limit))]
        except StoreError:
            return unwritten

    async def firing(self) -> Sequence[AlertRow]:
        """The same of all that fire."""
        try:
            return [*self.unwritten.values(), *await self.read(lambda tx: tx.alerts())]
        except StoreError:
            return [*self.unwritten.values()]
