"""The guard as the scope map of the moment has it."""

from __future__ import annotations

from broker.errors import Reason
from broker.guard.verdicts import Why
from broker.store.base import Tx
from tests.fakes.world import MAP, World, agent, refusal

PEOPLE = 'people: {id: "spiffe://dev.local/team/{team}/step/load"}'


async def test_a_budget_of_the_map_counts_from_its_load_on_with_what_was_spent(broker: World) -> None:
    opened = await broker.begin(["danger"])
    await broker.issue(opened.handle, "danger")
    await broker.load_map(MAP + "tiers: {high: {budget: 2, hourly: 100}}\n")
    await broker.issue(opened.handle, "danger")
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.LOCKED
    assert len(broker.backend.mints) == 2


async def test_a_cool_down_of_the_map_follows_a_failed_mint(broker: World) -> None:
    await broker.load_map(MAP + "tiers: {low: {cool_down: 2m}}\n")
    opened = await broker.begin()
    broker.provider.fail = "refuse"
    await refusal(broker.issue(opened.handle))
    broker.provider.fail = ""
    error = await refusal(broker.issue(opened.handle))
    assert (error.reason, error.metadata["cooling"]) == (Reason.COOLING, Why.FAILURE.value)
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() == 120


async def test_one_agent_leaves_three_quarters_of_a_shared_limit_to_the_others(broker: World) -> None:
    await broker.load_map(
        MAP.replace("workloads:\n", f"workloads:\n  {PEOPLE}\n")
        .replace("max_ttl: 1h, tier: low}", "max_ttl: 1h, tier: low, shared_hourly: 8}")
        .replace("workloads: [load]", "workloads: [load, people]")
    )
    greedy = await broker.begin()
    for _ in range(2):
        await broker.issue(greedy.handle)
    for run in ("r2", "r3"):
        other = await broker.begin(run=run)
        error = await refusal(broker.issue(other.handle))
        assert (error.reason, error.metadata["cooling"]) == (Reason.COOLING, Why.SHARED.value)
    minted = 2
    for team in ("a", "b", "c", "d"):
        who = agent(f"spiffe://dev.local/team/{team}/step/load")
        opened = await broker.begin(who=who)
        for _ in range(2):
            if team == "d":
                assert (await refusal(broker.issue(opened.handle, who=who))).metadata["cooling"] == Why.SHARED.value
            else:
                await broker.issue(opened.handle, who=who)
                minted += 1
    assert minted == len(broker.backend.mints) == 8


async def test_a_scope_without_a_shared_limit_leaves_nothing_behind(broker: World) -> None:
    opened = await broker.begin()
    await broker.issue(opened.handle)

    def shared(tx: Tx) -> int:
        return tx.count_shared("plain", broker.fake_clock.now().replace(year=2000))

    assert await broker.store.read(shared) == 0
