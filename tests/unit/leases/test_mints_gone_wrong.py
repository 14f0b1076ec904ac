"""Whatever happens to a mint, its row leaves INTENT and nothing stays alive: nobody else looks at those rows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from broker.errors import Reason, StoreFull
from broker.leases import committing, minting
from broker.leases.committing import Commit
from broker.model import EndReason, LeaseState
from broker.providers.base import Contact, LeaseRef, Minted, MintOrder, MintRefused, Progress
from tests.fakes.provider import FakeProvider
from tests.fakes.world import MAP, World, refusal


async def comes_to_rest(broker: World, handle: str) -> None:
    """The step ends; past the landing time the lease has ended and nothing is alive."""
    await broker.end(handle, wait=0)
    for _ in range(40):
        await broker.fake_clock.run(5)
        broker.core.lane.set()
        await asyncio.sleep(0.005)
    (row,) = await broker.leases()
    assert row.state.terminal, row.state
    assert not broker.backend.alive


async def test_an_answer_that_cannot_be_written_is_a_doubt(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mint = FakeProvider.mint

    async def odd(self: FakeProvider, order: MintOrder) -> Minted:
        return replace(await mint(self, order), refs={"x": object()})

    monkeypatch.setattr(FakeProvider, "mint", odd)
    opened = await broker.begin()
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.PROVIDER_FAILED
    await comes_to_rest(broker, opened.handle)


async def test_a_mint_that_is_cancelled_from_inside_is_a_doubt(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mint = FakeProvider.mint

    async def broken(self: FakeProvider, order: MintOrder) -> Minted:
        await mint(self, order)
        inner = asyncio.ensure_future(asyncio.sleep(10))
        inner.cancel()
        await inner
        raise AssertionError

    monkeypatch.setattr(FakeProvider, "mint", broken)
    opened = await broker.begin()
    assert (await refusal(broker.issue(opened.handle))).reason is Reason.PROVIDER_FAILED
    await comes_to_rest(broker, opened.handle)


async def test_a_kill_that_hangs_while_the_disk_is_full_goes_on_in_the_lane(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoke, hung = FakeProvider.revoke, asyncio.Event()

    def full(*_: Any, **__: Any) -> None:
        raise StoreFull("no space left")

    async def hangs_once(self: FakeProvider, ref: LeaseRef) -> Progress:
        if not hung.is_set():
            hung.set()
            await asyncio.Event().wait()
        return await revoke(self, ref)

    monkeypatch.setattr(committing, "ATTEMPT_LIMIT", 0.05)
    monkeypatch.setattr(Commit, "_activate", full)
    monkeypatch.setattr(FakeProvider, "revoke", hangs_once)
    opened = await broker.begin()
    with pytest.raises(StoreFull):
        await broker.issue(opened.handle)
    await hung.wait()
    await asyncio.sleep(0.2)
    await comes_to_rest(broker, opened.handle)


async def test_mints_that_hang_open_the_breaker(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minting, "SETTLE_FACTOR", 0.005)
    failed: list[str] = []
    breaker = broker.core.breakers["fake"]
    monkeypatch.setattr(breaker, "failed", lambda lease_id, **_: failed.append(lease_id))
    broker.provider.before_landing.clear()
    opened = await broker.begin()
    assert "took too long" in str((await refusal(broker.issue(opened.handle))).about["why"])
    assert len(failed) == 1


@pytest.mark.parametrize(("contact", "counted"), [(Contact.FAILED, 1), (Contact.ANSWERED, 0), (Contact.NOT_ASKED, 0)])
async def test_a_refused_mint_counts_for_the_breaker_when_the_provider_cannot(
    broker: World, monkeypatch: pytest.MonkeyPatch, contact: Contact, counted: int
) -> None:
    failed: list[str] = []
    monkeypatch.setattr(broker.core.breakers["fake"], "failed", lambda lease_id, **_: failed.append(lease_id))

    async def throttled(*_: object) -> Minted:
        raise MintRefused("too many calls", contact)

    monkeypatch.setattr(FakeProvider, "mint", throttled)
    opened = await broker.begin()
    assert "too many calls" in str((await refusal(broker.issue(opened.handle))).about["why"])
    (row,) = await broker.leases()
    assert (row.state, len(failed)) == (LeaseState.VOID, counted)


@pytest.mark.parametrize(
    "change",
    ["role: narrow}, ttl: 10m", "role: plain}, ttl: 2m"],
)
async def test_what_todays_map_would_not_give_so_is_not_delivered(broker: World, change: str) -> None:
    opened = await broker.begin()
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await broker.provider.landed.wait()
    broker.map_file.write_text(MAP.replace("plain: {fake: {role: plain}, ttl: 10m", f"plain: {{fake: {{{change}"))
    assert await broker.policies.reload()
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.ACCESS_DENIED
    (row,) = await broker.leases()
    assert (row.state is LeaseState.ACTIVE, row.end_reason) == (False, EndReason.POLICY_CHANGED)
    await broker.until(broker.nothing_alive)
