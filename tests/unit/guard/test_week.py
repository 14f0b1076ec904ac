"""A week of a runaway with new run ids, steps and attempts: what DESIGN section 7 lets it have, and not one more."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from broker.guard.tiers import DEFAULT_RULES, TierRules
from broker.guard.verdicts import Admitted, Cooling, Held, HoldNow, Locked, LockNow
from broker.model import Tier
from tests.unit.guard.world import World, asking

HOUR, DAY = 3600.0, 86400.0
PRUNE_EVERY = 600.0  # seconds


@dataclass
class Story:
    """In true time, which no clock setting moves."""

    mints: list[float] = field(default_factory=list)
    holds: int = 0
    locks: int = 0
    after_hold: set[type] = field(default_factory=set)

    def fullest_hour(self) -> int:
        """The most mints in any hour, from each mint on."""
        most = first = 0
        for last, at in enumerate(self.mints):
            while self.mints[first] <= at - HOUR:
                first += 1
            most = max(most, last - first + 1)
        return most


def runaway(
    tier: Tier,
    *,
    rules: Mapping[Tier, TierRules] = DEFAULT_RULES,
    days: float = 7,
    patience: float = 1.0,
    enough: int = 10**6,
) -> Story:
    """Asks as soon as it is let, under names that are new or known, while the clock is set back and forth.

    `patience`: the longest that it waits when it is told to, in seconds. `enough`: mints, to find a mutant.
    """
    world, dice, story = World(rules), random.Random(tier.value), Story()
    begin, pruned = world.clock.monotonic(), world.clock.monotonic()
    number = 0
    while (now := world.clock.monotonic()) < begin + days * DAY and len(story.mints) < enough:
        known = dice.random() < 0.3  # an attempt more at what it had a moment ago
        number += not known
        verdict = world.ask(asking(tier, run=f"r{number}", step=f"s{number % 3}", workflow=f"w{number % 2}"))
        if story.holds:
            story.after_hold.add(type(verdict))
        match verdict:
            case Admitted():
                story.mints.append(now)
            case LockNow():
                story.locks += 1
            case HoldNow(row=row) if row.key == row.hour_key:
                story.holds += 1
            case Cooling(wait=wait) if not known:
                world.clock.advance(min(wait.total_seconds(), patience))
            case _:
                pass
        world.clock.advance(dice.choice([0, 0, 0.01, 1]) if not story.holds else 300)
        if dice.random() < 0.01:
            world.clock.set_wall(world.clock.now() + dice.choice([-1, 1]) * timedelta(days=1))
        if world.clock.monotonic() > pruned + PRUNE_EVERY:
            pruned = world.clock.monotonic()
            world.forget_hours_past()
    return story


def within(story: Story, tier: Tier) -> None:
    """The two tables."""
    rules = DEFAULT_RULES[tier]
    assert story.fullest_hour() <= rules.hourly, "more in a rolling hour"
    if tier is Tier.HIGH:
        assert len(story.mints) <= 36, "more before it was held"
        assert story.holds == 1
        assert story.after_hold == {Held}


def test_a_week_of_a_high_runaway_is_36_credentials_and_not_one_more() -> None:
    story = runaway(Tier.HIGH)
    within(story, Tier.HIGH)
    assert (story.fullest_hour(), len(story.mints)) == (12, 36)  # it tried hard enough


@pytest.mark.parametrize(("tier", "days"), [(Tier.HIGH, 7), (Tier.ELEVATED, 7), (Tier.LOW, 2)])
def test_who_waits_as_told_has_what_an_hour_allows_and_no_more(tier: Tier, days: float) -> None:
    story = runaway(tier, days=days, patience=HOUR)
    assert story.fullest_hour() == DEFAULT_RULES[tier].hourly
    assert story.holds == (tier is Tier.HIGH)


def test_mutant_without_an_hourly_limit_is_found() -> None:
    for tier in Tier:
        rules = {tier: replace(DEFAULT_RULES[tier], hourly=10**6)}
        with pytest.raises(AssertionError, match="rolling hour"):
            within(runaway(tier, rules=rules, enough=300), tier)


def test_mutant_that_counts_no_exhaustion_is_found() -> None:
    rules = {Tier.HIGH: replace(DEFAULT_RULES[Tier.HIGH], hour_exhaustions_to_hold=None)}
    with pytest.raises(AssertionError, match="before it was held"):
        within(runaway(Tier.HIGH, rules=rules, enough=40), Tier.HIGH)


def test_mutant_whose_run_is_in_the_hours_key_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = asking
    monkeypatch.setattr(
        "tests.unit.guard.test_week.asking",
        lambda tier, **names: replace(original(tier, **names), hour_key=f"hour of {names['run']}"),
    )
    with pytest.raises(AssertionError, match="rolling hour"):
        within(runaway(Tier.HIGH, enough=20), Tier.HIGH)


def test_mutant_that_goes_by_the_wall_clock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.guard.guard.guard_time", lambda _tx, now: now.wall)
    with pytest.raises(AssertionError, match="rolling hour"):
        within(runaway(Tier.LOW, days=1, patience=HOUR), Tier.LOW)


def test_one_step_asked_again_for_a_week_has_its_budget_and_what_time_gives_back() -> None:
    for tier, most in ((Tier.HIGH, 3), (Tier.ELEVATED, 10)):
        world, seen = World(), []
        for _ in range(7 * 24 * 60):
            seen.append(type(world.ask(asking(tier))))
            world.clock.advance(60)
        assert seen.count(Admitted) == most
        assert seen.count(HoldNow) == 1
        assert {*seen[seen.index(HoldNow) + 1 :]} == {Held}
        assert (Locked in seen) is (tier is Tier.ELEVATED)
