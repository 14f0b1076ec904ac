"""Which rules of a map its own tests exercise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from broker.model import RuleRef
from broker.policy.decide import weigh
from broker.policy.decision import AccessRequest, Allowed, Denial
from broker.policy.expectations import Outcome
from broker.policy.language.never import forbids
from broker.policy.patterns import PatternIndex
from broker.policy.rules import Never
from broker.policy.scope_map import ScopeMap


class Kind(Enum):
    """What is counted."""

    GRANTS = "grants"
    DENIES = "denies"
    NEVERS = "nevers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One rule."""

    kind: Kind
    rule: RuleRef
    covered: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Every grant, deny and never."""

    parts: tuple[Part, ...]

    def count(self, kind: Kind | None = None) -> tuple[int, int]:
        """How many are covered, and how many there are; of one kind or of all."""
        found = [part.covered for part in self.parts if kind is None or part.kind is kind]
        return sum(found), len(found)

    def reaches(self, percent: int) -> bool:
        """Is at least so much covered? A map without rules is covered."""
        covered, there = self.count()
        return covered * 100 >= percent * there

    @property
    def missing(self) -> tuple[Part, ...]:
        """In order of position."""
        found = [part for part in self.parts if not part.covered]
        return tuple(sorted(found, key=lambda part: (part.rule.file, part.rule.line, part.rule.column)))


def coverage(scope_map: ScopeMap, outcomes: Iterable[Outcome]) -> Coverage:
    """What passing tests show.

    A grant: some test is allowed, and this grant is one of those that match. A deny: some test is refused by it. A never:
    some test with `expect: deny` asks for what it forbids, as an agent to whom it forbids it.
    """
    passed = [outcome for outcome in outcomes if outcome.passed]
    allowed = {
        name for one in passed if isinstance(one.decision, Allowed) for name in _matching(scope_map, one.request)
    }
    refused = [one for one in passed if not isinstance(one.decision, Allowed)]
    denies = {one.decision.rule for one in refused if _by_a_deny(one)}
    nevers = {name for one in refused for name in _forbidding(scope_map, one.request)}
    parts = [
        Part(kind=Kind.GRANTS, rule=one.rule, covered=one.position in allowed) for one in scope_map.grants.values()
    ]
    parts += [Part(kind=Kind.DENIES, rule=one.rule, covered=one.rule in denies) for one in scope_map.denies.values()]
    parts += [Part(kind=Kind.NEVERS, rule=one.rule, covered=one.name in nevers) for one in scope_map.nevers.values()]
    return Coverage(parts=tuple(parts))


def _matching(scope_map: ScopeMap, request: AccessRequest) -> Iterator[int]:
    """Positions of the grants that allow it."""
    index, scope = scope_map.index, scope_map.scopes[request.scope]
    for match in index.matches(request.agent):
        for grant in index.grants_for(scope.name, match.workload.name, request.workflow):
            if not weigh(grant, match, scope, request).failures:
                yield grant.position


def _by_a_deny(outcome: Outcome) -> bool:
    decision = outcome.decision
    return not isinstance(decision, Allowed) and decision.reason is Denial.DENY_RULE


def _forbidding(scope_map: ScopeMap, request: AccessRequest) -> Iterator[str]:
    index: PatternIndex[Never] = PatternIndex()
    for never in scope_map.nevers.values():
        if forbids(never, scope_map.scopes[request.scope]):
            index.add(never.agents, never)
    for never, _ in index.match(request.agent):
        yield never.name
