"""A replay never mints: the same credential, the recorded reason, or the word that it is lost, however often."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from broker.errors import BrokerError, Reason
from broker.model import EndReason
from tests.fakes.world import ANN, World, agent, everything, new_id, refusal


async def lost_twice(broker: World, handle: str, request_id: str) -> None:
    for _ in range(2):
        assert (await refusal(broker.issue(handle, request_id=request_id))).reason is Reason.REPLAY_LOST
    assert len(broker.backend.mints) <= 1


@pytest.mark.parametrize("claimed", [False, True])
async def test_after_a_restart_it_is_lost_also_when_it_was_never_claimed(broker: World, *, claimed: bool) -> None:
    opened, request_id = await broker.begin(), new_id()
    lease = (await broker.issue(opened.handle, request_id=request_id)).lease
    if claimed:
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    await broker.crash()
    await broker.start()
    await lost_twice(broker, opened.handle, request_id)
    await broker.until(broker.nothing_alive)


async def test_after_its_claim_window_it_is_lost(broker: World) -> None:
    opened, request_id = await broker.begin(), new_id()
    lease = (await broker.issue(opened.handle, request_id=request_id)).lease
    for _ in range(40):
        await broker.fake_clock.run(1)
        await broker.engine.heartbeat(agent(), opened.handle, [])
    broker.engine._minter._tasks.clear()  # dropped by real time, of which little has passed
    assert (await broker.lease(lease.id)).end_reason is EndReason.UNCLAIMED
    await lost_twice(broker, opened.handle, request_id)


async def test_a_mint_that_a_crash_left_in_doubt_is_lost_before_and_after_it_is_settled(broker: World) -> None:
    opened, request_id = await broker.begin(), new_id()
    broker.provider.before_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle, request_id=request_id))
    await broker.provider.arrived.wait()
    await broker.crash()
    assert caller.done()
    await broker.start()
    await lost_twice(broker, opened.handle, request_id)
    for _ in range(40):
        await broker.fake_clock.run(5)
        broker.core.lane.set()
        await asyncio.sleep(0.005)
        with contextlib.suppress(BrokerError):
            await broker.engine.heartbeat(agent(), opened.handle, [])
    assert (await broker.leases())[0].state.terminal
    await lost_twice(broker, opened.handle, request_id)


async def test_while_the_broker_stops_it_is_answered(broker: World) -> None:
    opened, request_id = await broker.begin(), new_id()
    broker.provider.before_landing.clear()
    first = asyncio.create_task(broker.issue(opened.handle, request_id=request_id))
    await broker.provider.arrived.wait()
    first.cancel()  # its connection broke
    draining = asyncio.create_task(broker.engine.drain(revoke=False))
    await asyncio.sleep(0.01)
    broker.provider.before_landing.set()
    delivered = await broker.issue(opened.handle, request_id=request_id)
    assert delivered.lease.request_id == request_id
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.DRAINING
    await draining


async def test_while_the_broker_is_frozen_nothing_is_delivered(broker: World) -> None:
    opened, request_id = await broker.begin(), new_id()
    await broker.issue(opened.handle, request_id=request_id)
    await broker.engine.orders.freeze(everything(), ANN)
    assert (await refusal(broker.issue(opened.handle, request_id=request_id))).reason is Reason.FROZEN
