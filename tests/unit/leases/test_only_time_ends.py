"""What no provider can find, or prove, ends by time: not before, and not by a clock that was set forward."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import BrokerError
from broker.model import Evidence, LeaseState, Revocability
from broker.providers.base import LeaseRef, Progress, Settlement
from tests.fakes.provider import FakeKind, FakeProvider
from tests.fakes.world import World, world


class Blind(FakeProvider):
    """Cannot look for a token whose creation was never answered."""

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        self.seen.append("settle")
        return Settlement(found=False, evidence=Evidence.EXPIRED if final else None)


class Unlisted(FakeProvider):
    """Its revocations never show on a list."""

    async def revoke(self, ref: LeaseRef) -> Progress:
        self.seen.append("revoke")
        return Progress(step="NOT_PUBLISHED")


def put(broker: World, provider: FakeProvider) -> None:
    broker.core.providers["fake"] = provider  # type: ignore[index]  # the world's own dict


async def test_a_doubt_that_cannot_be_looked_into_ends_when_what_landed_last_has_lived_its_life(tmp_path: Path) -> None:
    async with world(tmp_path) as broker:
        blind = Blind(broker.backend)
        blind.fail = "lose-request"
        put(broker, blind)
        opened = await broker.begin()
        with pytest.raises(BrokerError):
            await broker.issue(opened.handle)
        (lease,) = await broker.leases(LeaseState.IN_DOUBT)
        landing, life = timedelta(seconds=10 + 90), timedelta(minutes=10)
        await broker.fake_clock.run((landing + life).total_seconds() - 30, step=5)
        assert (await broker.lease(lease.id)).state is LeaseState.IN_DOUBT
        await broker.fake_clock.run(60, step=5)

        async def ended() -> bool:
            return (await broker.lease(lease.id)).state.terminal

        await broker.until(ended)
        row = await broker.lease(lease.id)
        assert (row.state, row.evidence) == (LeaseState.EXPIRED, Evidence.EXPIRED)


async def test_a_certificate_on_no_list_ends_when_its_own_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeKind, "revocability", lambda *_: Revocability.PUBLISHED)
    async with world(tmp_path) as broker:
        put(broker, Unlisted(broker.backend))
        opened = await broker.begin()
        lease = (await broker.issue(opened.handle)).lease
        ended = await broker.end(opened.handle, wait=0.1)
        assert not ended.all_proven
        await broker.fake_clock.run(600, step=10)
        assert (await broker.lease(lease.id)).state is LeaseState.REVOKING
        await broker.fake_clock.run(120, step=5)

        async def over() -> bool:
            return (await broker.lease(lease.id)).evidence is Evidence.EXPIRED

        await broker.until(over)
