"""Numbers of the guard that stand in each other's way."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config import TIER_DEFAULTS, part_of
from broker.model import Tier
from broker.policy.lint.finding import Finding, Level, Rule, at
from broker.policy.lint.subject import Subject
from broker.policy.problems import show

OUT_OF_REACH = Rule(
    id="budget-out-of-reach",
    level=Level.WARNING,
    title="A budget that no step can use",
    help="Raise hourly, or shared_hourly to four times the tier's budget, or lower the budget: as it is, one step alone "
    "uses up the hour of its workload, and the next run waits for it.",
)

RULES = (OUT_OF_REACH,)


def check(subject: Subject) -> Iterator[Finding]:
    """Every rule of this module."""
    budgets = {}
    for tier in Tier:
        numbers = {**TIER_DEFAULTS[tier], **subject.map.limits(tier).changes()}
        budgets[tier], hourly = numbers["budget"], numbers["hourly"]
        if hourly < budgets[tier]:
            message = f"tier {tier.value}: a step's budget is {budgets[tier]}, and its workload has {hourly} in an hour"
            yield at(subject.map.tiers[tier.value].rule, OUT_OF_REACH, message)
    for scope in subject.map.scopes.values():
        each = part_of(scope.shared_hourly)
        if scope.shared_hourly and each < budgets[scope.tier]:
            message = f"scope {show(scope.name)}: one workload gets {each} in an hour, and a step's budget is {budgets[scope.tier]}"
            yield at(subject.of_scope(scope, "shared_hourly"), OUT_OF_REACH, message)
