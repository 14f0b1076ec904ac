"""The three tiers as numbers (DESIGN section 7). Defaults; a deployment may configure each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from types import MappingProxyType

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
    lock: timedelta = HOUR
    cool_down: timedelta = timedelta(seconds=10)  # the first one; each further one doubles
    max_cool_down: timedelta = timedelta(minutes=5)
    ceiling_factor: int = 5  # admitted intents in a step's life, as a multiple of the budget

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


DEFAULT_RULES: Mapping[Tier, TierRules] = MappingProxyType(
    {
        Tier.LOW: TierRules(budget=10, hourly=240, when_empty=WhenEmpty.COOL, refill=timedelta(minutes=1)),
        Tier.ELEVATED: TierRules(budget=5, hourly=60, when_empty=WhenEmpty.LOCK, cool_from=2, locks_to_hold=2),
        Tier.HIGH: TierRules(
            budget=3,
            hourly=12,
            when_empty=WhenEmpty.LOCK,
            after_lock=AfterLock.HOLD,
            hour_exhaustions_to_hold=3,
        ),
    }
)


def configured(settings: GuardSettings) -> dict[Tier, TierRules]:
    """The defaults with what a deployment sets otherwise. Raises ValueError for rules that cannot work."""
    return {tier: replace(rules, **getattr(settings, tier.value).changes()) for tier, rules in DEFAULT_RULES.items()}
