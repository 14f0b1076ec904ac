"""Callers that vanish, and two things that happen in the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker.errors import Reason, StoreError
from broker.guard.successors import successor_allowance
from broker.leases.epoch import EpochLost
from broker.leases.issuing import Issuing
from broker.leases.selection import Selection
from broker.model import EndReason, LeaseState, StepState
from broker.store.guard import GuardRow
from tests.fakes.memory_store import MemoryTx
from tests.fakes.world import ANN, World, agent, new_id, refusal


async def test_a_caller_that_vanishes_while_the_intent_is_written_leaves_no_intent_behind(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    request_id = new_id()
    cancel: list[asyncio.Task[Any]] = []
    original = Issuing._intend

    def intend(self: Issuing, *args: Any) -> Any:
        cancel[0].cancel()  # the client hangs up while the transaction runs
        return original(self, *args)

    monkeypatch.setattr(Issuing, "_intend", intend)
    caller = asyncio.create_task(broker.issue(opened.handle, request_id=request_id))
    cancel.append(caller)
    with pytest.raises(asyncio.CancelledError):
        await caller
    monkeypatch.undo()
    await broker.until(lambda: _states(broker, LeaseState.ACTIVE))
    replayed = await broker.issue(opened.handle, request_id=request_id)
    assert replayed.lease.state is LeaseState.ACTIVE
    assert (await broker.end(opened.handle)).all_proven


async def test_a_step_of_which_nothing_was_noted_yet_is_not_silent(broker: World) -> None:
    await broker.fake_clock.run(120)  # the epoch is old
    opened = await broker.begin()
    broker.core.heard.clear()  # the caller vanished between the commit and its answer
    await broker.fake_clock.run(5)
    step = await broker.store.read(lambda tx: tx.step(opened.step.id))
    assert step is not None
    assert step.state is StepState.OPEN
    await broker.fake_clock.run(50)
    step = await broker.store.read(lambda tx: tx.step(opened.step.id))
    assert step is not None
    assert step.end_reason is EndReason.SILENT


async def test_what_was_heard_of_ended_steps_is_forgotten(broker: World) -> None:
    opened = await broker.begin()
    await broker.end(opened.handle)
    broker.core.heard[opened.step.id] = broker.clock.boottime()  # a call that was on its way when the step ended
    await broker.fake_clock.run(3)
    assert broker.core.heard == {}


async def test_a_lease_claimed_while_the_reaper_looks_is_not_unclaimed(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    original = broker.store.write

    async def claim_first(operation: Callable[[Any], Any], **how: Any) -> Any:
        if "Reaper" in operation.__qualname__:
            await original(lambda tx: tx.claim(lease.id, broker.clock.now()))
        return await original(operation, **how)

    monkeypatch.setattr(broker.store, "write", claim_first)
    await broker.fake_clock.run(35)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE


async def test_a_heartbeat_that_crosses_the_end_learns_of_it(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await broker.begin()
    original = broker.store.write

    async def end_first(operation: Callable[[Any], Any], **how: Any) -> Any:
        if "heartbeat" in operation.__qualname__:
            await original(lambda tx: tx.end_step(opened.step.id, broker.clock.now(), EndReason.OPERATOR))
        return await original(operation, **how)

    monkeypatch.setattr(broker.store, "write", end_first)
    error = await refusal(broker.engine.heartbeat(agent(), opened.handle, []))
    assert error.reason is Reason.STEP_ENDED


async def test_one_step_that_cannot_be_ended_does_not_keep_the_others_alive(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await broker.begin(run="r1"), await broker.begin(run="r2")
    end_step = MemoryTx.end_step

    def end(self: MemoryTx, step_id: str, *args: Any) -> bool:
        if step_id == first.step.id:
            raise StoreError("this one row")
        return end_step(self, step_id, *args)

    monkeypatch.setattr(MemoryTx, "end_step", end)
    await broker.fake_clock.run(60)
    step = await broker.store.read(lambda tx: tx.step(second.step.id))
    assert step is not None
    assert step.end_reason is EndReason.SILENT


async def test_only_the_lease_dies_when_only_the_lease_was_withdrawn_in_flight(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    [lease] = await broker.leases()
    assert await broker.engine.orders.revoke(Selection(leases=frozenset({lease.id})), ANN)
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.LEASE_ENDED
    await broker.engine.heartbeat(agent(), opened.handle, [])  # the step goes on
    await broker.until(broker.nothing_alive)


async def test_each_waiter_of_a_failed_mint_has_a_reference_of_its_own(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    broker.provider.fail = "refuse"
    calls = (refusal(broker.issue(opened.handle, request_id=request_id)) for _ in range(3))
    errors = await asyncio.gather(*calls)
    assert len({id(error) for error in errors}) == 3


async def test_a_map_between_commit_and_swap_does_not_decide_by_the_old_one(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    generation = await broker.store.write(lambda tx: tx.raise_generation())
    broker.provider.after_landing.set()
    await asyncio.sleep(0.05)
    assert not await _states(broker, LeaseState.ACTIVE)
    broker.policies.generation_raised(generation)
    await broker.fake_clock.run(3, step=0.1)
    assert (await caller).lease.state is LeaseState.ACTIVE


async def test_a_map_that_is_never_swapped_in_ends_the_mint_in_flight(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    await broker.store.write(lambda tx: tx.raise_generation())
    broker.provider.after_landing.set()
    await broker.fake_clock.run(10, step=0.1)
    assert (await refusal(caller)).reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)


async def test_an_id_whose_request_was_forgotten_is_refused_as_used(broker: World) -> None:
    opened = await broker.begin()
    request_id = new_id()
    await broker.issue(opened.handle, request_id=request_id)
    await broker.store.write(lambda tx: tx.forget_requests(broker.clock.now().replace(year=9999)))
    error = await refusal(broker.issue(opened.handle, request_id=request_id))
    assert error.reason is Reason.REQUEST_ID_REUSED


# --- successors ---


async def test_successors_that_fail_are_not_free(broker: World) -> None:
    opened = await broker.begin()
    older = (await broker.issue(opened.handle)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [older.id])
    broker.fake_clock.advance(401)
    await broker.fake_clock.run(6)
    broker.provider.fail = "lose-answer"  # each one lands
    reasons: list[Reason] = []
    for _ in range(100):
        await broker.engine.heartbeat(agent(), opened.handle, [older.id])
        reasons.append((await refusal(broker.issue(opened.handle, replaces=older.id))).reason)
    allowance = successor_allowance(
        first_mint=older.intent_at, step_deadline=opened.step.deadline_at, ttl=older.expires_at - older.intent_at
    )
    assert reasons[-1] is Reason.SUCCESSORS_EXHAUSTED
    assert len(broker.backend.mints) <= 1 + allowance


async def test_a_successor_that_fails_or_succeeds_changes_nothing_in_the_guard(broker: World) -> None:
    """Or it would pass for a provider's outage, which locks nobody: one failed successor, and a runaway goes on."""
    opened = await broker.begin(["danger"])
    held = [(await broker.issue(opened.handle, "danger")).lease.id for _ in range(3)]
    await broker.engine.heartbeat(agent(), opened.handle, held)
    broker.fake_clock.advance(401)
    await broker.fake_clock.run(6)
    before = await _guard(broker)
    broker.provider.fail = "refuse"
    assert (await refusal(broker.issue(opened.handle, "danger", replaces=held[0]))).reason is Reason.PROVIDER_FAILED
    broker.provider.fail = ""
    assert await _guard(broker) == before
    await broker.engine.heartbeat(agent(), opened.handle, held)
    await broker.issue(opened.handle, "danger", replaces=held[0])
    assert await _guard(broker) == before
    assert (await refusal(broker.issue(opened.handle, "danger"))).reason is Reason.LOCKED


async def _guard(broker: World) -> list[GuardRow]:
    return await broker.store.read(lambda tx: tx.guard_page(after="", limit=9, open_too=True))


async def test_a_successor_that_was_lost_in_a_restart_can_be_asked_for_again(broker: World) -> None:
    opened = await broker.begin()
    older = (await broker.issue(opened.handle)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [older.id])
    broker.fake_clock.advance(401)
    await broker.fake_clock.run(6)
    broker.provider.after_landing.clear()
    lost = asyncio.create_task(broker.issue(opened.handle, replaces=older.id), name="doomed call")
    await asyncio.sleep(0.02)
    await broker.crash()
    assert lost.done()
    await broker.start()
    newer = (await broker.issue(opened.handle, replaces=older.id)).lease
    await broker.engine.heartbeat(agent(), opened.handle, [older.id, newer.id])
    assert (await broker.lease(older.id)).end_reason is EndReason.REPLACED


# --- what a note finds ---


async def test_a_note_that_finds_its_row_taken_stops_the_provider(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.before_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.arrived.wait()
    [lease] = await broker.leases()
    await broker.core.epoch.take()  # as after a stall: the row is IN_DOUBT now
    with pytest.raises(EpochLost):
        await broker.engine._minter._note(lease, {"children": ["x"]})
    broker.provider.before_landing.set()
    assert (await refusal(caller)).reason is Reason.REPLAY_LOST


async def _states(broker: World, *states: LeaseState) -> bool:
    return [lease.state for lease in await broker.leases()] == list(states)


async def test_a_renewal_that_outlasts_its_epoch_is_a_new_epoch(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What settled in the gap wrote nothing, and left its row to the next epoch: there must be one."""
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    original = broker.store.write

    async def slow(operation: Callable[[Any], Any], **how: Any) -> Any:
        result = await original(operation, **how)
        if "renew" in operation.__qualname__:
            broker.fake_clock.suspend(7)  # the disk took its time
            broker.provider.after_landing.set()
            assert (await refusal(caller)).reason is Reason.REPLAY_LOST
        return result

    monkeypatch.setattr(broker.store, "write", slow)
    before = broker.core.epoch.id
    broker.fake_clock.suspend(10)  # of 15: still fresh, and still so by the renewed row when it is written
    assert await broker.core.epoch.renew()
    assert broker.core.epoch.id == before + 1
    assert not await broker.leases(LeaseState.INTENT)
    await broker.until(broker.nothing_alive)


async def test_a_mint_is_not_sent_under_an_epoch_that_ran_out(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await broker.begin()
    original = broker.store.write

    async def stopped(operation: Callable[[Any], Any], **how: Any) -> Any:
        result = await original(operation, **how)
        if "_admit" in operation.__qualname__:
            broker.fake_clock.suspend(20)  # the machine slept between intent and send
        return result

    monkeypatch.setattr(broker.store, "write", stopped)
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.EPOCH_LOST
    assert broker.provider.seen == []
    await broker.core.epoch.renew()
    assert not await broker.leases(LeaseState.INTENT)
