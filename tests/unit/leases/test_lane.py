"""The revocation lane, clocks that jump, and the drain."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.errors import BrokerError, Reason, StoreError
from broker.leases import ending, lane
from broker.model import EndReason, LeaseState
from broker.providers.base import LeaseRef, Progress, ProviderError
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, World, agent, everything, refusal, world


class Hanging(FakeProvider):
    """Never answers a revocation."""

    async def revoke(self, ref: LeaseRef) -> Progress:
        self.seen.append("revoke")
        await asyncio.Event().wait()
        raise AssertionError


def hang(broker: World, name: str) -> FakeProvider:
    stuck = Hanging(broker.backend, name=name)
    broker.core.providers[name] = stuck  # type: ignore[index]  # the world's own dict
    return stuck


async def test_a_page_of_stuck_revocations_does_not_hold_up_another_provider(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PAGE", 2)
    timed, plain = await broker.begin(["timed"], run="r1"), await broker.begin(["plain"], run="r2")
    for _ in range(4):
        await broker.issue(timed.handle, "timed")
    lease = (await broker.issue(plain.handle)).lease
    hang(broker, "timed")
    assert not (await broker.end(timed.handle, wait=0.2)).all_proven
    assert (await broker.end(plain.handle, wait=3)).all_proven
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKED


@pytest.mark.parametrize(("at_once", "in_flight"), [(None, lane.BULKHEAD), (40, 40)])
async def test_who_answers_many_ends_with_one_call_is_asked_for_as_many_at_a_time(
    broker: World, at_once: int | None, in_flight: int
) -> None:
    stuck = hang(broker, "timed")
    if at_once is not None:
        setattr(stuck, "ends_at_once", at_once)  # noqa: B010 - what the provider would declare
    for number in range(12):
        opened = await broker.begin(["timed"], run=f"r{number}")
        for _ in range(4):
            await broker.issue(opened.handle, "timed")
        await broker.end(opened.handle, wait=0)
    await broker.until(lambda: _asked(stuck, in_flight))
    await asyncio.sleep(2 * lane.BUSY)
    assert stuck.seen.count("revoke") == in_flight


async def _asked(provider: FakeProvider, times: int) -> bool:
    return provider.seen.count("revoke") >= times


async def test_leases_of_a_provider_that_is_gone_are_told_and_hold_up_nobody(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "PAGE", 2)
    first, second = await broker.begin(["timed"], run="r1"), await broker.begin(["plain"], run="r2")
    orphans = [(await broker.issue(first.handle, "timed")).lease for _ in range(3)]
    await broker.issue(second.handle)
    del broker.core.providers["timed"]  # type: ignore[attr-defined]  # the operator took it out of the config
    await broker.end(first.handle, wait=0.2)
    assert (await broker.end(second.handle, wait=3)).all_proven
    rows = [await broker.lease(lease.id) for lease in orphans]
    assert {row.last_problem for row in rows} == {"the provider is not configured at this broker"}
    await broker.fake_clock.run(700, step=10)  # past the bound that STS and the like enforce themselves
    await broker.until(lambda: _all_in(broker, orphans, LeaseState.EXPIRED))


async def test_a_revocation_that_hangs_is_given_up_and_tried_again(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "ATTEMPT_LIMIT", 0.05)
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    stuck = hang(broker, "fake")
    await broker.end(opened.handle, wait=0.3)
    assert stuck.seen
    broker.core.providers["fake"] = broker.provider  # type: ignore[index]
    await broker.fake_clock.run(5)
    await broker.until(lambda: _all_in(broker, [lease], LeaseState.REVOKED))


async def test_a_doubt_that_cannot_be_settled_alarms(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def settle(*_: Any, **__: Any) -> Any:
        raise ProviderError("backend unreachable")

    opened = await broker.begin()
    monkeypatch.setattr(broker.provider, "settle", settle)
    broker.provider.fail = "lose-answer"
    await refusal(broker.issue(opened.handle))
    await broker.fake_clock.run(300, step=5)
    await broker.until(lambda: _gauge(broker, "stepcred_revoking_overdue", 1))


async def test_a_clock_set_forward_is_no_evidence(broker: World) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    broker.core.providers["timed"].proves = False  # type: ignore[attr-defined]  # the fake's own switch
    await broker.end(opened.handle, wait=0.1)
    broker.fake_clock.set_wall(broker.clock.now() + timedelta(hours=1))
    await broker.fake_clock.run(10)
    for _ in range(5):
        broker.core.lane.set()
        await asyncio.sleep(0.02)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKING
    await broker.fake_clock.run(700, step=10)
    await broker.until(lambda: _all_in(broker, [lease], LeaseState.EXPIRED))


async def test_a_clock_set_forward_settles_no_doubt(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.fail = "lose-request"
    await refusal(broker.issue(opened.handle))
    broker.fake_clock.set_wall(broker.clock.now() + timedelta(hours=1))
    await broker.fake_clock.run(5)
    await asyncio.sleep(0.05)
    [lease] = await broker.leases()
    assert lease.state is LeaseState.IN_DOUBT


@pytest.mark.parametrize("minutes", [5, -60])
async def test_the_claim_window_is_not_on_the_wall_clock(broker: World, minutes: int) -> None:
    await broker.fake_clock.run(60)  # the epoch is older than the window
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    await broker.fake_clock.run(2)
    broker.fake_clock.set_wall(broker.clock.now() + timedelta(minutes=minutes))
    await broker.fake_clock.run(5)
    assert (await broker.lease(lease.id)).state is LeaseState.ACTIVE
    await broker.fake_clock.run(30)
    assert (await broker.lease(lease.id)).end_reason is EndReason.UNCLAIMED


async def test_a_drain_goes_on_after_a_failed_attempt(tmp_path: Path) -> None:
    async with world(tmp_path, clock=SystemClock()) as broker:
        opened = await broker.begin()
        lease = (await broker.issue(opened.handle)).lease
        broker.provider.revoke_fails = True
        await broker.end(opened.handle, wait=0)
        await broker.until(lambda: _tried(broker, lease.id))
        asyncio.get_running_loop().call_later(0.3, setattr, broker.provider, "revoke_fails", False)
        await broker.engine.drain(revoke=False)
        assert (await broker.lease(lease.id)).state is LeaseState.REVOKED


async def test_a_drain_that_cannot_write_still_ends(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await broker.begin()

    async def full(*_: Any, **__: Any) -> Any:
        raise StoreError("no space left")

    monkeypatch.setattr(broker.engine._steps, "end", full)
    await broker.engine.drain(revoke=True)


async def test_what_may_be_asked_again_says_when(broker: World) -> None:
    await broker.begin()
    broker.core.draining.set()
    error = await refusal(broker.begin(run="r2"))
    assert error.reason is Reason.DRAINING
    assert error.retry_after is not None
    broker.core.draining.clear()
    broker.fake_clock.suspend(60)  # the machine slept
    lost = await refusal(broker.begin(run="r3"))
    assert lost.reason is Reason.EPOCH_LOST
    assert lost.retry_after is not None


async def test_freezing_is_journalled(broker: World) -> None:
    await broker.engine.orders.freeze(everything(), ANN)
    await broker.engine.orders.freeze(everything(), ANN)
    assert (await broker.journal_kinds()).count("FROZEN") == 2


async def test_the_gauges_follow_the_store(broker: World) -> None:
    opened = await broker.begin()
    await broker.issue(opened.handle)
    await broker.fake_clock.run(7)
    await broker.until(lambda: _gauge(broker, "stepcred_leases", 1, state="ACTIVE"))
    await broker.until(lambda: _gauge(broker, "stepcred_steps_open", 1))
    await broker.end(opened.handle)
    await broker.fake_clock.run(7)
    await broker.until(lambda: _gauge(broker, "stepcred_leases", 0, state="ACTIVE"))
    assert await _gauge(broker, "stepcred_steps_open", 0)
    await broker.engine.orders.freeze(everything(), ANN)
    await broker.fake_clock.run(7)
    await broker.until(lambda: _gauge(broker, "stepcred_frozen", 1))
    assert await _gauge(broker, "stepcred_mint_seconds_count", 1, provider="fake")
    assert await _gauge(broker, "stepcred_revocation_seconds_count", 1, provider="fake", outcome="answered")


async def test_a_waiter_finds_out_even_when_nobody_tells(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await broker.begin()
    await broker.issue(opened.handle)
    monkeypatch.setattr(type(broker.core.endings), "tell", lambda *_: None)
    ended = await asyncio.wait_for(broker.end(opened.handle, wait=20), 5)
    assert ended.all_proven


# --- refusals ---


async def test_counts_that_could_not_be_written_are_written_later(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = broker.engine._refusals
    for _ in range(9):
        await refusals.record(agent(), "IssueCredential", BrokerError(Reason.ACCESS_DENIED, "no"))
    broker.fake_clock.advance(61)

    async def full(*_: Any) -> Any:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(broker.store, "write", full)
        with pytest.raises(StoreError):
            await refusals.flush()
    await refusals.flush()
    assert "DENIALS_COUNTED" in await broker.journal_kinds()


async def test_counts_of_the_running_minute_survive_a_stop(broker: World) -> None:
    for _ in range(9):
        await broker.engine._refusals.record(agent(), "IssueCredential", BrokerError(Reason.ACCESS_DENIED, "no"))
    await broker.engine.stop()
    assert "DENIALS_COUNTED" in await broker.journal_kinds()


async def test_no_refusal_is_answered_before_the_record_whose_reference_it_carries(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals, original = broker.engine._refusals, broker.store.write
    slow = asyncio.Event()

    async def write(operation: Any, **how: Any) -> Any:
        await slow.wait()
        return await original(operation, **how)

    for _ in range(5):
        await refusals.record(agent(), "IssueCredential", BrokerError(Reason.ACCESS_DENIED, "no"))
    monkeypatch.setattr(broker.store, "write", write)
    waiting = [
        asyncio.create_task(refusals.record(agent(), "IssueCredential", BrokerError(Reason.ACCESS_DENIED, "no")))
        for _ in range(3)
    ]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    slow.set()
    await asyncio.wait_for(asyncio.gather(*waiting), 15)


# --- helpers ---


async def _all_in(broker: World, leases: Any, state: LeaseState) -> bool:
    broker.core.lane.set()
    return {(await broker.lease(lease.id)).state for lease in leases} == {state}


async def _tried(broker: World, lease_id: str) -> bool:
    return (await broker.lease(lease_id)).attempts > 0


async def _gauge(broker: World, name: str, value: float, **labels: str) -> bool:
    broker.core.lane.set()
    return broker.core.metrics.registry.get_sample_value(name, labels) == value
