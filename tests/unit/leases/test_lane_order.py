"""Who is worked on when: `high` before others, nobody twice, and nobody waits long once the provider is back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from broker.clock import SystemClock
from broker.errors import StoreError
from broker.guard.guard import Guard
from broker.guard.tiers import DEFAULT_RULES
from broker.leases.ending import BACKOFF_CAP, LONE_CAP, Ending, backoff
from broker.leases.lane import PAGE
from broker.leases.selection import Selection
from broker.model import Lease, LeaseState
from broker.providers.base import Contact, LeaseRef, Progress, ProviderError, Settlement
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, World, agent, refusal, world


def roomy(broker: World) -> None:
    rules = {tier: replace(rule, hourly=10_000) for tier, rule in DEFAULT_RULES.items()}
    object.__setattr__(broker.core, "guard", Guard(rules.__getitem__))


async def tick(broker: World, seconds: float, step: float = 0.5) -> None:
    for _ in range(round(seconds / step)):
        broker.fake_clock.advance(step)
        broker.core.lane.set()
        await asyncio.sleep(0.003)


async def crowd(broker: World, steps: int) -> list[str]:
    """Leases of tier `low`, four a step."""
    opened = [await broker.begin(run=f"r{number}") for number in range(steps)]
    return [(await broker.issue(one.handle)).lease.id for one in opened for _ in range(4)]


async def test_a_high_one_waits_for_no_more_than_what_is_under_way(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy(broker)
    ids = await crowd(broker, 50)
    opened = await broker.begin(["danger"], run="high")
    high = (await broker.issue(opened.handle, "danger")).lease.id
    order: list[str] = []
    revoke = FakeProvider.revoke

    async def slow(self: FakeProvider, ref: LeaseRef) -> Progress:
        await asyncio.sleep(0.03)
        order.append(ref.lease_id)
        return await revoke(self, ref)

    monkeypatch.setattr(FakeProvider, "revoke", slow)
    await broker.engine.orders.revoke(Selection(leases=frozenset(ids)), ANN)
    await broker.core.make_due()  # what a new epoch, a breaker that closes or a clock set back does
    await asyncio.sleep(0.02)
    before = len(order)
    assert (await broker.end(opened.handle, wait=5)).all_proven
    assert order.index(high) - before <= PAGE


async def test_a_disk_that_hiccups_keeps_no_place_for_long(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    roomy(broker)
    ids = await crowd(broker, 10)
    opened = await broker.begin(["danger"], run="high")
    high = (await broker.issue(opened.handle, "danger")).lease.id
    broker.provider.proves = False
    await broker.engine.orders.revoke(Selection(leases=frozenset(ids)), ANN)
    for _ in range(120):
        await tick(broker, 2, 1)
        await broker.engine.heartbeat(agent(), opened.handle, [high])
    defer = Ending.defer

    async def hiccup(*_: object, **__: object) -> None:
        raise StoreError("busy")

    monkeypatch.setattr(Ending, "defer", hiccup)
    await broker.core.make_due()
    await asyncio.sleep(0.05)
    monkeypatch.setattr(Ending, "defer", defer)
    broker.provider.proves = True
    await broker.end(opened.handle, wait=0)
    await tick(broker, 5)
    assert high not in broker.backend.alive
    assert not broker.backend.alive


async def test_each_lease_is_revoked_once(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due is read while others end: a row that is older than its lease's end starts nothing."""
    revoke = FakeProvider.revoke

    async def takes_a_while(self: FakeProvider, ref: LeaseRef) -> Progress:
        await asyncio.sleep(0.003)
        return await revoke(self, ref)

    monkeypatch.setattr(FakeProvider, "revoke", takes_a_while)
    async with world(tmp_path_factory.mktemp("w"), sqlite=True, clock=SystemClock()) as broker:
        roomy(broker)
        handles = []
        for number in range(150):
            opened = await broker.begin(run=f"r{number}")
            await broker.issue(opened.handle)
            handles.append(opened.handle)

        async def end(handle: str, after: float) -> None:
            await asyncio.sleep(after)
            await broker.end(handle)

        await asyncio.gather(*(end(handle, number * 0.004) for number, handle in enumerate(handles)))
        assert broker.provider.seen.count("revoke") == len(handles)


async def stuck(broker: World) -> tuple[Lease, str]:
    """One lease whose provider has been gone for two minutes, just after an attempt; and its step's handle."""
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    broker.provider.revoke_fails = True
    await broker.end(opened.handle, wait=0)
    await tick(broker, 130)
    tried = (await broker.lease(lease.id)).attempts
    while (await broker.lease(lease.id)).attempts == tried:
        await tick(broker, 1)
    return lease, opened.handle


async def test_a_lone_lease_does_not_wait_for_its_backoff_once_its_provider_answers(broker: World) -> None:
    lease, _ = await stuck(broker)
    broker.provider.revoke_fails = False
    opened = await broker.begin(run="r2")
    await broker.issue(opened.handle)  # an answer, to somebody else
    await tick(broker, 5)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKED


async def test_an_overdue_revocation_alarms_soon_after_its_minute(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    broker.provider.revoke_fails = True
    await broker.end(opened.handle, wait=0)
    await tick(broker, 58)
    assert not (await broker.lease(lease.id)).refs.get("alarmed")
    await tick(broker, 7)
    assert (await broker.lease(lease.id)).refs.get("alarmed")


async def test_a_clock_set_forward_makes_nothing_overdue(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    broker.provider.revoke_fails = True
    await broker.end(opened.handle, wait=0)
    await tick(broker, 1)
    broker.fake_clock.set_wall(broker.fake_clock.now() + timedelta(hours=1))
    await tick(broker, 4)
    assert not (await broker.lease(lease.id)).refs.get("alarmed")


async def test_an_attempt_on_a_lease_that_has_ended_leaves_no_trace(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    broker.provider.revoke_fails = True
    await broker.end(opened.handle, wait=0)
    await tick(broker, 70)
    stale = await broker.lease(lease.id)
    broker.provider.revoke_fails = False
    await broker.core.make_due()
    await tick(broker, 20)
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKED
    before = await broker.journal_kinds()
    broker.provider.revoke_fails = True
    lane = broker.engine._lane
    lane._start(stale)
    await asyncio.sleep(0.05)
    assert await broker.journal_kinds() == before
    assert not lane._ending._overdue
    assert not lane._ending._since


async def test_what_is_known_without_asking_closes_no_breaker(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage makes doubts; that they are not to be looked at yet says nothing about the provider."""

    async def not_yet(_self: FakeProvider, _ref: LeaseRef, *, final: bool) -> Settlement:
        if final:
            raise ProviderError("down", Contact.NONE)
        return Settlement(found=False, contact=Contact.NOT_ASKED)

    monkeypatch.setattr(FakeProvider, "settle", not_yet)
    handles = []
    for number in range(8):
        opened = await broker.begin(run=f"r{number}")
        await broker.issue(opened.handle)
        handles.append(opened.handle)
    broker.provider.fail = "lose-answer"
    for number in range(3):
        opened = await broker.begin(run=f"doubt{number}")
        await refusal(broker.issue(opened.handle))
    broker.provider.revoke_fails = True
    for handle in handles:
        await broker.end(handle, wait=0)
    await tick(broker, 5)
    breaker = broker.core.breakers["fake"]
    assert breaker.open
    for _ in range(40):
        await tick(broker, 1)
        assert breaker.open


async def test_what_waited_for_its_target_is_dead_within_five_seconds_of_its_return(broker: World) -> None:
    """The provider answers all the time: it is the database behind it that is down."""
    opened = [await broker.begin(run=f"r{number}") for number in range(3)]
    for one in opened:
        await broker.issue(one.handle)
    broker.provider.proves = False
    for one in opened:
        await broker.end(one.handle, wait=0)
    await tick(broker, 240)
    broker.provider.proves = True
    await tick(broker, 5.5)
    assert not broker.backend.alive


def test_few_ask_often_and_many_ask_rarely() -> None:
    assert max(backoff(30, waiting=1) for _ in range(50)) <= LONE_CAP
    assert min(backoff(30, waiting=500) for _ in range(50)) >= BACKOFF_CAP / 2
