"""Who can have a scope, and what a certificate can have: every grant that ever allows it, and what takes part of it away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from broker.model import Bind
from broker.policy.analysis.cells import Cell, Stage, Walker
from broker.policy.analysis.seen import Seen, listed
from broker.policy.decision import AccessRequest, Allowed
from broker.policy.launch import Launcher
from broker.policy.patterns import Pattern, parse_pattern
from broker.policy.rules import Deny, Grant, Match, Scope, Workload
from broker.policy.scope_map import ScopeMap

_REASONS = {
    Stage.IDENTITY: "no certificate can fit it",
    Stage.CLAIMS: "every certificate that fits it must claim two different things at once",
    Stage.WORKFLOW: "no certificate that fits it says a workflow that the grant names",
    Stage.TEMPLATE: "what fills the scope's template is never fit for it",
    Stage.PROOF: "its definitions cannot be proven",
    Stage.TIME: "it is over, or never holds for as long as a lease lives",
    Stage.NETWORK: "no address is in its networks",
    Stage.ATTEMPT: "no attempt is one of its",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One grant to one workload that is allowed at least once."""

    scope: Scope
    grant: Grant
    workload: Workload
    workflows: tuple[str, ...] | None  # for which it is; None = any
    needs_launcher: bool  # never allowed on claims alone
    conditions: tuple[str, ...]
    exceptions: tuple[Deny, ...]  # that take part of it away
    approvals: int
    bind: Bind  # KEY: wherever it is allowed, only to the key of the step's first call
    witness: AccessRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Unused:
    """One grant to one workload that never allows it."""

    scope: str
    grant: Grant
    workload: Workload
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The answer, for all questions from `since` on about these scopes and certificates of this region."""

    scope_map: ScopeMap
    scopes: tuple[str, ...]
    region: Pattern | None  # None = all
    since: datetime
    entries: tuple[Entry, ...]
    unused: tuple[Unused, ...]
    launchers: tuple[Launcher, ...] = ()  # that a certificate of the region can be


def who_can(scope_map: ScopeMap, scope: str, now: datetime) -> Reach:
    """Everyone who can have a scope from `now` on. Raises KeyError for an unknown scope, TooManyCombinations."""
    _ = scope_map.scopes[scope]
    names = {name for grant in scope_map.grants.values() if scope in grant.scopes for name in grant.workloads}
    regions = [scope_map.workloads[name].pattern for name in sorted(names)]
    return _reach(scope_map, [(scope, region) for region in regions], None, now)


def what_can(scope_map: ScopeMap, agent: str, now: datetime) -> Reach:
    """All that a SPIFFE ID can have from `now` on; `*` stands for any segment.

    Raises ValueError for what is no ID of this map, TooManyCombinations.
    """
    region = parse_pattern(
        agent, trust_domain=scope_map.trust_domain, federates_with=scope_map.federates_with, wildcard=True
    )
    names = [workload.name for workload in scope_map.index.overlapping(region)]
    scopes = sorted({scope for name in names for scope in scope_map.index.scopes_of(name)})
    return _reach(scope_map, [(scope, region) for scope in scopes], region, now)


def _reach(scope_map: ScopeMap, regions: Iterable[tuple[str, Pattern]], region: Pattern | None, now: datetime) -> Reach:
    regions = tuple(regions)
    found = _Finder(scope_map)
    walker = Walker((scope_map,), since=now, note=found.note)
    for scope, part in regions:
        found.scope = scope
        for cell in walker.cells(scope, part):
            found.take(cell, walker.fresh.prefix)
    entries = tuple(found.entry(key) for key in sorted(found.seen))
    unused = [found.lost(key) for key in sorted(found.stages) if key not in found.seen]
    if region is None:
        scopes = {scope for scope, _ in regions}
        unused += [
            Unused(scope=scope, grant=grant, workload=scope_map.workloads[name], reason=_REASONS[Stage.IDENTITY])
            for grant in scope_map.grants.values()
            for scope in scopes.intersection(grant.scopes)
            for name in grant.workloads
            if (scope, grant.rule.name, name) not in found.stages
        ]
    launchers = [
        one
        for one in scope_map.launchers.all
        if region is not None and region.overlaps(one.pattern, lambda _name, _text: True)
    ]
    return Reach(
        scope_map=scope_map,
        scopes=tuple(dict.fromkeys(scope for scope, _ in regions)),
        region=region,
        since=now,
        entries=entries,
        unused=tuple(unused),
        launchers=tuple(sorted(launchers, key=lambda one: one.name)),
    )


Key = tuple[str, str, str]  # scope, rule of the grant, workload


@dataclass(slots=True)
class _Finder:
    """Collects what the cells show of each grant to each workload."""

    scope_map: ScopeMap
    scope: str = ""
    seen: dict[Key, Seen] = field(default_factory=dict)
    stages: dict[Key, Stage] = field(default_factory=dict)
    rules: dict[Key, tuple[Grant, Workload]] = field(default_factory=dict)
    any_key: set[Key] = field(default_factory=set)  # somewhere allowed to whatever key
    denies: dict[Key, dict[str, Deny]] = field(default_factory=dict)
    always: dict[Key, set[str]] = field(default_factory=dict)  # denies that deny it wherever it would be allowed

    def note(self, grant: Grant, match: Match, stage: Stage) -> None:
        key = (self.scope, grant.rule.name, match.workload.name)
        self.rules.setdefault(key, (grant, match.workload))
        self.stages[key] = max(stage, self.stages.get(key, Stage.IDENTITY))

    def take(self, cell: Cell, prefix: str) -> None:
        (state,) = cell.states
        decision = self.scope_map.decide(cell.request) if state.allows else None
        for grant, match in state.grants:
            key = (self.scope, grant.rule.name, match.workload.name)
            if isinstance(decision, Allowed):
                self.seen.setdefault(key, Seen(prefix=prefix, witness=cell.request)).add(cell)
                self.any_key |= {key} if decision.bind is Bind.IDENTITY else set()
            here = {deny.rule.name for deny in state.denies}
            self.always[key] = self.always.get(key, here) & here
            for deny in state.denies:
                self.denies.setdefault(key, {})[deny.rule.name] = deny

    def entry(self, key: Key) -> Entry:
        (grant, workload), seen = self.rules[key], self.seen[key]
        scope = self.scope_map.scopes[key[0]]
        return Entry(
            scope=scope,
            grant=grant,
            workload=workload,
            workflows=seen.named,
            needs_launcher=seen.proven == {True},
            conditions=tuple(seen.conditions(grant)),
            exceptions=tuple(self.denies.get(key, {}).values()),
            approvals=max(scope.approvals, grant.approvals),
            bind=Bind.IDENTITY if key in self.any_key else Bind.KEY,
            witness=seen.witness,
        )

    def lost(self, key: Key) -> Unused:
        grant, workload = self.rules[key]
        stage = self.stages[key]
        if stage is Stage.DENY:
            reason = f"denied by {listed(self.always[key] or {*self.denies[key]})}"
        else:
            reason = _REASONS[stage]
        return Unused(scope=key[0], grant=grant, workload=workload, reason=reason)
