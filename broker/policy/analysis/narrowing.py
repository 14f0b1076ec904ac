"""Does a map that `extends` another one only narrow it? Compared by what both allow, for all time.

No clock is asked: a rule whose `until` is past counts as one that is not. So a map does not become good or bad by itself
as time goes by, and what a base no longer gives because it is over may be given by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import RuleRef, Tier
from broker.policy.analysis.changes import Change, Comparison, Kind, for_workflows, ordered
from broker.policy.analysis.launching import covers, launcher_owners
from broker.policy.analysis.limits import BUILT_IN, moves
from broker.policy.decision import Denial, Denied
from broker.policy.language.parts import TIER_ORDER, Team, TierRule
from broker.policy.problems import Problem
from broker.policy.rules import Never
from broker.policy.scope_map import ScopeMap

MAX_LOAD_QUESTIONS = 200_000  # some ten seconds: everybody's next map waits for it
_ONLY = "a map that extends another may only narrow it"


def widenings(base: ScopeMap, extending: ScopeMap) -> list[Problem]:
    """Every way in which the extending map allows more than its base, at the rule that is responsible; sorted.

    Raises TooManyCombinations: whether it only narrows cannot be said.
    """
    found = [*_structure(base, extending)]
    changes = ordered(Comparison(old=base, new=extending, since=None, limit=MAX_LOAD_QUESTIONS).changes())
    found += [_problem(base, _where(base, extending, one), _gives(one)) for one in changes if one.kind.widens]
    return sorted({*found})


def _where(base: ScopeMap, extending: ScopeMap, change: Change) -> RuleRef:
    """What was changed: the workload, the deny, else the rule that gives it."""
    if change.kind is not Kind.GAINED or change.witness is None:
        return change.rule
    own, other = extending.workloads[change.workload], base.workloads.get(change.workload)
    if other is None or other.pattern != own.pattern:
        return own.rule
    refused = base.decide(change.witness)
    if isinstance(refused, Denied) and refused.reason is Denial.DENY_RULE and refused.rule is not None:
        known = next((deny.rule for deny in extending.denies.values() if deny.rule.name == refused.rule.name), None)
        return known or _top(extending)
    return change.rule


def _top(extending: ScopeMap) -> RuleRef:
    return RuleRef(name="extends", file=extending.file, line=1)


def _gives(change: Change) -> str:
    who = f"scope {change.scope!r} to workload {change.workload!r}, {for_workflows(change)}"
    who += "".join(f", {one}" for one in change.conditions)
    if change.attribute:
        return f"widens it: {who}, with {change.attribute} {change.after} where it has {change.before}"
    return f"widens it: it gives {who}, which it refuses ({change.refused})"


def _problem(base: ScopeMap, rule: RuleRef, message: str) -> Problem:
    words = message.replace("widens it:", f"widens {base.file}:", 1)
    words = words.replace("where it has", f"where {base.file} has").replace(
        "which it refuses", f"which {base.file} refuses"
    )
    return Problem(file=rule.file, line=rule.line, column=rule.column, message=f"{words}; {_ONLY}")


# --- what is more than who gets what ---


def _structure(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    yield from _federations(base, extending)
    yield from _launchers(base, extending)
    yield from _nevers(base, extending)
    yield from _owners(base, extending)
    yield from _signers(base, extending)
    yield from _tiers(base, extending)
    yield from _teams(base, extending)
    yield from _residency(base, extending)


def _federations(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    for domain in sorted(extending.federates_with - base.federates_with):
        yield _problem(base, _top(extending), f"widens it: it federates with {domain!r}")


def _launchers(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    known = {launcher.name: launcher for launcher in base.launchers.all}
    for launcher in extending.launchers.all:
        other = known.get(launcher.name)
        if other is None or not covers(base, other, extending, launcher):
            message = "widens it: it may open steps for more than it"
            yield _problem(base, launcher.rule, message.replace("than it", f"than {base.file} says"))


def _nevers(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    for name, never in base.nevers.items():
        own = extending.nevers.get(name)
        if own is None and never.agents.trust_domain not in extending.index.trust_domains:
            continue  # of agents that can have nothing
        if own is None or _forbidden(own) != _forbidden(never):
            rule = own.rule if own else _top(extending)
            yield _problem(base, rule, f"widens it: it takes away or changes never {name!r}")


def _forbidden(never: Never) -> object:
    return (never.agents, never.tier, never.scopes)


def _owners(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    """An owner approves nothing of the own workload: fewer owners, more who may."""
    for name, workload in extending.workloads.items():
        other = base.workloads.get(name)
        gone = {*other.owners} - {*workload.owners} if other else set[str]()
        if gone:
            yield _problem(base, workload.rule, f"widens it: it takes owner {min(gone)!r} from the workload")

    before, after = launcher_owners(base), launcher_owners(extending)
    for shape in before.keys() & after.keys():
        own, launcher = after[shape]
        if lost := before[shape][0] - own:
            yield _problem(base, launcher.rule, f"widens it: it takes owner {min(lost)!r} from the launcher")


def _signers(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    if extending.signers_may_approve and not base.signers_may_approve:
        yield _problem(base, _top(extending), "widens it: it lets its signers approve under it")


def _tiers(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    for name, tier in base.tiers.items():
        own = extending.tiers.get(name)
        if own is None or not _strict(own, tier):
            yield _problem(base, _top(extending), f"widens it: tier {name} demands less")
    for one in Tier:
        before, after = base.tiers.get(one.value), extending.tiers.get(one.value)
        for move in moves(one, before, after, BUILT_IN):
            if move.wider:
                message = f"widens it: tier {one.value} has {move.attribute} {move.after} where it has {move.before}"
                yield _problem(base, after.rule if after else _top(extending), message)


def _strict(own: TierRule, other: TierRule) -> bool:
    longest = other.longest_ttl is None or (own.longest_ttl is not None and own.longest_ttl <= other.longest_ttl)
    return own.revocability <= other.revocability and own.approvals >= other.approvals and longest


def _teams(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    for name, team in extending.teams.items():
        other = base.teams.get(name)
        if other is None:
            yield _problem(base, team.rule, f"widens it: team {name} is new")
        elif not _bounded(team, other):
            yield _problem(base, team.rule, f"widens it: team {name} has wider bounds")


def _bounded(team: Team, other: Team) -> bool:
    if not team.scopes_prefix.startswith(other.scopes_prefix) or TIER_ORDER[team.max_tier] > TIER_ORDER[other.max_tier]:
        return False
    if not team.workloads <= other.workloads:
        return False
    if team.roles is None:
        # The prefix stands for the roles: it must not be another one, nor stand for what was listed.
        return other.roles is None and team.scopes_prefix.startswith(other.scopes_prefix)
    return all(_lent(other, role) for role in team.roles)


def _lent(team: Team, role: str) -> bool:
    """Every role that this one, perhaps with a * at its end, stands for."""
    if not role.endswith("*"):
        return team.may_use(role)
    if team.roles is None:
        return False
    return any(one.endswith("*") and role[:-1].startswith(one[:-1]) for one in team.roles)


def _residency(base: ScopeMap, extending: ScopeMap) -> Iterator[Problem]:
    """Where nothing is declared, nothing is held to it."""
    top = _top(extending)
    if base.residency and not extending.residency:
        yield _problem(base, top, "widens it: it takes residency away")
    for name, regions in extending.residency.items() if base.residency else ():
        if not regions <= base.residency.get(name, frozenset()):
            yield _problem(base, top, f"widens it: residency {name!r} has more regions")
    for name, scope in extending.scopes.items():
        other = base.scopes.get(name)
        if other and other.residency and not (scope.residency and {*scope.residency} <= {*other.residency}):
            yield _problem(base, scope.rule, f"widens it: the data of {name!r} may live in more places")
