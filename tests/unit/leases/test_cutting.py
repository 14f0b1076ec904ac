"""A lease that could be ended only with its like; and a provider that wants to look again before time ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest

from broker.alert import AlertRule
from broker.errors import Reason
from broker.leases.breaker import FAILURES
from broker.leases.core import Talents
from broker.leases.ending import STUCK, Ending
from broker.model import EndReason, Evidence, LeaseState, Revocability
from broker.providers.base import ISSUED_AT, Contact, CutOff, HasRoom, LeaseRef, NoRoom, Progress
from tests.fakes.clock import START
from tests.fakes.provider import FakeProvider
from tests.fakes.world import World, agent, new_id, refusal


def answering(*answers: Progress) -> Callable[[LeaseRef], Awaitable[Progress]]:
    """One after the other, the last one for ever."""
    left = list(answers)

    async def revoke(_ref: LeaseRef) -> Progress:
        return left.pop(0) if len(left) > 1 else left[0]

    return revoke


@pytest.fixture
def timed(broker: World) -> FakeProvider:
    provider = broker.core.providers["timed"]
    assert isinstance(provider, FakeProvider)
    return provider


async def test_what_is_cut_off_with_another_ends_with_it_and_is_told_once(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin(["timed", "plain"])
    first, second = [(await broker.issue(opened.handle, "timed")).lease for _ in range(2)]
    other = (await broker.issue(opened.handle, "plain")).lease
    await broker.fake_clock.run(1)
    before = broker.clock.now()
    await broker.fake_clock.run(1)
    younger = (await broker.issue(opened.handle, "timed")).lease
    cut = CutOff(param="role", value="timed", before=before)
    monkeypatch.setattr(timed, "revoke", answering(Progress(step="ROLE_CUT_OFF", cut_off=cut)))
    await broker.engine.revoke_lease(
        agent(), request_id=new_id(), handle=opened.handle, lease_id=first.id, wait_seconds=0
    )
    await broker.until(lambda: _ended(broker, second.id))

    states = [(await broker.lease(one.id)).state for one in (first, second, other, younger)]
    assert states == [LeaseState.REVOKING, LeaseState.REVOKING, LeaseState.ACTIVE, LeaseState.ACTIVE]
    assert (await broker.lease(second.id)).end_reason is EndReason.CUT_OFF
    await broker.until(lambda: _looked_at(broker, second.id))
    told = await broker.journal_kinds()
    assert told.count("PROVIDER_CUT_OFF") == 1
    firing = await broker.store.read(lambda tx: tx.firing_counts())
    assert firing[AlertRule.PROVIDER_CUT_OFF] == 1


async def test_what_is_being_minted_then_is_not_handed_out(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been made before the cut-off: then it is dead, and nobody would know."""
    opened = await broker.begin(["timed"])
    first = (await broker.issue(opened.handle, "timed")).lease
    timed.after_landing.clear()
    timed.landed.clear()
    minting = asyncio.create_task(broker.issue(opened.handle, "timed"))
    await timed.landed.wait()
    await broker.fake_clock.run(1)
    cut = CutOff(param="role", value="timed", before=broker.clock.now())
    monkeypatch.setattr(timed, "revoke", answering(Progress(step="ROLE_CUT_OFF", cut_off=cut)))
    await broker.engine.revoke_lease(
        agent(), request_id=new_id(), handle=opened.handle, lease_id=first.id, wait_seconds=0
    )
    await broker.until(lambda: _looked_at(broker, first.id))
    timed.after_landing.set()
    await refusal(minting)
    (second,) = [one for one in await broker.leases() if one.id != first.id]
    assert (second.state, second.end_reason) == (LeaseState.REVOKING, EndReason.CUT_OFF)


@pytest.mark.parametrize(
    ("changes", "hit"),
    [
        ({}, True),
        ({"revocability": Revocability.STATIC}, False),  # what was read is not ended by it
        ({"params": {"role_arn": "another"}}, False),
        # By the provider's clock, where it told: ours may be minutes off.
        ({"intent_at": START + timedelta(minutes=3), "refs": {ISSUED_AT: "2026-11-22T11:59:59Z"}}, True),
        ({"intent_at": START - timedelta(minutes=3), "refs": {ISSUED_AT: "2026-11-22T12:00:00Z"}}, False),
    ],
)
def test_a_cut_off_hits_what_was_made_before(changes: dict[str, Any], *, hit: bool) -> None:
    ref = LeaseRef(
        lease_id="l",
        agent="a",
        nonce=b"",
        kid="",
        params={"role_arn": "one"},
        refs={},
        revocability=Revocability.DENY_POLICY,
        intent_at=START - timedelta(seconds=1),
        expires_at=START + timedelta(hours=1),
        epoch=1,
    )
    assert CutOff(param="role_arn", value="one", before=START).hits(replace(ref, **changes)) is hit


async def _looked_at(broker: World, lease_id: str) -> bool:
    return (await broker.lease(lease_id)).last_problem == "ROLE_CUT_OFF"


async def _ended(broker: World, lease_id: str) -> bool:
    return (await broker.lease(lease_id)).state is not LeaseState.ACTIVE


@pytest.mark.parametrize("again", [timedelta(seconds=5), None])
async def test_a_provider_is_asked_again_before_the_bound_only_if_it_wants_to_look(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch, again: timedelta | None
) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    looks = answering(Progress(step="DENY_WRITTEN", again=again), Progress(evidence=Evidence.PROBE_DENIED))
    monkeypatch.setattr(timed, "revoke", looks)
    monkeypatch.setattr("broker.leases.ending.random.random", lambda: 1.0)
    await broker.end(opened.handle, wait=0)
    await broker.until(lambda: _asked(broker, lease.id))
    row = await broker.lease(lease.id)
    assert row.next_try_at is not None
    wait = (row.next_try_at - broker.clock.now()).total_seconds()
    assert wait == pytest.approx(5 if again else 630, abs=2)  # the bound and the clock skew
    ending = Ending(broker.core)
    await ending.attempt(row)
    row = await broker.lease(lease.id)
    assert (row.state, row.evidence) == (LeaseState.REVOKED, Evidence.PROBE_DENIED)


async def test_a_look_that_is_due_is_not_put_off_by_the_looks_before_it(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many looks are made while a deny spreads. None of them has failed."""
    opened = await broker.begin(["timed"])
    await broker.issue(opened.handle, "timed")
    again = timedelta(seconds=5)
    monkeypatch.setattr(timed, "revoke", answering(Progress(step="DENY_WRITTEN", again=again)))
    monkeypatch.setattr("broker.leases.ending.LONE_CAP", 60.0)  # as if many waited
    await broker.end(opened.handle, wait=0)
    (lease, *_) = await broker.leases()
    await broker.until(lambda: _asked(broker, lease.id))
    ending = Ending(broker.core)
    for _ in range(9):
        await ending.attempt(await broker.lease(lease.id))
    row = await broker.lease(lease.id)
    assert row.next_try_at is not None
    assert (row.next_try_at - broker.clock.now()).total_seconds() == pytest.approx(5, abs=1)


async def _asked(broker: World, lease_id: str) -> bool:
    return (await broker.lease(lease_id)).last_problem == "DENY_WRITTEN"


async def test_without_room_to_revoke_nothing_is_charged_and_nothing_minted(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, str]] = []

    def no_room(params: object, agent: str) -> NoRoom | None:
        asked.append((params, agent))
        return NoRoom(why="the role's deny list is full", after=timedelta(seconds=90))

    monkeypatch.setattr(timed, "no_room", no_room, raising=False)
    assert isinstance(timed, HasRoom)
    monkeypatch.setitem(cast("dict[str, Talents]", broker.core.talents), "timed", Talents.of(timed))
    opened = await broker.begin(["timed"])
    for _ in range(20):  # more than any budget
        error = await refusal(broker.issue(opened.handle, "timed"))
        assert (error.reason, error.retry_after) == (Reason.NO_ROOM_TO_REVOKE, timedelta(seconds=90))
    assert asked[0] == ({"role": "timed"}, opened.step.key.agent)
    assert "mint" not in timed.seen
    assert await broker.leases() == []
    monkeypatch.setattr(timed, "no_room", lambda _params, _agent: None)
    assert (await broker.issue(opened.handle, "timed")).lease.state is LeaseState.ACTIVE


async def test_when_a_deny_was_written_is_told_with_the_lease(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Progress(step="DENY_WRITTEN", refs={"deny_written_at": "2026-11-22T12:00:05Z"})
    monkeypatch.setattr(timed, "revoke", answering(written))
    opened = await broker.begin(["timed"])
    await broker.issue(opened.handle, "timed")
    (outcome,) = (await broker.end(opened.handle, wait=5)).outcomes
    assert outcome.deny_written_at is not None
    assert outcome.deny_written_at.isoformat() == "2026-11-22T12:00:05+00:00"
    assert outcome.exposed_until is not None
    assert outcome.evidence is None


async def test_what_time_ends_wakes_no_others(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was looked at often because it was to be, and not because something was away that is back."""
    opened = await broker.begin(["timed"])
    proven, waiting = [(await broker.issue(opened.handle, "timed")).lease for _ in range(2)]
    monkeypatch.setattr(timed, "revoke", answering(Progress(step="DENY_WRITTEN")))
    await broker.end(opened.handle, wait=0)
    for lease in (proven, waiting):
        await broker.until(partial(_asked, broker, lease.id))
    due = (await broker.lease(waiting.id)).next_try_at
    monkeypatch.setattr(timed, "revoke", answering(Progress(evidence=Evidence.PROBE_DENIED)))
    await Ending(broker.core).attempt(replace(await broker.lease(proven.id), attempts=STUCK))
    assert (await broker.lease(proven.id)).state is LeaseState.REVOKED
    assert (await broker.lease(waiting.id)).next_try_at == due


async def test_an_end_that_nobody_was_asked_for_closes_no_breaker(
    broker: World, timed: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await broker.begin(["timed"])
    lease = (await broker.issue(opened.handle, "timed")).lease
    waits = Progress(step="DENY_WRITTEN", contact=Contact.NOT_ASKED)
    monkeypatch.setattr(timed, "revoke", answering(waits))
    breaker = broker.core.breakers["timed"]
    for number in range(FAILURES):
        breaker.failed(f"another-{number}", silent=True)
    await broker.fake_clock.run(2)
    await broker.end(opened.handle, wait=0)
    await broker.until(partial(_asked, broker, lease.id))
    assert breaker.open
