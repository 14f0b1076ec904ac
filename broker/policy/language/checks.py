"""What no entry can say alone: scopes against their tiers and residencies, grants against owners, templates and nevers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from broker.model import RuleRef, ScopeKind, Weakens
from broker.policy.durations import format_duration
from broker.policy.language.never import violations
from broker.policy.language.parts import Parts
from broker.policy.language.reader import Reader
from broker.policy.patterns import BINDING
from broker.policy.problems import Problem, did_you_mean, show
from broker.policy.rules import Grant, Scope

MAX_PAIRS = 1_000_000  # (scope, workload) pairs of all grants: what the index holds in memory
MAX_TEAMS = 200


def at(rule: RuleRef, message: str) -> Problem:
    """A mistake of this rule."""
    return Problem(file=rule.file, line=rule.line, column=rule.column, message=message)


def bounded(parts: Parts, grants: Iterable[Grant]) -> bool:
    """Does the index stay small enough with these grants as well?"""
    every = (*parts.grants.values(), *grants)
    return sum(len(grant.scopes) * len(grant.workloads) for grant in every) <= MAX_PAIRS


def scope_problems(parts: Parts, scopes: Iterable[Scope], kinds: Mapping[str, ScopeKind]) -> Iterator[Problem]:
    """A scope that cannot be ended as its tier demands, lives longer, or may leave where its data lives."""
    for scope in scopes:
        tier = parts.tiers.get(scope.tier.value)
        if tier and scope.revocability not in tier.revocability:
            listed = ", ".join(sorted(one.value for one in tier.revocability))
            why = _why_weaker(scope, kinds[scope.provider])
            yield at(scope.rule, f"is {scope.revocability.value}{why}, and tier {scope.tier.value} takes only {listed}")
        if tier and tier.longest_ttl and scope.ttl > tier.longest_ttl:
            longest = format_duration(tier.longest_ttl)
            yield at(scope.rule, f"ttl {format_duration(scope.ttl)}: tier {scope.tier.value} takes at most {longest}")
        if parts.residency:
            yield from _residency(parts, scope, kinds)


def _why_weaker(scope: Scope, kind: ScopeKind) -> str:
    why = kind.why_weaker(scope.block) if isinstance(kind, Weakens) else ""
    return f" ({why})" if why else ""


def _residency(parts: Parts, scope: Scope, kinds: Mapping[str, ScopeKind]) -> Iterator[Problem]:
    """Once places are declared, what is said of them holds."""
    unknown = [name for name in scope.residency if name not in parts.residency]
    for name in unknown:
        yield at(scope.rule, f"no residency is named {show(name)}{did_you_mean(name, parts.residency)}")
    regions = kinds[scope.provider].regions(scope.block)
    if unknown or not scope.residency or regions is None:
        return
    where = ", ".join(scope.residency)
    inside = frozenset[str]().union(*(parts.residency[name] for name in scope.residency))
    if not regions:
        yield at(scope.rule, f"its data lives in {where}, and it may be used in any region; name its regions")
    for region in regions:
        if region not in inside:
            yield at(scope.rule, f"region {region} is not in {where}, where its data lives")


def owner_problems(parts: Parts, reader: Reader, grants: Iterable[Grant]) -> None:
    """Who approves must not be the owner: so where approval is asked for, somebody must be."""
    for grant in grants:
        asking = [parts.scopes[name] for name in grant.scopes if name in parts.scopes]
        if not grant.approvals and not any(scope.approvals for scope in asking):
            continue
        scope = next((scope.name for scope in asking if scope.approvals), grant.scopes[0])
        for number, name in enumerate(grant.workloads):
            if name in parts.workloads and not parts.workloads[name].owners:
                message = f"{show(scope)} needs approval, and workload {show(name)} has no owners who could not give it"
                reader.complain(("grants", grant.name, "workloads", number), message)


def template_problems(parts: Parts, reader: Reader, grants: Iterable[Grant]) -> None:
    """A template may use what each workload's certificate says, or what a launcher can say."""
    for grant in grants:
        for number, scope in enumerate(parts.scopes[name] for name in grant.scopes if name in parts.scopes):
            for workload in (parts.workloads[name] for name in grant.workloads if name in parts.workloads):
                for name in sorted(scope.variables - {*workload.pattern.captures, *BINDING}):
                    message = f"scope {show(scope.name)} uses {{{name}}}, which workload {show(workload.name)} does not capture"
                    reader.complain(("grants", grant.name, "scopes", number), message)


def never_problems(parts: Parts, grants: Iterable[Grant], *, of_team: bool = False) -> Iterator[Problem]:
    """Said at the `never` that is broken; of a team's grant at the grant, since the team cannot read the root's file."""
    for never, grant, what in violations(parts.nevers.values(), grants, parts.workloads, parts.scopes):
        if of_team:
            yield at(grant.rule, f"breaks never {never.rule}: it can give {what}")
        else:
            yield at(never.rule, f"never {never.name!r} is broken by grant {grant.rule}: it can give {what}")
