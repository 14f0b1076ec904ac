"""What keeps a map from loading, and what loads and is probably not meant. One module per family of rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from broker.model import ScopeKind
from broker.policy.language.files import Files, Remembered
from broker.policy.lint import (
    claims,
    expectations,
    grants,
    loading,
    nevers,
    providers,
    scopes,
    tiers,
    wildcards,
    workloads,
)
from broker.policy.lint.finding import Finding, Level, Rule
from broker.policy.lint.subject import examine
from broker.policy.problems import ScopeMapError

__all__ = ["RULES", "Finding", "Level", "Rule", "is_rule", "lint"]

FAMILIES = (grants, scopes, tiers, workloads, wildcards, claims, nevers, expectations)
RULES: tuple[Rule, ...] = loading.RULES + tuple(rule for family in FAMILIES for rule in family.RULES)


def lint(files: Files, root: str, kinds: Mapping[str, ScopeKind], now: datetime) -> tuple[Finding, ...]:
    """Everything found, in order of position: errors alone when the map does not load. Blocking, as `load_files`."""
    try:
        subject = examine(Remembered(files=files), root, kinds, now)
    except ScopeMapError as error:
        return tuple(loading.from_problems(error.problems))
    checks = [family.check for family in FAMILIES] + [providers.check]
    return tuple(sorted({one for check in checks for one in check(subject)}, key=lambda one: one.order))


def is_rule(name: str, kinds: Collection[str]) -> bool:
    """Is it one of ours, or can it be one of a provider's?"""
    return any(rule.id == name for rule in RULES) or any(name.startswith(f"{kind}-") for kind in kinds)
