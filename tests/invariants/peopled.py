"""A driven broker with people: what they approve, stop, open and are told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from broker.alert import AlertRule
from broker.alerts import events
from broker.alerts.conditions import Condition, Event, Rules
from broker.alerts.ledger import Ledger
from broker.alerts.watcher import Watcher
from broker.clock import Moment
from broker.config import Approvals
from broker.errors import BrokerError
from broker.guard.guard import Guard
from broker.leases.approving import Approving
from broker.operators.desk import Desk
from broker.operators.model import Operator
from broker.operators.second_factor import SecondFactors
from broker.store.halts import HaltsTx
from tests.fakes.world import MAP
from tests.invariants.driven import Driven
from tests.invariants.outside import TrueClock
from tests.unit.operators.desk import House
from tests.unit.operators.people import KEY

PENDING = timedelta(minutes=20)
VALID = timedelta(minutes=8)
OPERATORS = ("ann", "bob", "cid")
ROLES = ("signed", "signed-anew")  # what is minted for the scope `signed`, by the map before and after its change

FULL = (
    MAP.replace(
        "  timed:",
        "  signed: {fake: {role: signed}, ttl: 10m, max_ttl: 1h, tier: high, approvals: 2}\n"
        "  rationed: {fake: {role: rationed}, ttl: 10m, tier: low, shared_hourly: 1}\n"
        "  timed:",
    )
    .replace("scopes: [plain, elevated, danger, timed]", "scopes: [plain, elevated, danger, timed, signed, rationed]")
    .replace("scopes: [plain],", "scopes: [plain, rationed],")
    + "tiers:\n  high: {on_lock: workflow}\n"
)
LESS = FULL.replace("danger, timed, signed, rationed]", "danger]")
CHANGED = FULL.replace("{role: signed}", "{role: signed-anew}")

_EVENTS = (
    Event(rule=AlertRule.GUARD_LOCKED, goes_on=events.Locked(guard=Guard())),
    Event(rule=AlertRule.GUARD_HELD, goes_on=events.held),
    Event(rule=AlertRule.GUARD_CEILING, goes_on=events.recent),
    Event(rule=AlertRule.BREAK_GLASS, goes_on=events.unsigned),
)
_RULES = Rules(
    conditions=tuple(Condition(rule=rule) for rule in AlertRule if rule not in {event.rule for event in _EVENTS}),
    events=_EVENTS,
)


class AnyCode(SecondFactors):
    """Codes have tests of their own, and one of them is good for 30 s."""

    def check(self, tx: HaltsTx, operator: Operator, code: str, now: Moment) -> BrokerError | None:
        return None


class Peopled(Driven):
    """The watcher takes its round with the others."""

    house: House
    watcher: Watcher

    def __init__(self, folder: Path, clock: TrueClock) -> None:
        super().__init__(folder, clock)
        self.map_text = FULL
        self._write_map()

    def build(self) -> None:
        super().build()
        object.__setattr__(self.core, "approving", Approving(times=Approvals(pending=PENDING, valid=VALID)))
        self.house = House(self)
        self.house.desk = Desk(self.core, self.engine.orders, self.house.staff, AnyCode(lambda: KEY))
        self.watcher = Watcher(_RULES, Ledger(self.store, self.core.enter, self.clock), self.core.metrics)

    async def round(self) -> None:
        await super().round()
        try:
            await self.watcher.round()
        except BrokerError:  # the epoch is lost
            return
