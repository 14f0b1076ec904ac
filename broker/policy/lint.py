"""What loads, and yet is probably not meant."""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import RuleRef, Tier
from broker.policy.patterns import BINDING
from broker.policy.problems import Problem
from broker.policy.scope_map import ScopeMap


def warnings(scope_map: ScopeMap) -> tuple[Problem, ...]:
    """In order of position."""
    return tuple(sorted({*_unused(scope_map), *_claims(scope_map)}))


def _unused(scope_map: ScopeMap) -> Iterator[Problem]:
    granted = {name for grant in scope_map.grants.values() for name in grant.scopes}
    using = {name for grant in scope_map.grants.values() for name in grant.workloads}
    for scope in scope_map.scopes.values():
        if scope.name not in granted:
            yield _warning(scope.rule, "no grant gives this scope")
    for workload in scope_map.workloads.values():
        if workload.name not in using:
            yield _warning(workload.rule, "no grant names this workload")


def _claims(scope_map: ScopeMap) -> Iterator[Problem]:
    """What needs a launcher, and `high` scopes for whoever claims the right workflow."""
    for grant in scope_map.grants.values():
        for workload in (scope_map.workloads[name] for name in grant.workloads):
            captured = set(workload.pattern.captures)
            for scope in (scope_map.scopes[name] for name in grant.scopes):
                for name in sorted((scope.variables & set(BINDING)) - captured):
                    yield _warning(grant.rule, f"{scope.name} uses {{{name}}}: {workload.name} needs a launcher for it")
                if "run" in scope.variables:
                    yield _warning(scope.rule, "{run} takes A-Z a-z 0-9 _ - only: Airflow's run ids never fit")
                if scope.tier is Tier.HIGH and grant.workflows is not None and "workflow" not in captured:
                    message = f"{scope.name} is high, and {workload.name} only claims its workflow"
                    yield _warning(grant.rule, message)


def _warning(rule: RuleRef, message: str) -> Problem:
    return Problem(file=rule.file, line=rule.line, column=1, message=f"{rule.name}: {message}")
