"""What policy is asked, by whom, and that it is asked again when the question has changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.beginning import Opened
from broker.model import LeaseState, StepKey, Verdict
from broker.policy import scope_map
from broker.policy.decide import decide
from broker.policy.decision import AccessRequest, Allowed, Decision, Denial, Denied
from tests.fakes.launchers import launcher
from tests.fakes.world import LOAD, MAP, OTHER, World, agent, refusal

KEY = StepKey(agent=OTHER, workflow="nightly", run="r1", step="load")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[AccessRequest]:
    """Every question, in order."""
    found: list[AccessRequest] = []

    def noting(index: Any, request: AccessRequest) -> Decision:
        found.append(request)
        return decide(index, request)

    monkeypatch.setattr(scope_map, "decide", noting)
    return found


def given(more: str) -> str:
    """The map, with one more condition in each grant."""
    return MAP.replace("max_step: 2h", f"max_step: 2h, {more}")


def only_from(network: str) -> str:
    return given(f"when: {{networks: [{network}]}}")


# --- attempts ---


async def test_a_step_is_asked_for_as_the_attempt_that_it_will_be(broker: World, asked: list[AccessRequest]) -> None:
    who = agent(OTHER, address="10.1.2.3")
    for attempt in (1, 2, 3):
        asked.clear()
        (checked,) = await broker.engine.check_access(KEY, ["plain"], address="10.1.2.3")
        opened = await broker.begin(who=who)
        await broker.issue(opened.handle, who=who)
        assert opened.step.attempt == attempt
        assert [request.attempt for request in asked] == [attempt] * 3
        assert [request.address for request in asked] == ["10.1.2.3"] * 3
        assert checked.asked == asked[0]


async def test_an_attempt_beyond_the_limit_opens_and_gets_nothing(broker: World) -> None:
    await broker.load_map(given("attempts: 2"))
    for _ in range(2):
        opened = await broker.begin()
        await broker.issue(opened.handle)
        await broker.end(opened.handle)
    (checked,) = await broker.engine.check_access(replace(KEY, agent=LOAD), ["plain"], address="")
    opened = await broker.begin()
    for decision in (checked.decision, opened.answers[0].decision):
        assert isinstance(decision, Denied)
        assert decision.reason is Denial.ATTEMPTS_EXHAUSTED
    error = await refusal(broker.issue(opened.handle))
    assert error.metadata["denial"] == "ATTEMPTS_EXHAUSTED"
    assert error.about["attempt"] == 3


async def test_an_attempt_that_comes_in_between_is_counted(broker: World) -> None:
    """Openings at once, none of which has read of the others. What is given nothing supersedes nobody."""
    await broker.load_map(given("attempts: 2"))
    who = agent(OTHER)
    results = await asyncio.gather(*(broker.begin(who=who) for _ in range(4)), return_exceptions=True)
    opened = [(one.step.attempt, one.answers[0].asked.attempt) for one in results if isinstance(one, Opened)]
    assert sorted(opened) == [(1, 1), (2, 2)]
    assert {one.reason for one in results if isinstance(one, BrokerError)} == {Reason.STEP_ALIVE}


async def test_a_replay_answers_for_the_attempt_that_it_opened(broker: World, asked: list[AccessRequest]) -> None:
    request_id = "6f1d5c8e-3b7a-4d52-9c7e-1f2a3b4c5d6e"
    first = await broker.begin(request_id=request_id)
    again = await broker.begin(request_id=request_id)
    assert again.step == first.step
    assert again.answers[0].asked.attempt == 1
    assert asked[-1].attempt == 1


# --- addresses ---


async def test_of_a_launch_no_address_is_known_and_the_workloads_own_counts(broker: World) -> None:
    await broker.load_map(only_from("10.1.0.0/16"))
    await broker.set_launchers(launcher())
    opened = await broker.launch()
    assert isinstance(opened.answers[0].decision, Denied)
    error = await refusal(broker.issue(opened.handle, who=agent(address="10.9.9.9")))
    assert (error.metadata["denial"], error.about["address"]) == ("SOURCE_NOT_ALLOWED", "10.9.9.9")
    lease = (await broker.issue(opened.handle, who=agent(address="10.1.2.3"))).lease
    assert (await broker.lease(lease.id)).address == "10.1.2.3"


@pytest.mark.parametrize(
    ("network", "state"), [("10.1.0.0/16", LeaseState.ACTIVE), ("10.9.0.0/16", LeaseState.REVOKED)]
)
async def test_a_map_that_moves_during_a_mint_is_asked_for_the_address_of_the_intent(
    broker: World, network: str, state: LeaseState
) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    call = asyncio.create_task(broker.issue(opened.handle, who=agent(address="10.1.2.3")))
    await broker.provider.landed.wait()
    await broker.load_map(only_from(network))
    broker.provider.after_landing.set()
    await asyncio.gather(call, return_exceptions=True)
    (lease,) = await broker.leases()

    async def settled() -> bool:
        return (await broker.lease(lease.id)).state is state

    await broker.until(settled)


# --- approvals ---


async def test_what_needs_an_approval_is_said_so_and_not_minted(broker: World) -> None:
    await broker.load_map(given("approvals: 2"))
    opened = await broker.begin()
    decision = opened.answers[0].decision
    assert isinstance(decision, Allowed)
    assert (decision.approvals, opened.answers[0].reference_id) == (2, "")
    for _ in range(20):  # more than any budget
        error = await refusal(broker.issue(opened.handle))
        assert (error.reason, error.verdict) == (Reason.NEEDS_APPROVAL, Verdict.NEEDS_APPROVAL)
        assert (error.metadata["approvals_needed"], error.metadata["approvals_given"]) == ("2", "0")
    assert (error.about["scope"], error.about["attempt"], error.about["proven"]) == ("plain", 1, False)
    assert broker.provider.seen == []
    assert await broker.leases() == []
    (begun,) = await broker.journal("STEP_BEGUN")
    assert begun["data"]["scopes"] == {"plain": "needs approval"}
    await broker.load_map(MAP)
    assert (await broker.issue(opened.handle)).lease.state is LeaseState.ACTIVE, "it was charged"
