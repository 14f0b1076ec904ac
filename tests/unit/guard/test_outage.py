"""A provider that answers nobody cools its steps down, and may bring them to the ceiling; it locks and holds nobody."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.guard.tiers import DEFAULT_RULES
from broker.guard.verdicts import Admitted, Ceiling, Cooling, GuardVerdict
from broker.model import Tier
from broker.store.guard import GuardState
from tests.unit.guard.world import World, asking

RUNS = 4
PAUSES = st.sampled_from([0.0, 1.0, 9.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 86400.0])
EVENTS = st.lists(
    st.tuples(
        st.integers(0, RUNS - 1), st.sampled_from(["refused", "in doubt"]), PAUSES, st.sampled_from([0, 0, -1, 1])
    ),
    max_size=120,
)


def outage(world: World, tier: Tier, events: list[tuple[int, str, float, int]]) -> set[type[GuardVerdict]]:
    """Honest steps ask one after the other; each mint fails. Ends with the doubts settled, and nothing made."""
    seen: set[type[GuardVerdict]] = set()
    doubts = []
    for run, outcome, pause, days in events:
        ask = asking(tier, run=f"r{run}")
        verdict = world.ask(ask)
        seen.add(type(verdict))
        if isinstance(verdict, Admitted):
            if outcome == "refused":
                world.void(world.last_lease, ask.key)
            else:
                doubts.append((world.last_lease, ask.key))
            world.fail(ask.key)
        world.clock.set_wall(world.clock.now() + timedelta(days=days))
        world.clock.advance(pause)
    for lease, key in doubts:
        world.void(lease, key)
    return seen


@pytest.mark.parametrize("tier", Tier)
@settings(deadline=None, max_examples=60)
@given(events=EVENTS)
def test_an_outage_locks_and_holds_nobody(tier: Tier, events: list[tuple[int, str, float, int]]) -> None:
    world = World({tier: replace(DEFAULT_RULES[tier], hourly=6)})
    assert outage(world, tier, events) <= {Admitted, Cooling, Ceiling}
    rows = world._state.guard.values()
    assert all(row.state in (GuardState.OPEN, GuardState.COOLING) for row in rows)
    assert all(row.spent == 0 for row in rows)
    world.clock.advance(3601.0)
    for run in range(RUNS):  # the provider is back
        assert isinstance(world.ask(asking(tier, run=f"r{run}")), Admitted | Ceiling)


def test_mutant_that_forgets_that_mints_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.guard.guard.after_failure", lambda row, _rules, _at: row)
    with pytest.raises(AssertionError):
        assert outage(World(), Tier.HIGH, [(0, "in doubt", 600.0, 0)] * 6) <= {Admitted, Cooling, Ceiling}


def test_who_goes_on_for_ever_comes_to_the_ceiling_and_another_run_does_not() -> None:
    world = World()
    seen = outage(world, Tier.HIGH, [(0, "refused", 600.0, 0)] * 30)
    assert {kind.__name__ for kind in seen} == {"Admitted", "Ceiling"}
    row = world.row(asking(Tier.HIGH, run="r0").key)
    assert row is not None
    assert row.admitted == DEFAULT_RULES[Tier.HIGH].ceiling + 1  # and the alert is out
    assert isinstance(world.ask(asking(Tier.HIGH, run="r1")), Admitted)
