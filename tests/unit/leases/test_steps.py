from __future__ import annotations

from datetime import timedelta

import pytest

from broker.errors import BrokerError, Reason
from broker.model import EndReason, LeaseState, StepState
from tests.fakes.world import OTHER, World, agent, new_id, refusal


async def test_a_replayed_begin_derives_the_same_handle(broker: World) -> None:
    request_id = new_id()
    first = await broker.begin(request_id=request_id)
    again = await broker.begin(request_id=request_id)
    assert again.handle == first.handle
    assert again.step.attempt == first.step.attempt == 1


async def test_the_handle_is_not_in_the_store(broker: World) -> None:
    opened = await broker.begin()
    assert opened.handle not in repr(opened.step)


async def test_same_request_id_with_another_payload_is_refused(broker: World) -> None:
    request_id = new_id()
    await broker.begin(["plain"], request_id=request_id)
    error = await refusal(broker.begin(["elevated"], request_id=request_id))
    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_a_request_id_is_unique_over_all_methods(broker: World) -> None:
    request_id = new_id()
    opened = await broker.begin(request_id=request_id)
    error = await refusal(broker.issue(opened.handle, request_id=request_id))
    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_an_older_attempt_that_is_alive_refuses_the_next(broker: World) -> None:
    await broker.begin()
    error = await refusal(broker.begin())
    assert error.reason is Reason.STEP_ALIVE
    assert error.retry_after is not None
    assert error.retry_after <= broker.timings.silence_bound


async def test_supersede_ends_the_older_attempt_and_its_leases(broker: World) -> None:
    who = agent(OTHER)
    older = await broker.begin(who=who)
    lease = (await broker.issue(older.handle, who=who)).lease
    newer = await broker.begin(who=who)
    assert newer.step.attempt == 2
    row = await broker.lease(lease.id)
    assert row.end_reason is EndReason.SUPERSEDED
    assert row.state is not LeaseState.ACTIVE


async def test_the_next_attempt_has_another_handle(broker: World) -> None:
    first = await broker.begin()
    await broker.end(first.handle)
    second = await broker.begin()
    assert second.step.attempt == 2
    assert second.handle != first.handle


async def test_who_is_no_workload_opens_nothing(broker: World) -> None:
    error = await refusal(broker.begin(who=agent("spiffe://dev.local/someone/else")))
    assert error.reason is Reason.ACCESS_DENIED
    assert await broker.store.read(lambda tx: tx.open_steps()) == []


async def test_a_refused_scope_is_answered_with_its_reference(broker: World) -> None:
    opened = await broker.begin(["plain", "nope"])
    by_scope = {answer.scope: answer for answer in opened.answers}
    reference = by_scope["nope"].reference_id
    assert reference
    assert not by_scope["plain"].reference_id
    assert await broker.store.read(lambda tx: tx.denial(reference)) is not None


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ü", "x" * 251, "a\n", "a%2Fb", "a\0"])
async def test_a_name_that_does_not_match_is_rejected_not_folded(broker: World, name: str) -> None:
    with pytest.raises(BrokerError) as caught:
        await broker.begin(run=name)
    assert caught.value.reason is Reason.INVALID_NAME


async def test_a_silent_step_is_ended_and_its_leases_revoked(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    await broker.fake_clock.run(broker.timings.silence_bound.total_seconds() + 3)

    async def ended() -> bool:
        step = await broker.store.read(lambda tx: tx.step(opened.step.id))
        return step is not None and step.end_reason is EndReason.SILENT

    await broker.until(ended)
    await broker.until(broker.nothing_alive)


async def test_heartbeats_keep_a_step_open(broker: World) -> None:
    opened = await broker.begin()
    for _ in range(10):
        await broker.engine.heartbeat(agent(), opened.handle, [])
        await broker.fake_clock.run(10)
    step = await broker.store.read(lambda tx: tx.step(opened.step.id))
    assert step is not None
    assert step.state is StepState.OPEN


async def test_a_stalled_broker_ends_no_step_for_its_own_silence(broker: World) -> None:
    opened = await broker.begin()
    broker.fake_clock.advance(3600)  # the whole process was stopped: one tick, an hour late
    await broker.fake_clock.run(10)
    await broker.engine.heartbeat(agent(), opened.handle, [])
    step = await broker.store.read(lambda tx: tx.step(opened.step.id))
    assert step is not None
    assert step.state is StepState.OPEN


async def test_a_wall_clock_set_forward_ends_no_step_as_silent(broker: World) -> None:
    opened = await broker.begin()
    broker.fake_clock.set_wall(broker.fake_clock.now() + timedelta(minutes=30))
    await broker.fake_clock.run(5)
    step = await broker.store.read(lambda tx: tx.step(opened.step.id))
    assert step is not None
    assert step.state is StepState.OPEN


async def test_the_deadline_ends_a_step_that_still_beats(broker: World) -> None:
    opened = await broker.begin()
    broker.fake_clock.advance(2 * 3600 + 1)
    await broker.fake_clock.run(2)

    async def ended() -> bool:
        step = await broker.store.read(lambda tx: tx.step(opened.step.id))
        return step is not None and step.end_reason is EndReason.DEADLINE

    await broker.until(ended)


async def test_an_ended_step_says_so_to_its_own_agent_only(broker: World) -> None:
    opened = await broker.begin()
    await broker.end(opened.handle)
    mine = await refusal(broker.engine.heartbeat(agent(), opened.handle, []))
    foreign = await refusal(broker.engine.heartbeat(agent(OTHER), opened.handle, []))
    unknown = await refusal(broker.engine.heartbeat(agent(), "x" * 26, []))
    assert mine.reason is Reason.STEP_ENDED
    assert foreign.reason is unknown.reason is Reason.ACCESS_DENIED
    assert (foreign.message, foreign.metadata) == (unknown.message, unknown.metadata)
