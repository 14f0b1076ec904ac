"""What operators see of a key."""

from __future__ import annotations

from datetime import timedelta

import pytest

from broker.guard.listing import Listed
from broker.guard.timing import guard_time
from broker.model import Tier
from broker.store.guard import GuardState
from tests.unit.guard.world import World, asking


def seen(world: World, key: str) -> Listed:
    row = world.row(key)
    assert row is not None
    return world.write(lambda tx: world.guard.listed(tx, row, now=world.clock.moment()))


@pytest.mark.parametrize(("tier", "budget", "hourly", "ceiling"), [(Tier.LOW, 10, 240, 50), (Tier.HIGH, 3, 12, 15)])
def test_a_budget_and_an_hour_by_the_rules_of_their_tier(tier: Tier, budget: int, hourly: int, ceiling: int) -> None:
    world, ask = World(), asking(tier)
    world.ask(ask)
    world.ask(ask)
    one, hour = seen(world, ask.key), seen(world, ask.hour_key)
    assert (one.spent, one.allowed, one.ceiling, one.state) == (2, budget, ceiling, GuardState.OPEN)
    assert (hour.spent, hour.allowed, hour.ceiling) == (2, hourly, 0)
    world.clock.advance(3601)
    assert seen(world, ask.hour_key).spent == 0


def test_what_time_has_given_back_is_not_spent() -> None:
    world, ask = World(), asking(Tier.LOW)
    for _ in range(3):
        world.ask(ask)
    world.clock.advance(120)
    assert seen(world, ask.key).spent == 1


@pytest.mark.parametrize("days", [-1, 0, 1])
def test_a_lock_ends_when_the_wall_clock_of_today_says_and_restores(days: int) -> None:
    world, ask = World(), asking(Tier.ELEVATED)
    for _ in range(6):
        world.ask(ask)
        world.clock.advance(90)
    world.clock.set_wall(world.clock.now() + timedelta(days=days))
    locked = seen(world, ask.key)
    assert (locked.state, locked.spent) == (GuardState.LOCKED, 5)
    assert locked.until == world.clock.now() + timedelta(hours=1) - timedelta(seconds=90)
    world.clock.advance(3600)
    over = seen(world, ask.key)
    assert (over.state, over.until, over.spent) == (GuardState.OPEN, None, 0)


def test_a_high_lock_and_a_hold_have_no_end() -> None:
    world, ask = World(), asking(Tier.HIGH)
    for state, times in ((GuardState.LOCKED, 4), (GuardState.HELD, 1)):
        for _ in range(times):
            world.ask(ask)
        world.clock.advance(7200)
        found = seen(world, ask.key)
        assert (found.state, found.until, found.spent) == (state, None, 3)


def test_looking_sets_no_clock() -> None:
    world, ask = World(), asking()
    world.ask(ask)
    before = world.write(lambda tx: tx.guard_clock())
    world.clock.advance(60)
    seen(world, ask.key)
    assert world.write(lambda tx: tx.guard_clock()) == before
    assert world.write(lambda tx: guard_time(tx, world.clock.moment())) == world.clock.now()


def test_who_reset_a_key_is_kept_also_over_what_the_guard_writes_then() -> None:
    world, ask = World(), asking(Tier.HIGH)
    for _ in range(5):
        world.ask(ask)
    world.reset(ask.key, by="ann")
    for _ in range(5):
        world.ask(ask)
    world.fail(ask.key)
    world.succeed(ask.key)
    row = world.row(ask.key)
    assert row is not None
    assert (row.state, row.reset_by, row.reset_at) == (GuardState.HELD, "ann", world.clock.now())
    again = world.reset(ask.key, by="bob")
    assert again is not None
    assert (again.state, again.reset_by) == (GuardState.OPEN, "bob")
