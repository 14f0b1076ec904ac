"""What the guard allows a tier, as numbers (DESIGN section 7). Set by a deployment, and above it by the scope map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from broker.config.values import Count, Duration
from broker.model import Tier


@dataclass(frozen=True, kw_only=True, slots=True)
class TierOverride:
    """What differs from the tier's defaults."""

    budget: Count | None = None  # credentials that may exist, per step and scope
    hourly: Count | None = None  # per workload and scope, in any rolling hour
    refill: Duration | None = None  # one attempt comes back in each such span
    lock: Duration | None = None
    cool_down: Duration | None = None  # the first one; each further one doubles
    max_cool_down: Duration | None = None
    ceiling_factor: Count | None = None  # admitted intents in a step's life, as a multiple of the budget

    def changes(self) -> dict[str, Any]:
        """What was set, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class Guard:
    """Overrides by tier."""

    low: TierOverride = field(default_factory=TierOverride)
    elevated: TierOverride = field(default_factory=TierOverride)
    high: TierOverride = field(default_factory=TierOverride)

    def of(self, tier: Tier) -> TierOverride:
        """Those of one."""
        found: TierOverride = getattr(self, tier.value)
        return found


_COMMON = {
    "lock": timedelta(hours=1),
    "cool_down": timedelta(seconds=10),
    "max_cool_down": timedelta(minutes=5),
    "ceiling_factor": 5,
}

TIER_DEFAULTS: Mapping[Tier, Mapping[str, Any]] = MappingProxyType(
    {
        Tier.LOW: {**_COMMON, "budget": 10, "hourly": 240, "refill": timedelta(minutes=1)},
        Tier.ELEVATED: {**_COMMON, "budget": 5, "hourly": 60, "refill": None},
        Tier.HIGH: {**_COMMON, "budget": 3, "hourly": 12, "refill": None},
    }
)


def part_of(shared_hourly: int) -> int:
    """What one workload gets of a limit over all agents: a quarter, and at least one."""
    return max(1, shared_hourly // 4)
