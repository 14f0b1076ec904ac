"""Ends that are hard to come by: they must neither stop others nor be believed too early."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from broker.errors import BrokerError, StoreError
from broker.leases import recovery
from broker.model import EndReason, LeaseState
from broker.providers.base import LeaseRef, Progress, ProviderError, Settlement, Sweep, Swept
from tests.fakes.provider import FakeProvider
from tests.fakes.world import World


@pytest.mark.parametrize("old", [5, 10])
async def test_leases_of_an_old_cluster_do_not_stop_mints_at_the_new_one(
    broker: World, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [await broker.begin(run=f"old{number}") for number in range(old)]
    for opened in first:
        await broker.issue(opened.handle)

    async def elsewhere(_self: FakeProvider, _ref: LeaseRef) -> Progress:
        raise ProviderError("another cluster answers", answered=True)

    monkeypatch.setattr(FakeProvider, "revoke", elsewhere)
    for opened in first:
        await broker.end(opened.handle, wait=0)
    for number in range(10):
        await broker.fake_clock.run(10)
        opened = await broker.begin(run=f"new{number}")
        await broker.issue(opened.handle)  # not refused


async def test_without_an_epoch_the_provider_is_not_hammered(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [(await broker.issue((await broker.begin(run=f"r{number}")).handle)).lease.id for number in range(20)]

    async def cannot() -> bool:
        raise StoreError("disk I/O error")

    monkeypatch.setattr(broker.core.epoch, "renew", cannot)
    await broker.engine.revoke(ids, reason=EndReason.STEP_ENDED)
    monkeypatch.setattr(broker.core.epoch, "_expires_boot", 0.0)
    broker.provider.seen.clear()
    await asyncio.sleep(0.5)
    assert broker.provider.seen.count("revoke") <= 2 * len(ids)


class Recovering(FakeProvider):
    """Learns only at the second run what to look for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.swept: list[datetime] = []

    async def recover(self, sweep: Sweep) -> Swept:
        self.swept.append(sweep.since)
        if len(self.swept) == 1:
            raise ProviderError("an operator's token is needed")
        return Swept()


async def test_since_is_no_later_than_the_last_record_also_when_recover_is_run_again(broker: World) -> None:
    clock = broker.fake_clock
    await broker.issue((await broker.begin()).handle)
    last = clock.now()
    await broker.engine.stop()
    clock.advance(3600)
    since = clock.now() - timedelta(minutes=5)
    asked = recovery.Request(since=since, operator=None, mint_timeout=10, wait=False, unfreeze=True)
    provider = Recovering(broker.backend)
    for _ in range(2):
        try:
            await recovery.recover(broker.store, {"fake": provider}, {}, asked, lost=None, clock=clock, replica="test")
        except ProviderError:
            continue
    assert len(provider.swept) == 2
    assert max(provider.swept) <= last


async def test_a_doubt_about_what_only_time_ends_waits_for_what_landed_last(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = broker.core.providers["timed"]
    assert isinstance(timed, FakeProvider)
    timed.fail = "lose-request"

    async def unreachable(_ref: LeaseRef, *, final: bool) -> Settlement:
        raise ProviderError("no answer")

    monkeypatch.setattr(timed, "settle", unreachable)
    opened = await broker.begin(["timed"])
    with pytest.raises(BrokerError):
        await broker.issue(opened.handle, "timed")
    (lease,) = await broker.leases(LeaseState.IN_DOUBT)
    await broker.fake_clock.run((lease.expires_at - lease.intent_at).total_seconds() + 35, step=5)
    for _ in range(30):
        broker.core.lane.set()
        await asyncio.sleep(0.01)
    assert (await broker.lease(lease.id)).state is LeaseState.IN_DOUBT  # landed 90 s late, it has 55 s to live
