"""A watcher and a sink over the real engine, with a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from broker.alert import Alert, AlertRule, Severity
from broker.alerts.ledger import Ledger
from broker.alerts.post import NotSent, Refused
from broker.alerts.watcher import Watcher
from broker.config import Alerts, Receiver
from broker.identity import FrontDoor
from broker.store import alarms
from broker.store.anchoring import Anchoring
from broker.store.notices import AlertRow
from broker.wiring import alerting
from tests.fakes.world import World


@dataclass
class Desk:
    """Everything that one watcher looks at, and what fires."""

    world: World
    anchoring: Anchoring
    ledger: Ledger
    overdue: bool = False  # nobody can look at the front door's files
    operators: str = ""  # what is wrong with the operators' file

    def watch(self, door: FrontDoor, alerts: Alerts, compensation: dict[str, Receiver]) -> None:
        watched = alerting.Watched(
            core=self.world.core,
            door=door,
            anchoring=self.anchoring,
            door_overdue=lambda: self.overdue,
            operators_problem=lambda: self.operators,
        )
        table = alerting.rules(alerts, compensation, watched)
        self.watcher = Watcher(table, self.ledger, self.world.core.metrics)

    async def firing(self) -> dict[str, list[dict[str, str]]]:
        """Rule → the labels of each."""
        found: dict[str, list[dict[str, str]]] = {}
        for row in await self.world.store.read(lambda tx: tx.alerts()):
            found.setdefault(row.alert.rule.value, []).append(dict(row.alert.labels))
        return found

    async def look(self, seconds: float = 6.0) -> dict[str, list[dict[str, str]]]:
        """After so long, one look."""
        self.world.fake_clock.advance(seconds)
        await self.world.engine.renew()
        await self.watcher.round()
        return await self.firing()

    async def sound(self, alert: Alert) -> bool:
        return await self.world.store.write(lambda tx: alarms.sound(tx, alert, at=self.world.clock.now()))

    async def hush(self, alert: Alert) -> bool:
        return await self.world.store.write(lambda tx: alarms.hush(tx, alert, at=self.world.clock.now()))


def desk(
    made: World,
    folder: Path,
    door: FrontDoor,
    *,
    alerts: Alerts | None = None,
    compensation: dict[str, Receiver] | None = None,
) -> Desk:
    found = Desk(made, Anchoring(made.store, folder / "anchor", made.clock), alerting.ledger(made.core))
    found.watch(door, alerts or Alerts(), compensation or {})
    return found


class FakeSink:
    """Keeps what it was sent; fails as it is told to."""

    def __init__(self, name: str = "pager", *, batch: int = 1, tell_again: float | None = None) -> None:
        self.name = name
        self.batch = batch
        self.tell_again = tell_again
        self.shows_for = timedelta(0)
        self.fails: NotSent | None = None
        self.refuses: set[str] = set()  # labels "n" of alerts
        self.min_severity = Severity.INFO
        self.sent: list[list[AlertRow]] = []
        self.tries = 0

    @property
    def told(self) -> list[tuple[str, str]]:
        """(label "n" or the rule, what it was told)."""
        rows = [row for rows in self.sent for row in rows]
        what = [row.alert.labels.get("n", row.alert.rule.value) for row in rows]
        return [(name, "resolved" if row.resolved_at else "firing") for name, row in zip(what, rows, strict=True)]

    def wants(self, row: AlertRow) -> bool:
        order = list(Severity)
        return order.index(row.alert.rule.severity) >= order.index(self.min_severity)

    async def send(self, rows: Sequence[AlertRow]) -> None:
        self.tries += 1
        if self.fails is not None:
            raise self.fails
        if any(row.alert.labels.get("n") in self.refuses for row in rows):
            raise Refused("it answered 400")
        self.sent.append(list(rows))

    async def close(self) -> None:
        return None


def an_alert(n: int | str = 1, rule: AlertRule = AlertRule.GUARD_LOCKED) -> Alert:
    return Alert(rule=rule, summary=f"alert {n}", labels={"n": str(n)})
