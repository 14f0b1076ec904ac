"""The guard as the scope map of the moment has it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from broker.errors import BrokerError, Reason
from broker.guard.guard import GuardAsk
from broker.guard.keys import hour_key
from broker.guard.verdicts import Why
from broker.leases import issuing
from broker.model import Step
from broker.policy.decision import AccessRequest, Allowed
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from broker.store.base import Tx
from tests.fakes.domain import step
from tests.fakes.world import MAP, World, agent, refusal
from tests.unit.policy import test_decide_properties as maps
from tests.unit.policy.kinds import KINDS

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

    def shared(tx: Tx) -> datetime | None:
        return tx.nth_shared(1, shared="plain", since=broker.fake_clock.now().replace(year=2000))

    assert await broker.store.read(shared) is None


POOL = "spiffe://dev.local/pool/a"
TWO_WORKLOADS = MAP.replace(
    "scopes:\n",
    """\
  pool: {id: "spiffe://dev.local/pool/{name}", owners: [eve]}
  a: {id: "spiffe://dev.local/pool/a", owners: [bob]}
scopes:
""",
).replace(
    "grants:\n",
    """\
grants:
  one: {workloads: [pool], workflows: [nightly], scopes: [danger], max_step: 2h}
  two: {workloads: [a], workflows: [other], scopes: [danger], max_step: 2h}
""",
)


async def test_a_certificate_of_two_workloads_has_one_hour(broker: World) -> None:
    await broker.load_map(TWO_WORKLOADS)
    for number in range(6):
        for workflow in ("nightly", "other"):
            opened = await broker.begin(["danger"], who=agent(POOL), run=f"r{number}", workflow=workflow)
            for _ in range(3):
                with suppress(BrokerError):
                    await broker.issue(opened.handle, "danger", who=agent(POOL))
    assert len(broker.backend.mints) == 12


def whose_hour(scope_map: ScopeMap, asked: AccessRequest) -> str:
    """The key by which the guard counts it; "" when it is denied."""
    decision = scope_map.decide(asked)
    named = step(key=replace(step().key, agent=asked.agent, workflow=asked.workflow, run=asked.run))
    return issuing._ask(named, decision).hour_key if isinstance(decision, Allowed) else ""


grants = st.fixed_dictionaries(
    {"workloads": maps.some(["loose", "other"]), "workflows": maps.flows, "scopes": st.just(["plain"])},
    optional={"definition_digest": maps.some(maps.DIGESTS), "attempts": st.integers(1, 3)},
)
overlapping = st.builds(maps.World, grants=st.lists(grants, min_size=2, max_size=4), denies=st.just([]))
fits_both = f"{maps.D}/x/y"


def no_claim_changes_whose_hour_it_is(*phases: Phase, examples: int = 100) -> Callable[[], None]:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow], phases=phases)
    @given(overlapping, st.lists(maps.requests, min_size=4, max_size=9))
    def check(world: maps.World, questions: list[AccessRequest]) -> None:
        scope_map = parse(world.text(), "map.yaml", KINDS)
        hours = {whose_hour(scope_map, replace(asked, agent=fits_both, scope="plain")) for asked in questions}
        assert len(hours - {""}) <= 1

    return check


test_no_claim_changes_whose_hour_it_is = no_claim_changes_whose_hour_it_is(*Phase)


def test_mutant_that_counts_by_the_workload_of_the_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = issuing._ask

    def by_rule(step: Step, allowed: Allowed) -> GuardAsk:
        key = hour_key(workload=allowed.workload, captures=allowed.captures, scope=allowed.scope)
        return replace(original(step, allowed), hour_key=key)

    monkeypatch.setattr(issuing, "_ask", by_rule)
    with pytest.raises(AssertionError):
        # The first that tells ends it. A hundred do not tell once in forty times.
        no_claim_changes_whose_hour_it_is(Phase.generate, examples=5_000)()
