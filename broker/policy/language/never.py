"""`never`: proven over patterns at every load, so that no grant can ever give what it forbids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from broker.policy.language.parts import TIER_ORDER
from broker.policy.rules import Grant, Never, Scope, Workload


def violations(
    nevers: Iterable[Never],
    grants: Iterable[Grant],
    workloads: Mapping[str, Workload],
    scopes: Mapping[str, Scope],
) -> Iterator[tuple[Never, Grant, str]]:
    """Each grant that could give what a `never` forbids, and what it could give to whom.

    Times, digests and deny rules are not counted on: they come and go.
    """
    grants = tuple(grants)
    for never in nevers:
        for grant in grants:
            forbidden = [name for name in grant.scopes if name in scopes and forbids(never, scopes[name])]
            reached = [
                name for name in grant.workloads if name in workloads and _reaches(never, grant, workloads[name])
            ]
            if forbidden and reached:
                scope = scopes[forbidden[0]]
                yield never, grant, f"scope {scope.name!r} ({scope.tier.value}) to workload {reached[0]!r}"


def forbids(never: Never, scope: Scope) -> bool:
    """Is it what this `never` forbids?"""
    if never.scopes is not None and scope.name not in never.scopes:
        return False
    return never.tier is None or TIER_ORDER[scope.tier] >= TIER_ORDER[never.tier]


def _reaches(never: Never, grant: Grant, workload: Workload) -> bool:
    """Could one certificate be this workload's and the never's? A bound workflow is one that the grant names."""

    def possible(capture: str, value: str) -> bool:
        return capture != "workflow" or grant.workflows is None or value in grant.workflows

    return workload.pattern.overlaps(never.agents, possible)
