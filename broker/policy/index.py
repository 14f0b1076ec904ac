"""Look-ups of the compiled map: their cost does not grow with the number of rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broker.policy.patterns import Pattern, PatternIndex
from broker.policy.rules import Deny, Grant, Match, Scope, Workload

_KNOWN = 4096  # agents whose workloads are remembered; about 1 kB each


@dataclass(slots=True)
class Given:
    """The grants of one scope to one workload, in file order."""

    every: list[Grant] = field(default_factory=list)
    by_workflow: dict[str, list[Grant]] = field(default_factory=dict)
    any_workflow: list[Grant] = field(default_factory=list)

    def of(self, workflow: str) -> list[Grant]:
        """Those that name this workflow, and those for any."""
        named = self.by_workflow.get(workflow)
        return named + self.any_workflow if named else self.any_workflow


class Index:
    """Grants by (scope, workload, workflow), denies by (scope, workload), workloads by certificate pattern."""

    def __init__(
        self,
        *,
        trust_domains: frozenset[str],
        workloads: Iterable[Workload],
        scopes: Mapping[str, Scope],
        grants: Iterable[Grant],
        denies: Iterable[Deny],
    ) -> None:
        self.trust_domains = trust_domains  # the map's own, and those that it federates with
        self.scopes = scopes
        self.grants = tuple(grants)
        self._patterns: PatternIndex[Workload] = PatternIndex()
        self._matches: dict[str, tuple[Match, ...]] = {}
        self._grants: dict[tuple[str, str], Given] = {}
        self._scopes_of: dict[str, dict[str, None]] = {}
        self._first_grant: dict[str, Grant] = {}
        self._denies: dict[tuple[str | None, str | None], list[tuple[int, Deny]]] = {}
        for workload in workloads:
            self._patterns.add(workload.pattern, workload)
        for grant in self.grants:
            self._add_grant(grant)
        for number, deny in enumerate(denies):
            for scope in deny.scopes or (None,):
                for name in deny.workloads or (None,):
                    self._denies.setdefault((scope, name), []).append((number, deny))

    def _add_grant(self, grant: Grant) -> None:
        for name in grant.workloads:
            self._first_grant.setdefault(name, grant)
            for scope in grant.scopes:
                self._scopes_of.setdefault(name, {})[scope] = None
                found = self._grants.setdefault((scope, name), Given())
                found.every.append(grant)
                if grant.workflows is None:
                    found.any_workflow.append(grant)
                for workflow in grant.workflows or ():
                    found.by_workflow.setdefault(workflow, []).append(grant)

    def matches(self, agent: str) -> tuple[Match, ...]:
        """The workloads of a certificate, by name. Remembered under the whole name: nothing here ever changes."""
        known = self._matches.get(agent)
        if known is not None:
            return known
        found = [Match(workload=workload, captures=captures) for workload, captures in self._patterns.match(agent)]
        found.sort(key=lambda match: match.workload.name)
        if len(self._matches) >= _KNOWN:
            self._matches.clear()
        matches = self._matches[agent] = tuple(found)
        return matches

    def overlapping(self, pattern: Pattern) -> tuple[Workload, ...]:
        """The workloads of which some certificate that the pattern matches could be; by name."""
        return tuple(sorted(self._patterns.overlapping(pattern), key=lambda workload: workload.name))

    def given(self, scope: str, workload: str) -> Given | None:
        """What gives a scope to a workload; None: no grant does."""
        return self._grants.get((scope, workload))

    def grants_of(self, scope: str, workload: str) -> list[Grant]:
        """In file order, whatever their workflows."""
        found = self._grants.get((scope, workload))
        return found.every if found else []

    def grants_for(self, scope: str, workload: str, workflow: str) -> list[Grant]:
        """Those that name this workflow, and those for any."""
        found = self._grants.get((scope, workload))
        return found.of(workflow) if found else []

    def first_grant_of(self, workloads: Iterable[str]) -> Grant | None:
        """The first in the file that names one of them, whatever it gives."""
        found = [self._first_grant[name] for name in workloads if name in self._first_grant]
        return min(found, key=lambda grant: grant.position, default=None)

    def scopes_of(self, workload: str) -> Iterable[str]:
        """What some grant gives to a workload."""
        return self._scopes_of.get(workload, {})

    def denies_of(self, scope: str, matches: Iterable[Match]) -> list[Deny]:
        """Denies that could concern this scope and these workloads, in file order."""
        if not self._denies:
            return []
        names = [match.workload.name for match in matches]
        keys = [(s, w) for s in (scope, None) for w in (*names, None)]
        found = {number: deny for key in keys for number, deny in self._denies.get(key, ())}
        return [found[number] for number in sorted(found)]
