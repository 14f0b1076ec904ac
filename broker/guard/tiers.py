"""The three tiers as rules (DESIGN section 7). Their numbers are set by the deployment, and above it by the scope map."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any

from broker.config import TIER_DEFAULTS, TierOverride
from broker.config import Guard as GuardSettings
from broker.model import Tier

HOUR = timedelta(hours=1)
DAY = timedelta(hours=24)


class WhenEmpty(Enum):
    """What a request meets when the step's budget is used up."""

    COOL = "COOL"  # wait for the refill
    LOCK = "LOCK"


class AfterLock(Enum):
    """What a lock leads to."""

    RESTORE = "RESTORE"  # its end gives the budget back
    HOLD = "HOLD"  # any request after it was set waits for an operator


@dataclass(frozen=True, kw_only=True, slots=True)
class TierRules:
    """What one tier allows. Raises ValueError for rules that cannot work."""

    budget: int  # credentials that may exist, per step and scope
    hourly: int  # per workload and scope, in any rolling hour
    when_empty: WhenEmpty
    refill: timedelta | None = None  # one attempt comes back in each such span
    cool_from: int | None = None  # from this attempt on, each one is followed by a cool-down
    after_lock: AfterLock = AfterLock.RESTORE
    locks_to_hold: int | None = None  # the n-th lock in 24 h holds
    hour_exhaustions_to_hold: int | None = None  # the n-th in 24 h holds, at most one counted an hour
    lock: timedelta
    cool_down: timedelta
    max_cool_down: timedelta
    ceiling_factor: int  # admitted intents in a step's life, as a multiple of the budget

    def __post_init__(self) -> None:
        if self.budget < 1 or self.hourly < 1 or self.ceiling_factor < 1:
            raise ValueError("budget, hourly and ceiling_factor must be at least 1")
        if min(self.lock, self.cool_down, self.max_cool_down) <= timedelta(0):
            raise ValueError("lock, cool_down and max_cool_down must be longer than zero")
        if self.refill is not None and self.refill <= timedelta(0):
            raise ValueError("refill must be longer than zero")
        if self.when_empty is WhenEmpty.COOL and self.refill is None:
            raise ValueError("a budget that cools when empty needs a refill")  # else it would never end

    @property
    def ceiling(self) -> int:
        """Admitted intents of one key, failed ones included, after which it is refused for good."""
        return self.ceiling_factor * self.budget

    def cool_down_after(self, doublings: int) -> timedelta:
        """The cool-down doubled so often, at most `max_cool_down`."""
        factor: int = 2 ** min(max(doublings, 0), 20)
        return min(self.cool_down * factor, self.max_cool_down)


_KINDS: Mapping[Tier, Mapping[str, Any]] = {
    Tier.LOW: {"when_empty": WhenEmpty.COOL},
    Tier.ELEVATED: {"when_empty": WhenEmpty.LOCK, "cool_from": 2, "locks_to_hold": 2},
    Tier.HIGH: {"when_empty": WhenEmpty.LOCK, "after_lock": AfterLock.HOLD, "hour_exhaustions_to_hold": 3},
}

DEFAULT_RULES: Mapping[Tier, TierRules] = MappingProxyType(
    {tier: TierRules(**TIER_DEFAULTS[tier], **kind) for tier, kind in _KINDS.items()}
)


def configured(settings: GuardSettings) -> dict[Tier, TierRules]:
    """The defaults with what a deployment sets otherwise. Raises ValueError for rules that cannot work."""
    return {tier: replace(rules, **settings.of(tier).changes()) for tier, rules in DEFAULT_RULES.items()}


def rules_of(settings: GuardSettings, of_map: Callable[[Tier], TierOverride]) -> Callable[[Tier], TierRules]:
    """What counts today: the defaults, above them the deployment's numbers, above those the scope map's."""
    own = configured(settings)

    def rules(tier: Tier) -> TierRules:
        changes = of_map(tier).changes()
        return replace(own[tier], **changes) if changes else own[tier]

    return rules
