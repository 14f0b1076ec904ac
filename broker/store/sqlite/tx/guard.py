"""Attempt budgets and the charges of the rolling hour."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime

from broker.store.guard import GuardClock, GuardRow, GuardState
from broker.store.sqlite import sql
from broker.store.sqlite.rows import GUARD_CLOCK, GUARD_ROW, SqlValue, micros, time_of
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("guard")


class GuardArea(Area):
    """A charge belongs to one lease."""

    def guard_row(self, key: str) -> GuardRow | None:
        row = self._db.one(_SQL["guard_row"], {"key": key})
        return GUARD_ROW.of(row) if row else None

    def put_guard_row(self, row: GuardRow) -> None:
        self._db.run(_SQL["put_guard_row"], GUARD_ROW.row(row))

    def guard_page(self, *, after: str, limit: int, open_too: bool = False) -> list[GuardRow]:
        query = _SQL["guard_page"] if open_too else _SQL["closed_guard_page"]
        rows = self._db.all(query, {"after": after, "limit": limit})
        return [GUARD_ROW.of(row) for row in rows]

    def guard_counts(self) -> Mapping[GuardState, int]:
        return {GuardState(row["state"]): int(row["keys"]) for row in self._db.all(_SQL["guard_counts"])}

    def add_charge(self, *, lease_id: str, key: str, hour_key: str, at: datetime, shared: str | None = None) -> None:
        charge: dict[str, SqlValue] = {
            "lease_id": lease_id,
            "key": key,
            "hour_key": hour_key,
            "at": micros(at),
            "shared": shared,
        }
        self._db.run(_SQL["add_charge"], charge)

    def return_charge(self, lease_id: str) -> bool:
        return bool(self._db.run(_SQL["return_charge"], {"lease_id": lease_id}))

    def forget_charges(self, before: datetime, limit: int) -> int:
        return self._db.run(_SQL["forget_charges"], {"before": micros(before), "limit": limit})

    def count_charges(self, hour_key: str, since: datetime) -> int:
        (row,) = self._db.all(_SQL["count_charges"], {"hour_key": hour_key, "since": micros(since)})
        return int(row["charges"])

    def nth_charge(self, n: int, *, hour_key: str, since: datetime) -> datetime | None:
        params: dict[str, SqlValue] = {"hour_key": hour_key, "since": micros(since), "newer": n - 1}
        return _at(self._db.one(_SQL["nth_charge"], params))

    def nth_shared(self, n: int, *, shared: str, since: datetime) -> datetime | None:
        params: dict[str, SqlValue] = {"shared": shared, "since": micros(since), "newer": n - 1}
        return _at(self._db.one(_SQL["nth_shared"], params))

    def guard_clock(self) -> GuardClock | None:
        row = self._db.one(_SQL["guard_clock"])
        return GUARD_CLOCK.of(row) if row else None

    def set_guard_clock(self, clock: GuardClock) -> None:
        self._db.run(_SQL["set_guard_clock"], GUARD_CLOCK.row(clock))


def _at(row: sqlite3.Row | None) -> datetime | None:
    return None if row is None else time_of(row["at"])
