"""The compiled parts of a scope map. Frozen; everything is checked before one of these is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.config import TierOverride
from broker.model import Bind, JsonValue, OnLock, Revocability, RuleRef, Tier
from broker.policy.decision import Concurrent, Denial
from broker.policy.patterns import Pattern
from broker.policy.windows import When


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A named certificate pattern and its owners."""

    name: str
    pattern: Pattern
    owners: tuple[str, ...]
    description: str
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """A thing that can be minted."""

    name: str
    provider: str
    block: Mapping[str, JsonValue]  # templates not filled
    variables: frozenset[str]  # used in the block
    ttl: timedelta
    max_ttl: timedelta
    tier: Tier
    revocability: Revocability
    residency: tuple[str, ...]
    approvals: int  # its own, or its tier's when that asks for more
    shared_hourly: int  # over all agents, in any rolling hour; 0 = no such limit
    on_lock: OnLock  # its tier's
    limits: TierOverride  # its tier's: what was approved under other ones is approved no more
    compensate: str  # its tier's
    powers: tuple[str, ...]  # of the provider, its role first
    description: str
    rule: RuleRef
    team: str = ""  # whose file declares it

    @property
    def role(self) -> tuple[str, str]:
        """The provider's, whatever name the scope gives it."""
        return self.provider, self.powers[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """Which workloads may have which scopes, under which conditions."""

    name: str
    position: int  # in file order, which decides between several that match
    workloads: tuple[str, ...]
    workflows: frozenset[str] | None  # None = any
    scopes: tuple[str, ...]
    digests: frozenset[str] | None  # None = any
    max_step: timedelta
    concurrent: Concurrent
    bind: Bind
    attempts: int | None  # for the first so many attempts of a step
    approvals: int
    when: When
    rule: RuleRef
    team: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deny:
    """What is refused whatever the grants say. None = everything."""

    name: str
    workloads: frozenset[str] | None
    workflows: frozenset[str] | None
    scopes: frozenset[str] | None
    digests: frozenset[str] | None
    when: When
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Never:
    """What no grant may give: this tier or above, these scopes; both when both are said."""

    name: str
    agents: Pattern
    tier: Tier | None
    scopes: frozenset[str] | None
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeTest:
    """One entry of `tests:`. None = taken from the certificate, or "test"."""

    agent: str
    ask: str
    expect: str  # allow, deny or approval
    at: datetime | None
    workflow: str | None
    run: str | None
    step: str | None
    proven: bool
    definition_digest: str
    reason: Denial | None
    address: str
    attempt: int
    rule: RuleRef


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """A workload that an agent's certificate fits, with what its captures took."""

    workload: Workload
    captures: Mapping[str, str]
