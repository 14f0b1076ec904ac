"""Refusals on order. Wherever a real part can refuse, it does: the guard by its own arithmetic, a freeze by its own row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from broker.clock import Moment
from broker.errors import BrokerError, Reason
from broker.guard.guard import Guard, GuardAsk
from broker.guard.tiers import TierRules, WhenEmpty
from broker.guard.verdicts import GuardVerdict
from broker.identity import FrontDoor
from broker.leases.answers import about
from broker.leases.committing import Delivered
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.issuing import Asking
from broker.leases.refusals import Refusals
from broker.model import Agent, StepState, Tier
from broker.store.base import Tx
from broker.store.guard import GuardRow, GuardState

GUARDS = frozenset({Reason.COOLING, Reason.LOCKED, Reason.HELD, Reason.CEILING})
_SOON = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)
# What no real part can be brought to say on order, in its own words; with the wait of those that pass.
SAID = {
    Reason.ACCESS_DENIED: ("access denied", None),
    Reason.SCOPE_REFUSED: ("the dev broker was told to refuse this scope", None),
    Reason.TTL_TOO_SHORT: ("less than 60 seconds are left for this credential", None),
    Reason.AGENT_DENIED: ("this certificate or agent is denied", None),
    Reason.NO_ROOM_TO_REVOKE: ("the provider could not end one more credential early", _MINUTE),
    Reason.RATE_LIMITED: ("too many requests", _SOON),
    Reason.STORE_UNAVAILABLE: ("the broker cannot write", _SOON),
    Reason.DRAINING: ("the broker is stopping; ask again", _SOON),
    Reason.EPOCH_LOST: ("the broker lost its right to write; ask again", _SOON),
}


@dataclass(kw_only=True, slots=True)
class Rig:
    """What is to be refused: by scope a reason, and how often still; None: until further notice."""

    _planned: dict[str, tuple[Reason, int | None]] = field(default_factory=dict)

    def plan(self, scope: str, reason: Reason, times: int | None) -> None:
        """In the place of what was planned for this scope."""
        self._planned[scope] = (reason, times)

    def allow(self, scope: str) -> None:
        """Nothing any more."""
        self._planned.pop(scope, None)

    def clear(self) -> None:
        """For no scope."""
        self._planned.clear()

    def take(self, scope: str, of: Callable[[Reason], bool]) -> Reason | None:
        """What this request meets, and one time less."""
        reason, times = self._planned.get(scope, (None, None))
        if reason is None or not of(reason):
            return None
        if times is not None:
            self._planned[scope] = (reason, times - 1)
            if times <= 1:
                self.allow(scope)
        return reason


class RiggedGuard(Guard):
    """The guard, and a row that is as far gone as somebody wants."""

    def __init__(self, rules: Callable[[Tier], TierRules], rig: Rig) -> None:
        super().__init__(rules)
        self._rig = rig
        self._real = rules

    def admit(self, tx: Tx, ask: GuardAsk, *, lease_id: str, now: Moment) -> GuardVerdict:
        """As ever; what is planned is brought about first."""
        reason = self._rig.take(str(ask.about["scope"]), GUARDS.__contains__)
        if reason is None:
            return super().admit(tx, ask, lease_id=lease_id, now=now)
        rules = _so_that(reason, self._real(ask.tier))
        row = tx.guard_row(ask.key) or GuardRow(
            key=ask.key, hour_key=ask.hour_key, tier=ask.tier.value, about=ask.about
        )
        if row.state in (GuardState.OPEN, GuardState.COOLING):
            ceiling = reason is Reason.CEILING
            row = replace(row, spent=0 if ceiling else rules.budget, failures=0, state=GuardState.OPEN, until=None)
            tx.put_guard_row(replace(row, admitted=rules.ceiling) if ceiling else row)
        return Guard(lambda _tier: rules).admit(tx, ask, lease_id=lease_id, now=now)


def _so_that(reason: Reason, rules: TierRules) -> TierRules:
    """Rules by which a used-up budget leads to this."""
    if reason is Reason.COOLING:
        return replace(rules, when_empty=WhenEmpty.COOL, refill=rules.refill or _MINUTE)
    return replace(rules, when_empty=WhenEmpty.LOCK, locks_to_hold=1 if reason is Reason.HELD else None)


class RiggedEngine(Engine):
    """The engine, and refusals of a request before it is looked at."""

    def __init__(self, core: Core, refusals: Refusals, door: FrontDoor, rig: Rig) -> None:
        super().__init__(core, refusals, door)
        self._rig = rig

    async def issue(self, agent: Agent, handle: str, asked: Asking) -> Delivered:
        """As ever, when nothing is planned: also for whom it is not, so that a stranger learns nothing new."""
        step = await self._core.step_of(agent, handle)
        if step.state is StepState.OPEN and asked.scope in step.scopes:
            reason = self._rig.take(asked.scope, SAID.__contains__)
            if reason is not None:
                text, after = SAID[reason]
                raise BrokerError(reason, text, retry_after=after, about=about(step, asked.scope))
        return await super().issue(agent, handle, asked)
