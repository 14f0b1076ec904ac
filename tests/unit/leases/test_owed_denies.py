"""A session whose scope promised an early end and that is not denied: people hear of it, though time will end it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.leases.ending import ATTEMPT_LIMIT
from broker.model import LeaseState, Revocability
from broker.providers.base import DENY_WRITTEN_AT, LeaseRef, Progress, ProviderError
from tests.fakes.provider import FakeKind, FakeProvider
from tests.fakes.world import World, world

WRITTEN = Progress(step="DENY_WRITTEN", refs={DENY_WRITTEN_AT: "2026-11-22T12:03:00Z"})


class Denies(FakeProvider):
    """IAM fails until `refused` is false."""

    refused = True

    async def revoke(self, ref: LeaseRef) -> Progress:
        self.seen.append("revoke")
        if self.refused:
            raise ProviderError("IAM refused PutRolePolicy: AccessDenied")
        return WRITTEN


@pytest.fixture
async def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(FakeKind, "revocability", lambda *_: Revocability.DENY_POLICY)
    async with world(tmp_path) as made:
        made.core.providers["fake"] = Denies(made.backend)  # type: ignore[index]  # the world's own dict
        yield made


async def alarming(broker: World) -> bool:
    return bool(await broker.store.read(lambda tx: tx.stuck_leases(broker.clock.now())))


async def test_a_deny_that_is_not_written_alarms_until_it_is(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    await broker.end(opened.handle, wait=0)
    await broker.fake_clock.run(90, step=5)
    assert not await alarming(broker)  # one of unknown outcome takes a minute
    await broker.fake_clock.run(ATTEMPT_LIMIT, step=5)
    await broker.until(lambda: alarming(broker))
    provider = broker.core.providers["fake"]
    assert isinstance(provider, Denies)
    provider.refused = False
    await broker.fake_clock.run(120, step=5)

    async def over() -> bool:
        return not await alarming(broker)

    await broker.until(over)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKING
    assert (await broker.journal_kinds()).count("LEASE_OVERDUE") == 1
    assert broker.core.metrics.registry.get_sample_value("stepcred_revoking_overdue") == 0


async def test_one_that_is_written_does_not_alarm_before_its_bound(broker: World) -> None:
    provider = broker.core.providers["fake"]
    assert isinstance(provider, Denies)
    provider.refused = False
    opened = await broker.begin()
    await broker.issue(opened.handle)
    await broker.end(opened.handle, wait=0)
    await broker.fake_clock.run(400, step=10)
    assert not await alarming(broker)
