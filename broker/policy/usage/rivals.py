"""Is it narrower without? Where several grants give the same to the same, the strictest bounds of all of them hold.

Taking the stricter one away would widen. So a grant is narrowed only where no other one, that is laxer in anything or
fills a template differently, could answer in its place. Workflows and conditions are not counted on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations

from broker.model import Bind
from broker.policy.decision import Concurrent
from broker.policy.patterns import BINDING
from broker.policy.rules import Grant
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.suggestion import Suggestion


class Rivals:
    """Which grants could give what another one gives, and with laxer bounds."""

    def __init__(self, scope_map: ScopeMap, gone: Collection[str] = ()) -> None:
        """`gone`: grants that are taken away anyway."""
        self._map = scope_map
        self._of: dict[str, list[Grant]] = {name: [] for name in scope_map.scopes}
        for name, grant in scope_map.grants.items():
            for scope in grant.scopes if name not in gone else ():
                self._of[scope].append(grant)
        self._laxest: dict[str, _Bounds] = {scope: _laxest(grants) for scope, grants in self._of.items() if grants}

    def safe(self, grant: Grant, suggestion: Suggestion) -> bool:
        """May it stop matching as suggested, without any question being answered more laxly?"""
        key = suggestion.key
        if key == "max_step":
            return True  # matches as before, and the smallest counts
        touched = [name for name in grant.scopes if key != "scopes" or name not in suggestion.value]
        return all(self._alone(grant, scope) or self._no_worse(grant, scope, key) for scope in touched)

    def _alone(self, grant: Grant, scope: str) -> bool:
        """The quick answers: nobody is stricter, and it is filled from no captures."""
        if self._filled(scope):
            return False
        laxest = self._laxest.get(scope)
        return laxest is None or _Bounds.of(grant).laxer_or_same(laxest)

    def _no_worse(self, grant: Grant, scope: str, key: str) -> bool:
        """Whoever could answer in its place: no laxer bounds, and the same captures."""
        filled, own = self._filled(scope), _Bounds.of(grant)
        if filled and key == "workloads" and self._overlap_each_other(grant.workloads):
            return False
        for other in self._of[scope]:
            if other is grant or not self._overlap(grant.workloads, other.workloads):
                continue
            if not own.laxer_or_same(_Bounds.of(other)):
                return False
            if filled and (key == "workloads" or other.workloads != grant.workloads):
                return False
        return True

    def _filled(self, scope: str) -> bool:
        """From captures that may differ from workload to workload; workflow, run and step are what the step claims."""
        return bool(self._map.scopes[scope].variables - set(BINDING))

    def _overlap_each_other(self, names: Iterable[str]) -> bool:
        return any(self._overlap([one], [other]) for one, other in combinations(names, 2))

    def _overlap(self, some: Iterable[str], others: Iterable[str]) -> bool:
        """Could one certificate fit workloads of both?"""
        if set(some) & set(others):
            return True
        mine = [self._map.workloads[name].pattern for name in some]
        theirs = [self._map.workloads[name].pattern for name in others]
        return any(one.overlaps(other, lambda _name, _value: True) for one in mine for other in theirs)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bounds:
    """Of which the strictest of all matching grants hold."""

    max_step: timedelta
    approvals: int
    supersedes: bool
    any_key: bool

    @classmethod
    def of(cls, grant: Grant) -> _Bounds:
        return cls(
            max_step=grant.max_step,
            approvals=grant.approvals,
            supersedes=grant.concurrent is Concurrent.SUPERSEDE,
            any_key=grant.bind is Bind.IDENTITY,
        )

    def laxer_or_same(self, other: _Bounds) -> bool:
        """Then the other, alone, gives no more than both together."""
        return (
            self.max_step >= other.max_step
            and self.approvals <= other.approvals
            and (self.supersedes or not other.supersedes)
            and (self.any_key or not other.any_key)
        )


def _laxest(grants: Iterable[Grant]) -> _Bounds:
    found = [_Bounds.of(grant) for grant in grants]
    return _Bounds(
        max_step=max(one.max_step for one in found),
        approvals=min(one.approvals for one in found),
        supersedes=any(one.supersedes for one in found),
        any_key=any(one.any_key for one in found),
    )
