"""Every scope that some grant gives to an agent, with the conditions in words. Pure, and bounded: agents ask for it free of charge.

Whether a scope would be given now is `decide`'s to say. Of deny rules only the name is told, as a refusal would tell it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.policy.problems import show
from broker.policy.rules import Deny, Grant, Match, Scope
from broker.policy.scope_map import ScopeMap
from broker.policy.templates import VALUE
from broker.policy.windows import ALWAYS, When

MAX_SCOPES = 200
MAX_GRANTS = 8  # of one scope
MAX_DENIES = 8  # of one scope
MAX_WORKFLOWS = 20  # of one grant
_NETWORKS = 10  # in words


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachingGrant:
    """What one grant says of a scope. Everything in it has to hold."""

    grant: Grant
    workload: str
    workflows: tuple[str, ...]  # () = any
    workflows_left_out: int
    approvals: int
    conditions: tuple[str, ...]  # in words


@dataclass(frozen=True, kw_only=True, slots=True)
class ReachableScope:
    """A scope, and what gives it."""

    scope: Scope
    grants: tuple[ReachingGrant, ...]  # in file order
    grants_left_out: int
    refused_by: tuple[str, ...]  # in words: deny rules that may refuse it


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """Scopes by name; `left_out`: so many more at the end."""

    scopes: tuple[ReachableScope, ...]
    left_out: int


def within_reach(scope_map: ScopeMap, agent: str, now: datetime) -> Reach:
    """What a SPIFFE ID could have, under whatever conditions."""
    matches = scope_map.index.matches(agent)
    names = scope_map.scopes_of(agent)
    scopes = tuple(_scope(scope_map, scope_map.scopes[name], matches, now) for name in names[:MAX_SCOPES])
    return Reach(scopes=scopes, left_out=len(names) - len(scopes))


def _scope(scope_map: ScopeMap, scope: Scope, matches: Sequence[Match], now: datetime) -> ReachableScope:
    index = scope_map.index
    pairs = [(grant, match) for match in matches for grant in index.grants_of(scope.name, match.workload.name)]
    pairs.sort(key=lambda pair: pair[0].position)
    denies = [deny for deny in index.denies_of(scope.name, matches) if _may_concern(deny, matches, now)]
    return ReachableScope(
        scope=scope,
        grants=tuple(_grant(grant, match, scope, matches, now) for grant, match in pairs[:MAX_GRANTS]),
        grants_left_out=max(0, len(pairs) - MAX_GRANTS),
        refused_by=tuple(map(_refusing, denies[:MAX_DENIES])),
    )


def _grant(grant: Grant, match: Match, scope: Scope, matches: Sequence[Match], now: datetime) -> ReachingGrant:
    workflows = sorted(grant.workflows or ())
    return ReachingGrant(
        grant=grant,
        workload=match.workload.name,
        workflows=tuple(workflows[:MAX_WORKFLOWS]),
        workflows_left_out=max(0, len(workflows) - MAX_WORKFLOWS),
        approvals=max(scope.approvals, grant.approvals),
        conditions=tuple(_conditions(grant, match, scope, matches, now)),
    )


def _conditions(grant: Grant, match: Match, scope: Scope, matches: Sequence[Match], now: datetime) -> Iterator[str]:
    """In the order in which `decide` looks at them."""
    for said in _captured("workflow", matches):
        if grant.workflows is not None and said not in grant.workflows:
            yield f"never with this certificate, which says workflow {show(said)}"
    if grant.digests is not None:
        yield "the workflow's definition is pinned: a launcher has to open the step"
    yield from _times(grant.when, now)
    if grant.when.networks is not None:
        named = ", ".join(map(str, grant.when.networks[:_NETWORKS]))
        more = len(grant.when.networks) - _NETWORKS
        yield f"for calls from {named}" + (f" and {more} more networks" if more > 0 else "")
    if grant.attempts is not None:
        yield f"for the first {grant.attempts} attempts of a step"
    for name in sorted(scope.variables):
        if name in match.captures and not VALUE.fullmatch(match.captures[name]):
            yield f"never with this certificate: its {name} must not fill {{{name}}}"
        elif name not in match.captures:
            yield f"a launcher has to open the step: the scope uses {{{name}}}"


def _times(when: When, now: datetime) -> Iterator[str]:
    if when.until is not None:
        yield f"{'until' if now < when.until else 'over since'} {when.until:%Y-%m-%d %H:%MZ}"
    if when.daily is not None:
        yield str(when.daily)


def _captured(name: str, matches: Sequence[Match]) -> list[str]:
    return sorted({match.captures[name] for match in matches if name in match.captures})


def _may_concern(deny: Deny, matches: Sequence[Match], now: datetime) -> bool:
    """Not one that is over, nor one for workflows that the certificate rules out."""
    if deny.when.until is not None and now >= deny.when.until:
        return False
    said = _captured("workflow", matches)
    return deny.workflows is None or not said or not deny.workflows.isdisjoint(said)


def _refusing(deny: Deny) -> str:
    conditional = deny.workflows is not None or deny.digests is not None or deny.when != ALWAYS
    return f"{deny.rule} refuses it" + (" under its conditions" if conditional else "")
