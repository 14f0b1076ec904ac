"""Ends that are hard to come by: they must neither stop others nor be believed too early."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.config import Timings
from broker.errors import BrokerError, StoreError
from broker.leases import recovery
from broker.leases.breaker import FAILURES
from broker.leases.core import ref_of
from broker.leases.ending import Ending
from broker.leases.selection import Selection
from broker.model import EndReason, Evidence, Lease, LeaseState
from broker.providers.base import Contact, LeaseRef, Progress, ProviderError, Settlement, Stray, Sweep, Swept
from broker.store.base import tail
from tests.fakes.domain import lease as lease_of_domain
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, World, agent, world


@pytest.mark.parametrize("old", [5, 10])
async def test_leases_of_an_old_cluster_do_not_stop_mints_at_the_new_one(
    broker: World, old: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = [await broker.begin(run=f"old{number}") for number in range(old)]
    for opened in first:
        await broker.issue(opened.handle)

    async def elsewhere(_self: FakeProvider, _ref: LeaseRef) -> Progress:
        raise ProviderError("another cluster answers", Contact.ANSWERED)

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
    await broker.engine.orders.revoke(Selection(leases=frozenset(ids)), ANN)
    monkeypatch.setattr(broker.core.epoch, "_expires_boot", 0.0)
    broker.provider.seen.clear()
    await asyncio.sleep(0.5)
    assert broker.provider.seen.count("revoke") <= 2 * len(ids)


class Recovering(FakeProvider):
    """Learns only at the second run what to look for."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.swept: list[datetime] = []

    async def may_recover(self, sweep: Sweep) -> list[str]:
        return []

    async def recover(self, sweep: Sweep) -> Swept:
        self.swept.append(sweep.since)
        if len(self.swept) == 1:
            raise ProviderError("no answer")
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
    first, second = [
        await recovery.recover(broker.store, {"fake": provider}, {}, asked, lost=None, clock=clock, replica="test")
        for _ in range(2)
    ]
    assert (first.unanswered, first.frozen) == (("no answer",), True)
    assert (len(second.unanswered), second.frozen) == (0, True)  # what was minted before it may land yet
    assert len(provider.swept) == 2
    assert max(provider.swept) <= last


class Lacking(Recovering):
    """Its operator's token may not do it."""

    async def may_recover(self, sweep: Sweep) -> list[str]:
        return ["the token is dead"]


async def test_a_recovery_that_may_not_be_made_changes_nothing(broker: World) -> None:
    await broker.engine.stop()
    clock, before = broker.fake_clock, await broker.store.read(lambda tx: (tx.control(), tx.journal_head()))
    asked = recovery.Request(since=clock.now(), operator=None, mint_timeout=10)
    provider = Lacking(broker.backend)
    with pytest.raises(recovery.NotAllowed, match="the token is dead"):
        await recovery.recover(broker.store, {"fake": provider}, {}, asked, lost=None, clock=clock, replica="test")
    assert await broker.store.read(lambda tx: (tx.control(), tx.journal_head())) == before
    assert provider.swept == []


class Half(Recovering):
    """Answers once, and is then not to be had."""

    async def recover(self, sweep: Sweep) -> Swept:
        self.swept.append(sweep.since)
        if len(self.swept) > 1:
            raise ProviderError("no answer")
        return Swept(killed=(Stray(kind="token", id="a"),))


async def test_what_was_killed_is_told_and_on_record_though_the_second_look_failed(broker: World) -> None:
    await broker.engine.stop()
    clock = SystemClock()
    asked = recovery.Request(since=clock.now(), operator=None, mint_timeout=0)
    provider = Half(broker.backend)
    provider.landing_seconds = 0.0
    report = await recovery.recover(broker.store, {"fake": provider}, {}, asked, lost=None, clock=clock, replica="test")
    assert ([one.id for one in report.killed], report.unanswered, report.frozen) == (["a"], ("no answer",), True)
    journal = await broker.store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])
    assert [one["id"] for one in journal[-1]["data"]["killed"]] == ["a"]


class CutShort(Recovering):
    """Kills one, and is then gone."""

    async def recover(self, sweep: Sweep) -> Swept:
        await sweep.tell(Stray(kind="token", id="a", lease_id="b"))
        raise asyncio.CancelledError


async def test_what_was_killed_is_on_record_and_told_at_once(broker: World) -> None:
    await broker.engine.stop()
    clock, told = SystemClock(), list[Stray]()
    asked = recovery.Request(since=clock.now(), operator=None, mint_timeout=0, tell=told.append)
    provider = CutShort(broker.backend)
    with pytest.raises(asyncio.CancelledError):
        await recovery.recover(broker.store, {"fake": provider}, {}, asked, lost=None, clock=clock, replica="test")
    assert [one.id for one in told] == ["a"]
    journal = await broker.store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])
    assert (journal[-1]["lease_id"], journal[-1]["data"]["killed"]) == ("b", [{"kind": "token", "id": "a"}])


async def test_a_drain_says_what_it_left(tmp_path: Path) -> None:
    async with world(tmp_path, timings=Timings(drain_grace=timedelta(seconds=1))) as broker:
        opened = await broker.begin()
        lease = (await broker.issue(opened.handle)).lease
        broker.provider.proves = False
        assert [one.id for one in await broker.engine.drain(revoke=True)] == [lease.id]


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


async def in_doubt(broker: World) -> str:
    """A mint that landed, and whose answer was lost."""
    broker.provider.fail = "lose-answer"
    opened = await broker.begin()
    with pytest.raises(BrokerError):
        await broker.issue(opened.handle)
    (lease,) = await broker.leases(LeaseState.IN_DOUBT)
    return lease.id


async def dies(broker: World, lease_id: str) -> None:
    for _ in range(300):
        if lease_id not in broker.backend.alive:
            return
        await asyncio.sleep(0.01)
    raise AssertionError


async def test_what_is_found_is_on_record_before_it_is_killed(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a crash between the two would give the charge of a credential that had existed back (I4)."""
    calls: list[tuple[bool, bool]] = []
    settle = FakeProvider.settle

    async def watched(self: FakeProvider, ref: LeaseRef, *, final: bool) -> Settlement:
        row = await broker.lease(ref.lease_id)
        calls.append((ref.found, bool(row.refs.get("found"))))
        return await settle(self, ref, final=final)

    monkeypatch.setattr(FakeProvider, "settle", watched)
    lease_id = await in_doubt(broker)
    await dies(broker, lease_id)
    assert calls[:2] == [(False, False), (True, True)]


async def test_a_find_that_cannot_be_recorded_is_killed_all_the_same(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Ending, "_record_found", full)
    lease_id = await in_doubt(broker)
    await dies(broker, lease_id)


async def test_a_lease_that_only_time_ends_alarms_when_its_verifier_is_never_heard(broker: World) -> None:
    timed = broker.core.providers["timed"]
    assert isinstance(timed, FakeProvider)
    timed.revoke_fails = True
    broker.core.providers["timed"] = Deaf(timed)  # type: ignore[index]  # the world's own dict
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    await broker.end(opened.handle, wait=0)
    life = (lease.expires_at - lease.intent_at + broker.core.timings.clock_skew).total_seconds()
    for seconds, alarmed in ((life + 30, None), (150, True)):
        await broker.fake_clock.run(seconds, step=5)
        for _ in range(30):
            broker.core.lane.set()
            await asyncio.sleep(0.01)
        row = await broker.lease(lease.id)
        assert (row.state, row.refs.get("alarmed")) == (LeaseState.REVOKING, alarmed)


class Deaf:
    """Has a clock of its own, which was never heard."""

    def __init__(self, inner: FakeProvider) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def time_heard(self) -> None:
        return None


async def test_what_was_found_is_not_forgotten_though_the_disk_took_neither_the_find_nor_the_end(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed without a record; the next look meets the broker's own tomb, and must not call it nothing minted."""
    lease_id = await in_doubt(broker)
    await dies(broker, lease_id)
    spent = await broker.store.read(lambda tx: tx.guard_row(tx.leases_in(*LeaseState)[0].guard_key))
    assert spent is not None
    assert spent.spent == 1

    broker.provider.fail = ""
    (first,) = await broker.leases()
    await broker.fake_clock.run(120, step=5)
    await broker.until(partial(has_ended, broker, first.id))
    row = await broker.lease(first.id)
    assert (row.state, row.evidence) == (LeaseState.REVOKED, Evidence.SEEN_DEAD)

    def full(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    end = Ending._end
    failing = [True]

    async def not_yet(self: Ending, *args: Any) -> None:
        if failing:
            failing.pop()
            raise StoreError("no space left")
        await end(self, *args)

    monkeypatch.setattr(Ending, "_record_found", full)
    monkeypatch.setattr(Ending, "_end", not_yet)
    broker.provider.fail = "lose-answer"
    opened = await broker.begin(run="r2")
    broker.provider.before_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle))
    await asyncio.sleep(0.05)
    broker.provider.before_landing.set()
    with pytest.raises(BrokerError):
        await caller
    second = next(one.id for one in await broker.leases() if one.id != first.id)
    for _ in range(60):
        await broker.fake_clock.run(5)
        broker.core.lane.set()
        await asyncio.sleep(0.005)
    row = await broker.lease(second)
    assert (row.state, row.evidence, failing) == (LeaseState.REVOKED, Evidence.SEEN_DEAD, [])


async def has_ended(broker: World, lease_id: str) -> bool:
    broker.core.lane.set()
    return (await broker.lease(lease_id)).state.terminal


async def test_a_lease_that_cannot_even_be_asked_about_closes_no_breaker(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = broker.core.breakers["fake"]
    for number in range(FAILURES):
        breaker.failed(f"lease-{number}")
    assert breaker.open

    async def elsewhere(_self: FakeProvider, _ref: LeaseRef) -> Progress:
        raise ProviderError("another namespace", Contact.NOT_ASKED)

    monkeypatch.setattr(FakeProvider, "revoke", elsewhere)
    lease = domain_lease(broker)
    ending = broker.engine._lane._ending
    await broker.fake_clock.run(30, step=5)
    with pytest.raises(ProviderError):
        await ending._ask(lease, broker.provider.revoke(ref_of(lease)))
    assert breaker.open
    assert breaker.admits("the next probe")


def domain_lease(broker: World) -> Lease:
    return replace(lease_of_domain(), provider=broker.provider.name)


async def test_after_an_epoch_was_lost_a_clock_that_was_set_is_still_no_evidence(broker: World) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    broker.fake_clock.set_wall(broker.fake_clock.now() + timedelta(hours=1))
    broker.fake_clock.suspend(20)  # a new epoch, begun under the wrong clock
    await broker.end(opened.handle, wait=0) if broker.core.epoch.fresh() else None
    for _ in range(30):
        await broker.fake_clock.run(1)
        broker.core.lane.set()
        await asyncio.sleep(0.005)
    assert not (await broker.lease(lease.id)).state.terminal


async def test_a_successor_may_be_asked_for_by_elapsed_time(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    for _ in range(48):
        await broker.fake_clock.run(10)
        await broker.engine.heartbeat(agent(), opened.handle, [lease.id])
    broker.fake_clock.set_wall(broker.fake_clock.now() - timedelta(hours=1))
    assert (await broker.issue(opened.handle, replaces=lease.id)).lease.state is LeaseState.ACTIVE


async def test_a_drain_does_not_wait_for_what_cannot_be_done_in_time(tmp_path: Path) -> None:
    async with world(tmp_path, timings=Timings(drain_grace=timedelta(seconds=2))) as broker:
        opened = await broker.begin()
        lease = (await broker.issue(opened.handle)).lease
        broker.provider.proves = False
        await broker.end(opened.handle, wait=0)
        await asyncio.sleep(0.1)  # the first attempt
        await broker.store.write(
            lambda tx: tx.defer(lease.id, next_try_at=broker.fake_clock.now() + timedelta(minutes=5), problem="no")
        )
        begun = asyncio.get_running_loop().time()
        await broker.engine.drain(revoke=False)
        assert asyncio.get_running_loop().time() - begun < 1.9  # of 2


async def test_only_steps_that_were_open_are_told_as_ended(broker: World) -> None:
    first, second = await broker.begin(run="r1"), await broker.begin(run="r2")
    await broker.issue(second.handle)
    await broker.end(first.handle)
    told = await broker.engine._steps.end_all(
        [(one.step, EndReason.OPERATOR) for one in (first, second)], by="spiffe://ops/ann"
    )
    assert [step.id for step in told] == [second.step.id]
    journal = await broker.store.read(lambda tx: [json.loads(entry.body) for entry in tail(tx)])
    assert [one["data"]["by"] for one in journal if one["kind"] == "LEASE_REVOKING"] == ["spiffe://ops/ann"]
