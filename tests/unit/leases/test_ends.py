"""Ends and what is told of them: in time, on record, and however many there are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.config import Limits, Timings
from broker.errors import BrokerError, Reason
from broker.leases.opening import opening
from broker.model import EndReason, Evidence, LeaseState
from broker.rpc.servicer import Servicer
from broker.store.guard import GuardState
from stepcred.v1 import broker_pb2
from tests.fakes.memory_store import MemoryStore
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, OTHER, World, agent, everything, new_id, refusal, world


async def test_on_stop_revoke_ends_what_lives_though_a_mint_hangs(tmp_path: Path) -> None:
    async with world(tmp_path, timings=Timings(drain_grace=timedelta(seconds=1))) as broker:
        first, second = await broker.begin(), await broker.begin(run="r2")
        lease = (await broker.issue(first.handle)).lease
        broker.provider.before_landing.clear()
        broker.provider.arrived.clear()
        hanging = asyncio.create_task(broker.issue(second.handle))
        await broker.provider.arrived.wait()
        await broker.engine.drain(revoke=True)
        assert (await broker.lease(lease.id)).state is LeaseState.REVOKED
        assert await broker.store.read(lambda tx: tx.open_step_count()) == 0
        hanging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hanging


async def test_freezing_may_take_along_what_lives(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    await broker.engine.orders.freeze(everything(), ANN)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    await broker.engine.orders.freeze(everything(), ANN, revoke=True)
    await broker.until(broker.nothing_alive)
    assert (await broker.lease(lease.id)).end_reason is EndReason.FROZEN


async def test_a_doubt_that_is_asked_to_end_is_on_record_with_its_time(broker: World) -> None:
    broker.provider.fail = "lose-answer"
    opened = await broker.begin()
    await refusal(broker.issue(opened.handle))
    (lease,) = await broker.leases()
    known = len(await broker.journal_kinds())
    await broker.engine.revoke_lease(
        agent(), request_id=new_id(), handle=opened.handle, lease_id=lease.id, wait_seconds=0
    )
    assert "LEASE_DOOMED" in (await broker.journal_kinds())[known:]
    row = await broker.lease(lease.id)
    assert (row.state, row.end_reason) == (LeaseState.IN_DOUBT, EndReason.REVOKED_BY_AGENT)
    await broker.end(opened.handle, wait=0)
    for _ in range(30):
        await broker.fake_clock.run(5)
        broker.core.lane.set()
        await asyncio.sleep(0.005)
    (outcome,) = (await broker.end(opened.handle, wait=0)).outcomes
    assert outcome.evidence is Evidence.SEEN_DEAD
    assert outcome.time_to_dead is not None
    assert outcome.time_to_dead > timedelta(seconds=90)


async def test_a_step_waits_for_a_deny_that_was_not_written_yet(broker: World) -> None:
    timed = broker.core.providers["timed"]
    assert isinstance(timed, FakeProvider)
    opened = await broker.begin(["timed"])
    await broker.issue(opened.handle, "timed")
    timed.revoke_fails, timed.proves = True, False
    waiting = asyncio.create_task(broker.end(opened.handle, wait=30))
    await asyncio.sleep(0.3)
    assert not waiting.done()  # one attempt has failed, and nothing has been done
    timed.revoke_fails = False
    await broker.fake_clock.run(2)
    broker.core.lane.set()
    (outcome,) = (await asyncio.wait_for(waiting, 15)).outcomes
    assert (outcome.state, outcome.exposed_until is not None) == (LeaseState.REVOKING, True)


async def test_what_writing_the_end_took_is_part_of_the_callers_patience(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    await broker.issue(opened.handle)
    broker.provider.proves = False
    loop, write = asyncio.get_running_loop(), MemoryStore.write
    begun = loop.time()

    class Context:
        def time_remaining(self) -> float:
            return 2.0 - (loop.time() - begun)

    async def slow(self: MemoryStore, operation: Any, **how: Any) -> Any:
        result = await write(self, operation, **how)
        await asyncio.sleep(1.0)
        return result

    monkeypatch.setattr(MemoryStore, "write", slow)
    servicer = Servicer(broker.engine, broker.policies, broker.timings, broker.clock, Limits())
    request = broker_pb2.EndStepRequest(request_id=new_id(), step_handle=opened.handle)
    request.wait.FromSeconds(60)
    await servicer.end_step(request, agent(), Context())
    assert loop.time() - begun < 2.4  # and 2.5 if it were not


async def test_a_crowd_that_falls_silent_keeps_nobody_elses_step_alive(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended one by one, 330 steps took the reaper so long that it believed itself to have been stopped."""
    write = MemoryStore.write

    async def twenty_milliseconds(self: MemoryStore, operation: Callable[..., Any], **how: Any) -> Any:
        result = await write(self, operation, **how)
        broker.fake_clock.advance(0.02)
        return result

    for number in range(330):
        await broker.begin(run=f"r{number}")
    await pass_(broker, 25)
    opened = await broker.begin(who=agent(OTHER), run="other")
    lease = (await broker.issue(opened.handle, who=agent(OTHER))).lease
    await broker.engine.heartbeat(agent(OTHER), opened.handle, [lease.id])
    monkeypatch.setattr(MemoryStore, "write", twenty_milliseconds)
    await pass_(broker, 50)
    assert (await broker.lease(lease.id)).end_reason is EndReason.SILENT


async def test_after_the_machine_slept_an_unclaimed_credential_dies_within_five_seconds(broker: World) -> None:
    opened = await broker.begin()
    await broker.issue(opened.handle)
    await pass_(broker, 6)
    broker.fake_clock.suspend(60)
    await pass_(broker, 3)
    assert not broker.backend.alive


@pytest.mark.parametrize("held", ["hour", "budget"])
async def test_a_successor_gets_around_no_hold(broker: World, held: str) -> None:
    opened = await broker.begin(["danger"])
    lease = (await broker.issue(opened.handle, "danger")).lease
    await keep(broker, lambda: broker.engine.heartbeat(agent(), opened.handle, [lease.id]), 410)
    row = await broker.store.read(lambda tx: tx.guard_row(lease.guard_key))
    assert row is not None
    hour = await broker.store.read(lambda tx: tx.guard_row(row.hour_key))
    assert hour is not None
    await broker.store.write(
        lambda tx: tx.put_guard_row(replace(hour if held == "hour" else row, state=GuardState.HELD))
    )
    assert (await refusal(broker.issue(opened.handle, "danger", replaces=lease.id))).reason is Reason.HELD
    assert len(broker.backend.mints) == 1


async def pass_(broker: World, seconds: int) -> None:
    for _ in range(seconds):
        broker.fake_clock.advance(1)
        broker.core.lane.set()
        await asyncio.sleep(0.005)


async def keep(broker: World, beat: Callable[[], Awaitable[object]], seconds: int) -> None:
    for _ in range(seconds // 10):
        await broker.fake_clock.run(10)
        with contextlib.suppress(BrokerError):
            await beat()


@pytest.mark.parametrize("hours", [-24, -1, 1, 24])
async def test_a_clock_that_is_set_before_a_restart_moves_no_deadline(broker: World, hours: int) -> None:
    asked = opening(
        agent=agent(), request_id=new_id(), workflow="nightly", run="r1", step="load", scopes=["plain"], seconds=300
    )
    opened = await broker.engine.begin_step(agent(), asked)
    lease = (await broker.issue(opened.handle)).lease

    def beat() -> Awaitable[object]:
        return broker.engine.heartbeat(agent(), opened.handle, [lease.id])

    await beat()
    broker.fake_clock.set_wall(broker.fake_clock.now() + timedelta(hours=hours))
    await broker.crash()
    await broker.start()
    await keep(broker, beat, 280)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.TTL_TOO_SHORT
    await keep(broker, beat, 30)
    assert (await broker.lease(lease.id)).end_reason is EndReason.DEADLINE
