"""The outbox: alerts, how far each sink is with them, and notices to single receivers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from broker.alert import Alert, AlertRule
from broker.store.notices import FAR, AlertRow, Delivery, Notice
from broker.store.sqlite import sql
from broker.store.sqlite.rows import DELIVERY, NOTICE, SqlValue, alert_row_of, canonical, micros, time_of
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("notices")


class NoticesArea(Area):
    """Written with the change that they tell of."""

    def raise_alert(self, alert: Alert, *, at: datetime) -> bool:
        told: dict[str, SqlValue] = {"fingerprint": alert.fingerprint, "summary": alert.summary, "at": micros(at)}
        if self._db.run(_SQL["fires_on"], told):
            return False
        self._db.run(_SQL["fire"], told | {"rule": alert.rule.value, "labels": canonical(dict(alert.labels))})
        return True

    def resolve_alert(self, fingerprint: str, *, at: datetime) -> bool:
        return bool(self._db.run(_SQL["resolve_alert"], {"fingerprint": fingerprint, "at": micros(at)}))

    def alert(self, fingerprint: str) -> AlertRow | None:
        row = self._db.one(_SQL["alert"], {"fingerprint": fingerprint})
        return alert_row_of(row) if row else None

    def alerts(self, *, resolved_too: bool = False) -> Sequence[AlertRow]:
        rows = self._db.all(_SQL["firing"]) + (self._db.all(_SQL["resolved"]) if resolved_too else [])
        return [alert_row_of(row) for row in rows]

    def firing_counts(self) -> Mapping[AlertRule, int]:
        return {AlertRule(row["rule"]): int(row["alerts"]) for row in self._db.all(_SQL["firing_counts"])}

    def forget_alerts(self, before: datetime, limit: int) -> int:
        old: dict[str, SqlValue] = {"before": micros(before), "limit": limit}
        self._db.run(_SQL["forget_deliveries"], old)
        return self._db.run(_SQL["forget_alerts"], old)

    def undelivered(self, sink: str, now: datetime, limit: int) -> Sequence[tuple[AlertRow, Delivery | None]]:
        asked: dict[str, SqlValue] = {"sink": sink, "now": micros(now), "far": micros(now + FAR), "limit": limit}
        rows = self._db.all(_SQL["undelivered"], asked)
        return [
            (
                alert_row_of(row),
                None
                if row["taken"] is None
                else Delivery(
                    sink=sink,
                    fingerprint=row["fingerprint"],
                    serial=row["taken"],
                    attempts=row["attempts"],
                    next_try_at=None if row["next_try_at"] is None else time_of(row["next_try_at"]),
                ),
            )
            for row in rows
        ]

    def put_delivery(self, delivery: Delivery) -> None:
        self._db.run(_SQL["put_delivery"], DELIVERY.row(delivery))

    def waiting_for(self, sinks: Collection[str]) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for row in self._db.all(_SQL["waiting_for"], {"sinks": canonical(sorted(sinks))}):
            found[row["fingerprint"]].append(row["sink"])
        return found

    def add_notice(self, notice: Notice) -> None:
        self._db.run(_SQL["add_notice"], NOTICE.row(notice))

    def due_notices(self, target: str, now: datetime, limit: int) -> Sequence[Notice]:
        asked: dict[str, SqlValue] = {
            "target": target,
            "now": micros(now),
            "far": micros(now + FAR),
            "limit": limit,
        }
        return [NOTICE.of(row) for row in self._db.all(_SQL["due_notices"], asked)]

    def put_notice(self, notice: Notice) -> None:
        row = NOTICE.row(notice)
        self._db.run(_SQL["put_notice"], {name: row[name] for name in ("id", "next_try_at", "attempts", "sent_at")})

    def unsent_notices(self) -> Mapping[str, tuple[int, datetime]]:
        rows = self._db.all(_SQL["unsent_notices"])
        return {row["target"]: (int(row["notices"]), time_of(row["oldest"])) for row in rows}

    def forget_notices(self, before: datetime) -> int:
        return self._db.run(_SQL["forget_notices"], {"before": micros(before)})
