"""What a map is put together from, while it is compiled: the root's own parts, and those of each team's file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from broker.config import TierOverride
from broker.model import OnLock, Revocability, RuleRef, Tier
from broker.policy.launch import Launcher
from broker.policy.rules import Deny, Grant, Never, Scope, ScopeTest, Workload

TIER_ORDER = {tier: number for number, tier in enumerate(Tier)}


@dataclass(frozen=True, kw_only=True, slots=True)
class TierRule:
    """What the scopes of a tier must be, and what they ask for."""

    revocability: frozenset[Revocability]
    approvals: int
    longest_ttl: timedelta | None
    limits: TierOverride  # of the guard
    on_lock: OnLock
    compensate: str
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Team:
    """A team's file, and what may be in it."""

    name: str
    path: str  # relative to the file that names it
    scopes_prefix: str
    max_tier: Tier
    workloads: frozenset[str]
    roles: tuple[str, ...] | None  # None: those named with the prefix
    rule: RuleRef

    def may_use(self, power: str) -> bool:
        """May its scopes make use of this role or path of a provider?"""
        if self.roles is None:  # of an ARN the account and the path say whose it is, too: those are listed, or nobody's
            return ":" not in power and power.rsplit("/", 1)[-1].startswith(self.scopes_prefix)
        return any(power.startswith(one[:-1]) if one.endswith("*") else power == one for one in self.roles)


@dataclass(kw_only=True, slots=True)
class Parts:
    """By name. A team's scopes keep their names, its grants and denies are `team:name`."""

    residency: dict[str, frozenset[str]] = field(default_factory=dict)  # name → regions
    workloads: dict[str, Workload] = field(default_factory=dict)
    launchers: dict[str, Launcher] = field(default_factory=dict)
    scopes: dict[str, Scope] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    denies: dict[str, Deny] = field(default_factory=dict)
    nevers: dict[str, Never] = field(default_factory=dict)
    tiers: dict[str, TierRule] = field(default_factory=dict)
    teams: dict[str, Team] = field(default_factory=dict)
    tests: list[ScopeTest] = field(default_factory=list)
