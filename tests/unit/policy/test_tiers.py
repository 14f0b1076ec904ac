"""A tier can demand how dead its credentials can be made; a scope that cannot keep that does not load."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.config import TierOverride
from broker.model import OnLock, Tier
from broker.policy.language.load import parse
from broker.policy.problems import ScopeMapError
from tests.unit.policy.kinds import KINDS
from tests.unit.policy.maps import BASE, HEAD, a_map, allowed, ask

MAP = HEAD + "scopes:\n  value: {fake: {role: static}, tier: high}\n  token: {fake: {role: a}, tier: high}\n"


def problems(rules: str) -> list[str]:
    with pytest.raises(ScopeMapError) as caught:
        parse(MAP + rules, "map.yaml", KINDS)
    return [str(problem) for problem in caught.value.problems]


def test_a_scope_that_cannot_be_ended_as_its_tier_demands_does_not_load() -> None:
    (told,) = problems("tiers:\n  high: {revocability: [EXACT, DENY_POLICY]}\n")
    assert told == "map.yaml:5:3: is STATIC, and tier high takes only DENY_POLICY, EXACT"


@pytest.mark.parametrize(
    "rules", ["", "tiers: {low: {revocability: [EXACT]}}\n", "tiers: {high: {revocability: [EXACT, STATIC]}}\n"]
)
def test_other_tiers_and_tiers_that_take_it_do_not_stand_in_the_way(rules: str) -> None:
    assert set(parse(MAP + rules, "map.yaml", KINDS).scopes) == {"value", "token"}
    a_map(rules)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ("tiers: {hihg: {revocability: [EXACT]}}\n", "no tier 'hihg'; there are low, elevated, high"),
        ("tiers: {high: {revocability: [EXCAT]}}\n", "revocability is one of EXACT, "),
        ("tiers: {high: {revocability: []}}\n", "an empty list takes nothing"),
        ("tiers: {high: {approvals: 6}}\n", "between 0 and 5"),
        ("tiers: {high: {longest_ttl: 30s}}\n", "shorter than 60s"),
        ("tiers: {high: {revocabilty: [EXACT]}}\n", "unknown key"),
    ],
)
def test_a_mistake_in_it_is_named(rules: str, told: str) -> None:
    assert any(told in problem for problem in problems(rules))


def test_the_guard_is_told_what_the_tier_and_the_scope_say() -> None:
    scope_map = a_map(
        "tiers: {high: {budget: 2, lock: 4h, on_lock: run, compensate: undo}}\n"
        "grants: {g: {workloads: [load], workflows: [etl], scopes: [orders, lake]}}\n",
        base=BASE.replace("tier: low}", "tier: low, shared_hourly: 9}", 1),
    )
    assert scope_map.limits(Tier.HIGH) == TierOverride(budget=2, lock=timedelta(hours=4))
    assert scope_map.limits(Tier.LOW) == TierOverride()
    lake, orders = allowed(scope_map, ask("lake")), allowed(scope_map, ask())
    assert (lake.on_lock, lake.compensate, lake.shared_hourly) == (OnLock.RUN, "undo", 0)
    assert (orders.on_lock, orders.compensate, orders.shared_hourly) == (OnLock.STEP, "", 9)
