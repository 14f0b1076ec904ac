from dataclasses import replace
from datetime import timedelta

import pytest

from broker.config import Guard, TierOverride
from broker.guard.tiers import DEFAULT_RULES, AfterLock, WhenEmpty, configured, rules_of
from broker.model import Tier

MINUTE = timedelta(minutes=1)


def test_the_defaults_are_the_documented_table() -> None:
    table = {tier: (rules.budget, rules.refill, rules.hourly) for tier, rules in DEFAULT_RULES.items()}
    assert table == {Tier.LOW: (10, MINUTE, 240), Tier.ELEVATED: (5, None, 60), Tier.HIGH: (3, None, 12)}
    assert [rules.ceiling for rules in DEFAULT_RULES.values()] == [50, 25, 15]
    assert [rules.when_empty for rules in DEFAULT_RULES.values()] == [WhenEmpty.COOL, WhenEmpty.LOCK, WhenEmpty.LOCK]
    assert DEFAULT_RULES[Tier.HIGH].after_lock is AfterLock.HOLD


def test_cool_downs_double_up_to_their_maximum_whatever_the_count() -> None:
    rules = DEFAULT_RULES[Tier.ELEVATED]
    seconds = [rules.cool_down_after(n).total_seconds() for n in (-1, 0, 1, 2, 3, 4, 5, 10**6)]
    assert seconds == [10, 10, 20, 40, 80, 160, 300, 300]


def test_a_deployment_overrides_single_numbers() -> None:
    rules = configured(Guard(high=TierOverride(budget=1, hourly=4)))
    assert (rules[Tier.HIGH].budget, rules[Tier.HIGH].hourly, rules[Tier.HIGH].ceiling) == (1, 4, 5)
    assert rules[Tier.HIGH].after_lock is AfterLock.HOLD
    assert rules[Tier.LOW] == DEFAULT_RULES[Tier.LOW]


@pytest.mark.parametrize(
    "wrong",
    [
        {"budget": 0},
        {"hourly": 0},
        {"ceiling_factor": 0},
        {"lock": timedelta(0)},
        {"cool_down": -MINUTE},
        {"refill": timedelta(0)},
        {"refill": None},  # low: it would cool for ever
    ],
)
def test_rules_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        replace(DEFAULT_RULES[Tier.LOW], **wrong)  # type: ignore[arg-type]  # a table of mixed values


def test_the_scope_map_stands_above_the_deployment_and_both_above_the_defaults() -> None:
    of_map = {Tier.HIGH: TierOverride(budget=2)}
    rules = rules_of(Guard(high=TierOverride(budget=1, hourly=4)), lambda tier: of_map.get(tier, TierOverride()))
    assert (rules(Tier.HIGH).budget, rules(Tier.HIGH).hourly, rules(Tier.HIGH).lock) == (2, 4, 60 * MINUTE)
    assert rules(Tier.LOW) == DEFAULT_RULES[Tier.LOW]
    of_map.clear()  # the next map
    assert rules(Tier.HIGH).budget == 1
