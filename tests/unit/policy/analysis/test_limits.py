"""The guard's numbers in a plan: which way they move, and what that needs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.config import Guard, TierOverride
from broker.model import Tier
from broker.policy.analysis.plan import Plan, plan
from broker.policy.live.changes import widens_high
from tests.unit.policy.analysis.test_plan import NOW
from tests.unit.policy.maps import BASE, a_map

GRANT = "grants:\n  nightly: {workloads: [load], workflows: [etl], scopes: [orders]}\n"


def of(before: str, after: str) -> Plan:
    maps = [a_map(f"tiers: {{high: {{{one}}}}}\n" if one else "") for one in (before, after)]
    return plan(maps[0], maps[1], NOW)


@pytest.mark.parametrize(
    ("tighter", "wider", "line"),
    [
        ("budget: 2", "", "tier high budget 2 → 3"),
        ("", "budget: 4", "tier high budget 3 → 4"),
        ("hourly: 6", "hourly: 7", "tier high hourly 6 → 7"),
        ("", "refill: 1h", "tier high refill never → 1h"),
        ("refill: 1h", "refill: 1m", "tier high refill 1h → 1m"),
        ("", "lock: 30m", "tier high lock 1h → 30m"),
        ("cool_down: 20s", "cool_down: 1s", "tier high cool_down 20s → 1s"),
        ("max_cool_down: 10m", "", "tier high max_cool_down 10m → 5m"),
        ("", "ceiling_factor: 6", "tier high ceiling_factor 5 → 6"),
        ("on_lock: run", "", "tier high on_lock run → step"),
        ("on_lock: workflow", "on_lock: run", "tier high on_lock workflow → run"),
        ("compensate: undo", "", "tier high compensate undo → none"),
    ],
)
def test_a_number_that_lets_more_be_done_is_widening_and_the_other_way_round_is_not(
    tighter: str, wider: str, line: str
) -> None:
    found = of(tighter, wider)
    assert found.widens_tier(Tier.HIGH)
    assert [one for one in found.lines() if one.startswith(f"loosened: {line}")], found.lines()
    back = of(wider, tighter)
    assert not back.widens
    assert any(one.startswith("tightened: tier high ") for one in back.lines())


def test_another_receiver_of_compensations_may_do_nothing() -> None:
    assert of("compensate: undo", "compensate: other").widens


def test_it_names_the_place() -> None:
    assert "(tiers.high (map.yaml:13:9))" in of("", "budget: 4").lines()[0]


def test_a_number_of_another_tier_needs_no_second_signature() -> None:
    found = plan(a_map(), a_map("tiers: {elevated: {budget: 6}}\n"), NOW)
    assert (found.widens, found.widens_tier(Tier.HIGH)) == (True, False)


def test_what_is_said_and_is_the_default_is_no_change() -> None:
    assert not [change for change in of("", "budget: 3, lock: 1h").changes if change.attribute != "tier high"]


def test_a_stricter_deployment_counts_for_the_question_how_many_must_have_signed() -> None:
    strict = Guard(high=TierOverride(budget=1, lock=timedelta(hours=4)))
    two, long = a_map("tiers: {high: {budget: 2}}\n"), a_map("tiers: {high: {lock: 2h}}\n")
    assert not widens_high(a_map(), two, NOW)
    assert widens_high(a_map(), two, NOW, strict)
    assert not widens_high(a_map(), long, NOW)
    assert widens_high(a_map(), long, NOW, strict)


@pytest.mark.parametrize(("before", "after", "widens"), [(8, 9, True), (8, 0, True), (9, 8, False), (0, 8, False)])
def test_a_limit_over_all_agents(before: int, after: int, *, widens: bool) -> None:
    bases = [
        BASE.replace("tier: low}", f"tier: low, shared_hourly: {one}}}", 1) if one else BASE for one in (before, after)
    ]
    found = plan(a_map(GRANT, base=bases[0]), a_map(GRANT, base=bases[1]), NOW)
    assert found.widens is widens
    (line,) = found.lines()
    assert f"shared_hourly {before or 'none'} → {after or 'none'}" in line
