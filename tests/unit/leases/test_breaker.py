"""A provider without answers: who still asks it, what agents are told, and when somebody is alarmed."""

from __future__ import annotations

import json

import pytest

from broker.errors import Reason
from broker.leases.breaker import FAILURES, LAST_PROBE, Breaker
from broker.model import LeaseState
from broker.providers.base import Progress
from broker.store.base import tail
from tests.fakes.clock import FakeClock
from tests.fakes.provider import FakeProvider
from tests.fakes.world import World, refusal


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker(clock)


def opened(breaker: Breaker) -> Breaker:
    for number in range(FAILURES):
        breaker.failed(f"lease-{number}")
    assert breaker.open
    return breaker


def test_one_lease_that_cannot_be_ended_opens_nothing(breaker: Breaker) -> None:
    for _ in range(10 * FAILURES):
        breaker.failed("poisoned")
    assert not breaker.open
    assert breaker.mints_after() is None


def test_an_answer_in_between_begins_the_count_anew(breaker: Breaker) -> None:
    for number in range(3 * FAILURES):
        breaker.failed(f"lease-{number}")
        breaker.answered()
    assert not breaker.open


def test_open_admits_one_probe_at_a_time_and_ever_more_rarely(clock: FakeClock, breaker: Breaker) -> None:
    opened(breaker)
    pauses: list[float] = []
    since = clock.monotonic()
    while len(pauses) < 7:
        clock.advance(0.5)
        if breaker.admits("probe"):
            assert not breaker.admits("another")
            pauses.append(clock.monotonic() - since)
            since = clock.monotonic()
            breaker.failed("probe")
    assert pauses == sorted(pauses)
    assert pauses[0] < 2
    assert pauses[-1] == LAST_PROBE


def test_an_answer_closes_it(clock: FakeClock, breaker: Breaker) -> None:
    opened(breaker)
    assert breaker.mints_after() is not None
    assert breaker.answered()
    assert breaker.admits("any")
    assert breaker.mints_after() is None


def test_a_mint_may_find_out_when_nothing_is_left_to_revoke(clock: FakeClock, breaker: Breaker) -> None:
    opened(breaker)
    clock.advance(2 * LAST_PROBE + 1)
    assert breaker.mints_after() is None


async def test_mints_are_refused_free_of_charge_until_the_provider_answers(broker: World) -> None:
    opened = await broker.begin()
    for _ in range(FAILURES):
        await broker.issue(opened.handle)
    other = await broker.begin(["plain"], run="r2")
    broker.provider.revoke_fails = True
    await broker.end(opened.handle, wait=0)
    await broker.until(lambda: _open(broker))
    mints = len(broker.backend.mints)
    for _ in range(30):  # more than the budget
        refused = await refusal(broker.issue(other.handle))
        assert refused.reason is Reason.PROVIDER_FAILED
        assert refused.retry_after is not None
    assert len(broker.backend.mints) == mints
    assert await broker.leases(LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.VOID) == []
    asked = broker.provider.seen.count("revoke")
    await broker.fake_clock.run(30)
    assert broker.provider.seen.count("revoke") - asked < 8, "more than probes"
    broker.provider.revoke_fails = False
    await broker.fake_clock.run(LAST_PROBE + 1)
    await broker.until(broker.nothing_alive)
    other = await broker.begin(["plain"], run="r3")
    assert (await broker.issue(other.handle)).lease.state is LeaseState.ACTIVE


async def test_overdue_is_journalled_once_per_lease_also_after_a_restart(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def taken(*_: object) -> Progress:
        return Progress(step="SENT")

    monkeypatch.setattr(FakeProvider, "revoke", taken)
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease
    await broker.end(opened.handle, wait=0)
    await broker.fake_clock.run(200, step=5)
    await broker.until(lambda: _alarmed(broker))
    await broker.crash()
    await broker.start()
    await broker.fake_clock.run(200, step=5)
    tried = (await broker.lease(lease.id)).attempts
    await broker.until(lambda: _tried(broker, lease.id, tried + 1))
    assert await _alerts(broker) == [lease.id]
    assert broker.core.metrics.registry.get_sample_value("stepcred_revoking_overdue") == 1


async def test_a_provider_that_is_gone_alarms_at_once(broker: World) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    del broker.core.providers["timed"]  # type: ignore[attr-defined]  # the operator took it out of the config
    await broker.end(opened.handle, wait=0.2)
    assert await _alerts(broker) == [lease.id]
    assert (await broker.lease(lease.id)).state is LeaseState.REVOKING


async def _open(broker: World) -> bool:
    broker.core.lane.set()
    return broker.core.breakers["fake"].open


async def _alarmed(broker: World) -> bool:
    broker.core.lane.set()
    return bool(await _alerts(broker))


async def _tried(broker: World, lease_id: str, attempts: int) -> bool:
    await broker.fake_clock.run(60, step=30)
    broker.core.lane.set()
    return (await broker.lease(lease_id)).attempts >= attempts


async def _alerts(broker: World) -> list[str]:
    records = [json.loads(entry.body) for entry in await broker.store.read(lambda tx: list(tail(tx)))]
    return [record["lease_id"] for record in records if record["kind"] == "LEASE_OVERDUE"]
