"""What a watcher asks, again and again, on a reader's connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from broker.model import LeaseState
from broker.store.sqlite import sql
from broker.store.sqlite.rows import SqlValue, micros
from broker.store.sqlite.tx.base import Area
from broker.store.watched import Busy, Usual

_SQL = sql.queries("watched")


class WatchedArea(Area):
    """By indexes that are there for others."""

    def stuck_leases(self, doubtful_since: datetime) -> Mapping[tuple[str, LeaseState], int]:
        rows = self._db.all(_SQL["stuck_leases"], {"doubtful_since": micros(doubtful_since)})
        return {(row["provider"], LeaseState(row["state"])): int(row["leases"]) for row in rows}

    def busy_keys(self, since: datetime, *, at_least: int) -> Sequence[Busy]:
        asked: dict[str, SqlValue] = {"since": micros(since), "at_least": at_least}
        found = []
        for row in self._db.all(_SQL["busy_keys"], asked):
            (one,) = self._db.all(_SQL["one_charge"], {"hour_key": row["hour_key"], "since": micros(since)})
            found.append(Busy(hour_key=row["hour_key"], guard_key=one["key"], charges=int(row["charges"])))
        return found

    def usual_charges(self, hour_key: str, *, since: datetime, until: datetime) -> Usual:
        asked: dict[str, SqlValue] = {"hour_key": hour_key, "since": micros(since), "until": micros(until)}
        (row,) = self._db.all(_SQL["usual_charges"], asked)
        return Usual(charges=int(row["charges"]), active_hours=int(row["hours"]))
