"""A compiled scope map: immutable, indexed, and the only thing that decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.config import TierOverride
from broker.model import RuleRef, Tier
from broker.policy.decide import decide
from broker.policy.decision import AccessRequest, Decision
from broker.policy.index import Index
from broker.policy.language.parts import Team, TierRule
from broker.policy.launch import Launch, Launchers
from broker.policy.rules import Deny, Grant, Never, Scope, ScopeTest, Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeMap:
    """What `load` returns. A new file makes a new one; nothing in it ever changes."""

    file: str
    digest: str  # SHA-256 over the names and bytes of all its files, hex
    environment: str
    trust_domain: str
    federates_with: frozenset[str]  # further trust domains, of which agents may be
    signers_may_approve: bool  # what is asked for under this map
    workloads: Mapping[str, Workload]
    scopes: Mapping[str, Scope]
    grants: Mapping[str, Grant]
    denies: Mapping[str, Deny]
    nevers: Mapping[str, Never]
    tiers: Mapping[str, TierRule]
    teams: Mapping[str, Team]
    residency: Mapping[str, frozenset[str]]  # name → regions
    tests: tuple[ScopeTest, ...]
    index: Index
    launchers: Launchers

    def limits(self, tier: Tier) -> TierOverride:
        """What the map says of a tier's numbers for the guard."""
        rule = self.tiers.get(tier.value)
        return rule.limits if rule is not None else TierOverride()

    def decide(self, request: AccessRequest) -> Decision:
        """Allowed or Denied, with the reason. Pure, total."""
        return decide(self.index, request)

    def may_launch(self, asked: Launch) -> RuleRef | None:
        """The rule by which this launcher may open this step for this agent; None when there is none."""
        return self.launchers.allows(asked, self.index.matches(asked.agent))

    def workloads_of(self, agent: str) -> tuple[tuple[str, Mapping[str, str]], ...]:
        """The workloads that a SPIFFE ID fits, by name, with what their captures took."""
        return tuple((match.workload.name, match.captures) for match in self.index.matches(agent))

    def owners_of(self, workload: str, launcher: str) -> frozenset[str]:
        """Who approves and resets nothing of this workload's steps, opened by this SPIFFE ID; "" when by its own agent."""
        known = self.workloads.get(workload)
        return frozenset(known.owners if known else ()) | self.launchers.owners_of(launcher)

    def scopes_of(self, agent: str) -> tuple[str, ...]:
        """Every scope that some grant gives to this agent, under whatever conditions; sorted."""
        return tuple(sorted({s for m in self.index.matches(agent) for s in self.index.scopes_of(m.workload.name)}))
