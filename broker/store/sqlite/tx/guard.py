"""Attempt budgets and the charges of the rolling hour."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime

from broker.store.guard import GuardClock, GuardRow, GuardState
from broker.store.sqlite import sql
from broker.store.sqlite.known import MISSING, Kind
from broker.store.sqlite.rows import GUARD_CLOCK, GUARD_ROW, SqlValue, micros, time_of
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("guard")
_OWN = ("nth_charge", "count_charge")  # of one workload and scope, looked for by their hour key
_SHARED = ("nth_shared", "count_shared")  # of a scope, over all agents


class GuardArea(Area):
    """A charge belongs to one lease."""

    def guard_row(self, key: str) -> GuardRow | None:
        return self.known.get(Kind.GUARD_ROW, key, lambda: self._guard_row(key))

    def _guard_row(self, key: str) -> GuardRow | None:
        row = self._db.one(_SQL["guard_row"], {"key": key})
        return GUARD_ROW.of(row) if row else None

    def put_guard_row(self, row: GuardRow) -> None:
        _must_be_aware(row.until, row.refilled_at, row.reset_at, *row.locked_at, *row.hour_exhausted_at)
        self.known.owe(Kind.GUARD_ROW, row.key, row)
        self._settle_unless_grouped()

    def guard_page(self, *, after: str, limit: int, open_too: bool = False) -> list[GuardRow]:
        self.settle()
        query = _SQL["guard_page"] if open_too else _SQL["closed_guard_page"]
        rows = self._db.all(query, {"after": after, "limit": limit})
        return [GUARD_ROW.of(row) for row in rows]

    def guard_counts(self) -> Mapping[GuardState, int]:
        self.settle()
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
        for counted in ((_OWN, hour_key), (_SHARED, shared)):
            found = self.known.peek(Kind.CHARGES, counted)
            if found is not MISSING:
                since, most = found
                self.known.put(Kind.CHARGES, counted, (since, most + 1))

    def return_charge(self, lease_id: str) -> bool:
        return bool(self._db.run(_SQL["return_charge"], {"lease_id": lease_id}))

    def forget_charges(self, before: datetime, limit: int) -> int:
        return self._db.run(_SQL["forget_charges"], {"before": micros(before), "limit": limit})

    def count_charges(self, hour_key: str, since: datetime) -> int:
        (row,) = self._db.all(_SQL["count_charge"], {"key": hour_key, "since": micros(since)})
        return int(row["charges"])

    def nth_charge(self, n: int, *, hour_key: str, since: datetime) -> datetime | None:
        return self._nth(n, _OWN, hour_key, since)

    def nth_shared(self, n: int, *, shared: str, since: datetime) -> datetime | None:
        return self._nth(n, _SHARED, shared, since)

    def _nth(self, n: int, queries: tuple[str, str], key: str, since: datetime) -> datetime | None:
        """Looks only when it has to: until then the last count, and each charge added since, say that there are fewer.

        A window that has moved on, and charges that were given back, leave no more of them.
        """
        counted = self.known.peek(Kind.CHARGES, (queries, key))
        if counted is not MISSING and counted[0] <= since and counted[1] < n:
            return None
        params: dict[str, SqlValue] = {"key": key, "since": micros(since), "newer": n - 1}
        found = _at(self._db.one(_SQL[queries[0]], params))
        if found is None:
            (row,) = self._db.all(_SQL[queries[1]], params)
            self.known.put(Kind.CHARGES, (queries, key), (since, int(row["charges"])))
        return found

    def guard_clock(self) -> GuardClock | None:
        return self.known.get(Kind.GUARD_CLOCK, "", self._guard_clock)

    def _guard_clock(self) -> GuardClock | None:
        row = self._db.one(_SQL["guard_clock"])
        return GUARD_CLOCK.of(row) if row else None

    def set_guard_clock(self, clock: GuardClock) -> None:
        _must_be_aware(clock.at, clock.wall)
        self.known.owe(Kind.GUARD_CLOCK, "", clock)
        self._settle_unless_grouped()

    def _settle_unless_grouped(self) -> None:
        if not self.grouped:
            self.settle()

    def settle(self) -> None:
        """Write what is owed: each row once, however many operations of the group have changed it."""
        for row in self.known.owed(Kind.GUARD_ROW):
            self._db.run(_SQL["put_guard_row"], GUARD_ROW.row(row))
        for clock in self.known.owed(Kind.GUARD_CLOCK):
            self._db.run(_SQL["set_guard_clock"], GUARD_CLOCK.row(clock))


def _must_be_aware(*times: datetime | None) -> None:
    """Of what is owed: a naive time is its caller's mistake, not that of the whole group, at whose end it is written."""
    if any(at is not None and at.tzinfo is None for at in times):
        raise TypeError("times are aware")


def _at(row: sqlite3.Row | None) -> datetime | None:
    return None if row is None else time_of(row["at"])
