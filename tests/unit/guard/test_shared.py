"""A scope's limit over all agents: three quarters are always left to the others, and nobody is punished by it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import Reason
from broker.guard.shared import Shared
from broker.guard.tiers import DEFAULT_RULES
from broker.guard.verdicts import Admitted, Cooling, GuardVerdict, Why, as_error
from broker.model import Tier
from broker.store.guard import GuardState
from tests.fakes.memory_store import MemoryTx
from tests.unit.guard.world import World, asking

HOUR = 3600.0
LIMIT = 20


def ask(world: World, workload: str, run: int, *, limit: int = LIMIT, tier: Tier = Tier.LOW) -> GuardVerdict:
    return world.ask(asking(tier, workload=workload, run=f"r{run}", shared=limit))


def admitted(world: World, workload: str, tries: int, *, limit: int = LIMIT) -> int:
    return sum(isinstance(ask(world, workload, run, limit=limit), Admitted) for run in range(tries))


@pytest.mark.parametrize(("limit", "part"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (200, 50)])
def test_one_workload_gets_a_quarter_and_at_least_one(limit: int, part: int) -> None:
    assert Shared(scope="s", hourly=limit).each == part
    assert admitted(World(), "greedy", 60, limit=limit) == part


def three_quarters(world: World) -> None:
    assert admitted(world, "greedy", 300) == LIMIT // 4
    assert [admitted(world, f"w{n}", 300) for n in range(4)] == [5, 5, 5, 0]


def test_one_agent_leaves_three_quarters_to_the_others() -> None:
    three_quarters(World())


def test_mutant_without_a_quarter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shared, "each", property(lambda self: self.hourly))
    with pytest.raises(AssertionError):
        three_quarters(World())


def test_mutant_that_does_not_count_over_all_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTx, "nth_shared", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        three_quarters(World())


def test_it_says_when_to_come_back_and_keeps_its_word() -> None:
    world = World()
    admitted(world, "greedy", 2)
    world.clock.advance(600)
    admitted(world, "greedy", 3)
    verdict = ask(world, "greedy", 99)
    assert isinstance(verdict, Cooling)
    assert (verdict.why, verdict.wait) == (Why.SHARED, timedelta(seconds=3001))
    error = as_error(verdict)
    assert (error.reason, error.metadata) == (Reason.COOLING, {"cooling": "SHARED"})
    world.clock.advance(3000)
    assert isinstance(ask(world, "greedy", 99), Cooling)
    world.clock.advance(1)
    assert isinstance(ask(world, "greedy", 99), Admitted)


@settings(deadline=None, max_examples=50)
@given(
    pauses=st.lists(st.sampled_from([0.0, 0.25, 1.0, 599.7]), min_size=5, max_size=5),
    limit=st.sampled_from([0, LIMIT]),  # of the workload's own hour, and of all
    last=st.sampled_from([0.0, 0.001, 0.5, 1.0]),
)
def test_the_wait_is_the_least_of_whole_seconds(pauses: list[float], limit: int, last: float) -> None:
    world = World({Tier.LOW: replace(DEFAULT_RULES[Tier.LOW], hourly=240 if limit else 5)})
    for run, pause in enumerate(pauses):
        assert isinstance(ask(world, "greedy", run, limit=limit), Admitted)
        world.clock.advance(pause)
    world.clock.advance(last)
    verdict = ask(world, "greedy", 99, limit=limit)
    assert isinstance(verdict, Cooling)
    assert verdict.why is (Why.SHARED if limit else Why.HOUR)
    world.clock.advance(verdict.wait.total_seconds() - 1)
    assert isinstance(ask(world, "greedy", 99, limit=limit), Cooling)
    world.clock.advance(1)
    assert isinstance(ask(world, "greedy", 99, limit=limit), Admitted)


def test_what_was_not_minted_is_given_back_to_all() -> None:
    world = World()
    for n in range(4):
        assert admitted(world, f"w{n}", 5) == 5
    lease, key = world.last_lease, asking(Tier.LOW, workload="w3", run="r4").key
    assert isinstance(ask(world, "late", 0), Cooling)
    assert world.void(lease, key)
    assert isinstance(ask(world, "late", 0), Admitted)


@pytest.mark.parametrize("tier", Tier)
def test_it_locks_and_holds_nobody_and_counts_as_no_exhaustion(tier: Tier) -> None:
    world = World()
    for n in range(4):  # others use it up
        ask(world, f"w{n}", 0, limit=4, tier=tier)
    for hour in range(10):
        for run in range(50):
            verdict = ask(world, "late", run, limit=4, tier=tier)
            assert isinstance(verdict, Cooling), (hour, run)
            assert verdict.why is Why.SHARED
        world.clock.advance(HOUR / 11)
    row = world.row(asking(tier, workload="late").hour_key)
    assert row is None  # nothing of it was written


def test_off_it_is_no_part_of_a_charge() -> None:
    world = World()
    world.ask(asking(Tier.LOW))
    charge = world._state.charges[world.last_lease]
    assert charge.shared is None


@dataclass
class Mint:
    workload: str
    at: float


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.0, 1.0, 59.0, 600.0, 1800.0, HOUR])), max_size=150))
def test_in_every_rolling_hour_all_stay_within_the_limit_and_each_within_its_part(
    asks: list[tuple[int, float]],
) -> None:
    world, mints = World(), list[Mint]()
    for run, (who, pause) in enumerate(asks):
        world.clock.advance(pause)
        if isinstance(ask(world, f"w{who}", run, limit=8), Admitted):
            mints.append(Mint(f"w{who}", world.clock.monotonic()))
    for last in mints:
        hour = [mint for mint in mints if last.at - HOUR < mint.at <= last.at]
        assert len(hour) <= 8
        assert sum(mint.workload == last.workload for mint in hour) <= 2
    assert all(row.state is GuardState.OPEN for row in world._state.guard.values())
