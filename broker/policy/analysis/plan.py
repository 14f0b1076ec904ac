"""What a change of the scope map does: who gains or loses what, which bounds move. Semantic, exact, deterministic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from broker.config import Guard
from broker.model import JsonValue, RuleRef, Tier
from broker.policy.analysis.cells import MAX_QUESTIONS
from broker.policy.analysis.changes import Change, Comparison, Kind, for_workflows, ordered
from broker.policy.analysis.launching import launcher_changes, owner_changes
from broker.policy.analysis.limits import BUILT_IN, moves
from broker.policy.analysis.seen import listed
from broker.policy.decision import AccessRequest
from broker.policy.durations import format_duration
from broker.policy.language.parts import TIER_ORDER, Team, TierRule
from broker.policy.scope_map import ScopeMap

_SUMMARY = 20  # lines in a journal record; the first ones say enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All changes, those that widen first."""

    changes: tuple[Change, ...]

    @property
    def widens(self) -> bool:
        """Is anything possible that was not?"""
        return any(change.kind.widens for change in self.changes)

    def widens_tier(self, tier: Tier) -> bool:
        """Is more possible with a scope that is, or was, of this tier or above?"""
        return any(
            change.kind.widens and any(one is not None and TIER_ORDER[one] >= TIER_ORDER[tier] for one in change.tiers)
            for change in self.changes
        )

    def counts(self) -> dict[str, int]:
        """How many changes of each kind."""
        found = Counter(change.kind.value for change in self.changes)
        return {kind.value: found[kind.value] for kind in Kind}

    def lines(self) -> list[str]:
        """One for each change, plain text."""
        return [line(change) for change in self.changes]

    def summary(self) -> JsonValue:
        """Small, for the journal."""
        lines = self.lines()
        return {
            "widens": self.widens,
            "widens_high": self.widens_tier(Tier.HIGH),
            "counts": self.counts(),
            "lines": lines[:_SUMMARY],
            "more": max(0, len(lines) - _SUMMARY),
        }

    def to_json(self) -> Mapping[str, JsonValue]:
        """For `--json`; keys are stable."""
        return {
            "widens": self.widens,
            "widens_high": self.widens_tier(Tier.HIGH),
            "counts": self.counts(),
            "changes": [change_json(change) for change in self.changes],
        }


def plan(old: ScopeMap, new: ScopeMap, now: datetime, *, limit: int = MAX_QUESTIONS, site: Guard = BUILT_IN) -> Plan:
    """Compare what the maps allow from `now` on, with at most `limit` questions. Raises TooManyCombinations.

    `site`: the guard's numbers by a broker's config, where a map says nothing.
    """
    compared = Comparison(old=old, new=new, since=now, limit=limit).changes()
    found = [*compared]
    told = {change.scope for change in found if change.attribute == "tier"}
    relabelled = (one for one in _relabelled(old, new) if one.scope not in told)
    launching = (*launcher_changes(old, new), *owner_changes(old, new))
    rest = (*_limits(old, new, site), *launching, *_signers(old, new), *_notes(old, new))
    return Plan(changes=ordered((*found, *relabelled, *rest)))


def _signers(old: ScopeMap, new: ScopeMap) -> Iterator[Change]:
    """Whether those who sign a map may approve under it: of whatever tier needs approval."""
    before, after = old.signers_may_approve, new.signers_may_approve
    if before != after:
        yield Change(
            kind=Kind.LOOSENED if after else Kind.TIGHTENED,
            rule=RuleRef(name="approvals", file=new.file, line=1),
            attribute="signers",
            before="allow" if before else "refuse",
            after="allow" if after else "refuse",
            tiers=(Tier.HIGH, Tier.HIGH),
        )


def _limits(old: ScopeMap, new: ScopeMap, site: Guard) -> Iterator[Change]:
    """Of the tiers, also where nobody has a scope of them yet: the next grant counts on them."""
    for tier in Tier:
        before, after = old.tiers.get(tier.value), new.tiers.get(tier.value)
        known = after or before
        for one in moves(tier, before, after, site):
            yield Change(
                kind=Kind.LOOSENED if one.wider else Kind.TIGHTENED,
                rule=known.rule if known else RuleRef(name="tiers", file=new.file, line=0),
                attribute=f"tier {tier.value} {one.attribute}",
                before=one.before,
                after=one.after,
                tiers=(tier, tier),
            )


def _relabelled(old: ScopeMap, new: ScopeMap) -> Iterator[Change]:
    """A tier that falls, also where nobody has the scope yet: or it would be high no more when it is granted next."""
    for name in sorted(old.scopes.keys() & new.scopes.keys()):
        before, after = old.scopes[name], new.scopes[name]
        if TIER_ORDER[after.tier] < TIER_ORDER[before.tier]:
            yield Change(
                kind=Kind.LOOSENED,
                rule=after.rule,
                scope=name,
                attribute="tier",
                before=before.tier.value,
                after=after.tier.value,
                tiers=(before.tier, after.tier),
            )


def line(change: Change) -> str:
    """A sentence."""
    where = f" ({change.rule})"
    if not change.scope and not change.workload:
        return f"{change.kind.value}: {_moved(change)}{where if change.rule.line else ''}"
    conditions = "".join(f", {one}" for one in change.conditions)
    if change.scope and not change.workload:
        return f"{change.kind.value}: {change.scope}, which nobody has: {_moved(change)}{where}"
    if change.attribute == "launch":
        verb = "may open" if change.kind is Kind.GAINED else "may no longer open"
        who = f"launcher {change.pattern} {verb} steps for {change.workload}"
        return f"{change.kind.value}: {who}, {for_workflows(change)}{conditions}{where}"
    who = f"{change.scope} for {change.workload} {change.pattern}, {for_workflows(change)}{conditions}"
    bound = f": {_moved(change)}" if change.attribute else ""
    return f"{change.kind.value}: {who}{bound}{where}"


def _moved(change: Change) -> str:
    return f"{change.attribute} {change.before} → {change.after}"


def change_json(change: Change) -> JsonValue:
    """One change."""
    return {
        "kind": change.kind.value,
        "widens": change.kind.widens,
        "scope": change.scope,
        "workload": change.workload,
        "pattern": change.pattern,
        "workflows": None if change.workflows is None else [*change.workflows],
        "workflows_but": [*change.but],
        "attribute": change.attribute,
        "before": change.before,
        "after": change.after,
        "conditions": [*change.conditions],
        "refused_otherwise": change.refused,
        "tiers": [tier.value if tier else None for tier in change.tiers],
        "rule": rule_json(change.rule),
        "example": None if change.witness is None else question_json(change.witness),
    }


def question_json(asked: AccessRequest) -> JsonValue:
    """A question, so that it can be asked again."""
    return {
        "agent": asked.agent,
        "workflow": asked.workflow,
        "run": asked.run,
        "step": asked.step,
        "at": asked.now.isoformat(),
        "proven": asked.proven,
        "definition_digest": asked.definition_digest,
        "address": asked.address,
        "attempt": asked.attempt,
    }


def rule_json(rule: RuleRef) -> JsonValue:
    """Where it stands."""
    return {"name": rule.name, "file": rule.file, "line": rule.line, "column": rule.column}


# --- what is said of the map as a whole ---


def _notes(old: ScopeMap, new: ScopeMap) -> Iterator[Change]:
    for attribute in ("environment", "trust_domain", "federates_with"):
        heads = getattr(old, attribute), getattr(new, attribute)
        if heads[0] != heads[1]:
            was, is_now = (one if isinstance(one, str) else listed({*one}) or "none" for one in heads)
            yield _note(RuleRef(name=attribute, file=new.file, line=1), attribute, was, is_now)
    for section in ("tiers", "teams", "nevers", "residency"):
        before, after = _described(old, section), _described(new, section)
        for name in sorted({**before, **after}):
            if before.get(name) != after.get(name):
                known = getattr(new, section).get(name) or getattr(old, section)[name]
                rule = getattr(known, "rule", RuleRef(name=f"{section}.{name}", file=new.file, line=0))
                label = f"{section.removesuffix('s')} {name}"
                found = _note(rule, label, before.get(name, "none"), after.get(name, "none"))
                # A never that goes gives nothing to anybody, and lets the next map give it: two people take it away.
                yield (
                    replace(found, kind=Kind.LOOSENED, tiers=(Tier.HIGH, None)) if _never(section, name, old) else found
                )


def _never(section: str, name: str, old: ScopeMap) -> bool:
    return section == "nevers" and name in old.nevers


def _note(rule: RuleRef, attribute: str, before: str, after: str) -> Change:
    return Change(kind=Kind.NOTE, rule=rule, attribute=attribute, before=before, after=after)


def _described(scope_map: ScopeMap, section: str) -> dict[str, str]:
    if section == "tiers":
        return {name: _tier(tier) for name, tier in scope_map.tiers.items()}
    if section == "teams":
        return {name: _team(team) for name, team in scope_map.teams.items()}
    if section == "nevers":
        return {
            name: f"{never.agents.text}, tier {never.tier.value if never.tier else 'any'}, "
            f"scopes {listed({*never.scopes}) if never.scopes is not None else 'any'}"
            for name, never in scope_map.nevers.items()
        }
    return {name: listed({*regions}) for name, regions in scope_map.residency.items()}


def _tier(tier: TierRule) -> str:
    longest = format_duration(tier.longest_ttl) if tier.longest_ttl else "any"
    return f"{listed({one.value for one in tier.revocability})}, approvals {tier.approvals}, ttl up to {longest}"


def _team(team: Team) -> str:
    roles = listed({*team.roles}) if team.roles is not None else "with the prefix"
    return f"{team.scopes_prefix}…, up to {team.max_tier.value}, workloads {listed({*team.workloads})}, roles {roles}"
