"""Workloads: named by nobody, owned by nobody, the same certificates twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from broker.model import Tier
from broker.policy.lint.finding import Finding, Level, Rule, at, listed
from broker.policy.lint.subject import Subject
from broker.policy.patterns import Capture, Pattern
from broker.policy.problems import show
from broker.policy.rules import Workload

UNUSED = Rule(
    id="unused-workload",
    level=Level.WARNING,
    title="A workload that no grant names",
    help="Grant it something, or remove it.",
)
NO_OWNERS = Rule(
    id="high-without-owners",
    level=Level.WARNING,
    title="High scopes for a workload that nobody owns",
    help="Name owners: they are who is asked when a step is held, and who may not approve for themselves.",
)
DUPLICATE = Rule(
    id="duplicate-workload",
    level=Level.WARNING,
    title="Two workloads for the same certificates",
    help="Keep one: every certificate that fits one fits the other, so it has the grants of both.",
)
OVERLAP = Rule(
    id="overlapping-workloads",
    level=Level.NOTE,
    title="Two workloads that one certificate can fit",
    help="Such a certificate has the grants of both, and what either captures as workflow, run or step binds its claims. "
    "If that is not meant, let their ids differ in a literal segment.",
)

RULES = (UNUSED, NO_OWNERS, DUPLICATE, OVERLAP)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    workloads = subject.map.workloads
    scopes = subject.map.scopes
    using = {name for grant in subject.map.grants.values() for name in grant.workloads}
    for workload in workloads.values():
        if workload.name not in using:
            yield at(workload.rule, UNUSED, f"no grant names workload {show(workload.name)}")
        given = subject.map.index.scopes_of(workload.name)
        high = [show(name) for name in given if scopes[name].tier is Tier.HIGH]
        if high and not workload.owners:
            yield at(workload.rule, NO_OWNERS, f"workload {show(workload.name)} has no owners, and gets {listed(high)}")
    yield from _overlaps(list(workloads.values()))


def _overlaps(workloads: list[Workload]) -> Iterator[Finding]:
    """At the later one of each pair."""
    tree = _Tree()
    for workload in workloads:
        found = list(tree.overlapping(workload.pattern))
        same = [other for other in found if _shape(other.pattern) == _shape(workload.pattern)]
        if same:
            yield at(
                workload.rule, DUPLICATE, f"workload {show(workload.name)} fits the same certificates as {same[0].rule}"
            )
        else:
            names = [show(other.name) for other in found]
            message = f"a certificate can fit {show(workload.name)} and {listed(names)}"
            yield from [at(workload.rule, OVERLAP, message)] * bool(names)
        tree.add(workload)


def _shape(pattern: Pattern) -> tuple[str | None, ...]:
    """The trust domain, then the segments."""
    segments = (None if isinstance(segment, Capture) else segment for segment in pattern.segments)
    return (pattern.trust_domain, *segments)


@dataclass(slots=True)
class _Tree:
    """Patterns by their segments, so that the cost grows with the overlaps, not with the pairs."""

    children: dict[str | None, _Tree] = field(default_factory=dict)  # None: any text
    ends: list[Workload] = field(default_factory=list)

    def add(self, workload: Workload) -> None:
        node = self
        for segment in _shape(workload.pattern):
            node = node.children.setdefault(segment, _Tree())
        node.ends.append(workload)

    def overlapping(self, pattern: Pattern) -> Iterator[Workload]:
        """All that share a certificate with it."""
        nodes = [self]
        for segment in _shape(pattern):
            if segment is None:
                nodes = [child for node in nodes for child in node.children.values()]
            else:
                nodes = [node.children[key] for node in nodes for key in (segment, None) if key in node.children]
        for node in nodes:
            yield from node.ends
