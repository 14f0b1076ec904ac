"""Where two maps may differ: pairs of a scope and a region of certificates. What lies in none of them is the same in both.

Names, order, positions and descriptions of rules count for nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from broker.policy.patterns import BINDING, Pattern
from broker.policy.rules import Deny, Grant, Scope, Workload
from broker.policy.scope_map import ScopeMap

Region: TypeAlias = tuple[str, Pattern]


def changed_regions(old: ScopeMap, new: ScopeMap) -> tuple[Region, ...]:
    """In the order of scope and pattern."""
    found = {
        (scope, pattern.text): pattern
        for regions in (_by_scope(old, new), _by_grant(old, new), _by_workload(old, new), _by_deny(old, new))
        for scope, pattern in regions
    }
    return tuple((scope, pattern) for (scope, _), pattern in sorted(found.items(), key=lambda item: item[0]))


def _by_scope(old: ScopeMap, new: ScopeMap) -> Iterator[Region]:
    changed = {name for name in {**old.scopes, **new.scopes} if _scope(old, name) != _scope(new, name)}
    changed |= _reordered(old, new)
    if not changed:
        return
    for scope_map in (old, new):
        for grant in scope_map.grants.values():
            for scope in changed.intersection(grant.scopes):
                for name in grant.workloads:
                    yield scope, scope_map.workloads[name].pattern


def _by_grant(old: ScopeMap, new: ScopeMap) -> Iterator[Region]:
    for scope, name in _touched(old, new):
        if _given(old, scope, name) != _given(new, scope, name):
            for scope_map in (old, new):
                if name in scope_map.workloads:
                    yield scope, scope_map.workloads[name].pattern


def _touched(old: ScopeMap, new: ScopeMap) -> Iterator[tuple[str, str]]:
    """Pairs of the grants that are not the same in both."""
    before, after = ({_whole(grant): grant for grant in one.grants.values()} for one in (old, new))
    for mine, theirs in ((before, after), (after, before)):
        for key, grant in mine.items():
            if key not in theirs:
                yield from ((scope, name) for scope in grant.scopes for name in grant.workloads)


def _by_workload(old: ScopeMap, new: ScopeMap) -> Iterator[Region]:
    for name in {**old.workloads, **new.workloads}:
        before, after = old.workloads.get(name), new.workloads.get(name)
        if before and after and _identity(before) == _identity(after):
            continue
        for workload in (before, after):
            if workload is not None:
                yield from _given_in(old, new, workload.pattern)


def _by_deny(old: ScopeMap, new: ScopeMap) -> Iterator[Region]:
    """A deny of some workloads concerns only their certificates; one of all, those of every grant."""
    before, after = ({_denied(deny): deny for deny in one.denies.values()} for one in (old, new))
    changed = [deny for key, deny in (*before.items(), *after.items()) if (key in before) != (key in after)]
    for deny in changed:
        names = {**old.workloads, **new.workloads} if deny.workloads is None else deny.workloads
        for scope_map in (old, new):
            for name in names:
                if name in scope_map.workloads:
                    for scope, pattern in _given_in(old, new, scope_map.workloads[name].pattern):
                        if deny.scopes is None or scope in deny.scopes:
                            yield scope, pattern


def _given_in(old: ScopeMap, new: ScopeMap, region: Pattern) -> Iterator[Region]:
    """The parts of the region in which a grant gives something. One by one: all that overlap would be asked together."""
    for scope_map in (old, new):
        for workload in scope_map.index.overlapping(region):
            scopes = [*scope_map.index.scopes_of(workload.name)]
            part = _meeting(region, workload.pattern) if scopes else region
            for scope in scopes:
                yield scope, part


def _meeting(one: Pattern, other: Pattern) -> Pattern:
    """What matches both; they overlap."""
    pairs = zip(one.segments, other.segments, strict=True)
    segments = tuple(mine if isinstance(mine, str) else theirs for mine, theirs in pairs)
    text = "/".join(segment if isinstance(segment, str) else "*" for segment in segments)
    return Pattern(text=f"spiffe://{one.trust_domain}/{text}", trust_domain=one.trust_domain, segments=segments)


def _reordered(old: ScopeMap, new: ScopeMap) -> set[str]:
    """Scopes for which it matters which of several workloads comes first: for what is filled in, and who approves."""
    before, after = _orders(old), _orders(new)
    return {name for name in {**before, **after} if before.get(name) != after.get(name)}


def _orders(scope_map: ScopeMap) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for grant in sorted(scope_map.grants.values(), key=lambda grant: grant.position):
        for name in grant.scopes:
            scope = scope_map.scopes[name]
            if not scope.variables <= {*BINDING} or scope.approvals or grant.approvals:
                found.setdefault(name, []).append((sorted(grant.workloads), _conditions(grant)))
    return found


def _given(scope_map: ScopeMap, scope: str, workload: str) -> object:
    return frozenset(_conditions(grant) for grant in scope_map.index.grants_of(scope, workload))


def _whole(grant: Grant) -> object:
    return (_conditions(grant), frozenset(grant.workloads), frozenset(grant.scopes))


def _conditions(grant: Grant) -> object:
    bounds = (grant.max_step, grant.concurrent, grant.bind, grant.attempts, grant.approvals)
    return (grant.workflows, grant.digests, grant.when, *bounds)


def _denied(deny: Deny) -> object:
    return (deny.workloads, deny.workflows, deny.scopes, deny.digests, deny.when)


def _identity(workload: Workload) -> object:
    return (workload.pattern, frozenset(workload.owners))


def _scope(scope_map: ScopeMap, name: str) -> object:
    scope = scope_map.scopes.get(name)
    return None if scope is None else _minted(scope)


def _minted(scope: Scope) -> object:
    bounds = (scope.ttl, scope.max_ttl, scope.tier, scope.revocability, scope.approvals, scope.shared_hourly)
    return (scope.provider, repr(scope.block), *bounds)
