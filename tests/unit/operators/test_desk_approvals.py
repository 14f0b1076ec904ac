"""From an agent's question to operators' answers to one credential: and every way in which it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.beginning import Opened
from broker.operators.model import Role
from broker.store.approvals import ApprovalState
from tests.fakes.launchers import SCHEDULER, launcher, with_launchers
from tests.fakes.world import agent, refusal, world
from tests.unit.operators.desk import NEEDS, House
from tests.unit.operators.people import operator

ONE = NEEDS.replace("approvals: 2", "approvals: 1")
SECOND = "spiffe://dev.local/scheduler2"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with world(tmp_path) as broker:
        await broker.load_map(NEEDS)
        yield House(broker)


async def test_two_say_yes_and_one_credential_comes_of_it(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    assert (await house.decide("ann", asked)).state is ApprovalState.PENDING
    assert (await house.decide("bob", asked)).state is ApprovalState.APPROVED
    lease = (await house.world.issue(opened.handle, "danger")).lease
    assert lease.approval_id == asked.id
    kinds = await house.world.journal_kinds()
    assert [kinds.count(one) for one in ("APPROVAL_REQUESTED", "APPROVAL_VOTED", "APPROVAL_GIVEN")] == [1, 2, 1]
    (intent,) = await house.world.journal("LEASE_INTENT")
    assert intent["data"]["approval_id"] == asked.id
    voted = await house.world.journal("APPROVAL_VOTED")
    assert [one["data"]["operator"] for one in voted] == ["ann", "bob"]
    assert all(one["data"]["why"] == "ticket 7" and one["cert_sha256"] for one in voted)


async def test_one_no_is_enough(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    await house.decide("ann", asked)
    assert (await house.decide("bob", asked, approve=False)).state is ApprovalState.DENIED
    assert (await refusal(house.decide("cid", asked))).reason is Reason.APPROVAL_DECIDED
    assert (await house.asked(opened)).id != asked.id  # the step may ask again, and is told another id


async def test_each_refusal_has_its_reason(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    assert (await refusal(house.decide("dan", asked))).reason is Reason.OWNER_MAY_NOT
    house.hire(operator("eve", roles=frozenset({Role.ADMIN})))
    assert (await refusal(house.decide("eve", asked))).reason is Reason.ROLE_MISSING
    assert (await refusal(house.decide("ann", asked, code="000000"))).reason is Reason.CODE_WRONG
    assert (await refusal(house.decide("ann", asked, digest="0" * 64))).reason is Reason.APPROVAL_CHANGED
    house.hire(operator("fay", second_factor=None))
    assert (await refusal(house.decide("fay", asked))).reason is Reason.SECOND_FACTOR_MISSING
    code = house.code()
    await house.decide("ann", asked, code=code)
    assert (await refusal(house.decide("ann", asked, code=house.code(1)))).reason is Reason.VOTED_ALREADY
    other = await house.asked(await house.world.begin(["danger"], run="r2"))
    assert (await refusal(house.decide("ann", other, code=code))).reason is Reason.CODE_REPLAYED
    unknown = replace(asked, id="a" * 16)
    assert (await refusal(house.decide("bob", unknown))).reason is Reason.NOT_FOUND
    votes = await house.world.store.read(lambda tx: tx.votes(asked.id))
    assert [vote.operator for vote in votes] == ["ann"]


async def test_wrong_codes_are_counted_although_nothing_comes_of_them(house: House) -> None:
    asked = await house.asked(await house.world.begin(["danger"]))
    for _ in range(5):
        await refusal(house.decide("ann", asked, code="000000"))
    error = await refusal(house.decide("ann", asked))  # the right one
    assert error.reason is Reason.CODE_LOCKED
    assert error.retry_after is not None
    await house.world.fake_clock.run(901, step=300)
    again = await house.asked(await house.world.begin(["danger"], run="r2"))
    assert (await house.decide("ann", again)).state is ApprovalState.PENDING


async def test_a_changed_grant_makes_what_was_approved_worth_nothing(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    await house.decide("ann", asked)
    await house.world.load_map(NEEDS.replace("role: danger", "role: worse"))
    assert (await refusal(house.decide("bob", asked))).reason is Reason.APPROVAL_CHANGED
    assert (await house.asked(opened)).id != asked.id


async def launched_by_two(house: House, text: str = ONE) -> Opened:
    """A step of the first launcher; Eve owns the second one, which may open it, too."""
    launchers = launcher(owners=["group:sched"]), launcher("second", SECOND, owners=["eve"])
    await house.world.load_map(with_launchers(text, *launchers))
    house.hire(operator("eve"))
    return await house.world.launch(["danger"])


async def test_what_was_approved_for_one_launcher_is_nothing_to_another(house: House) -> None:
    opened = await launched_by_two(house)
    asked = await house.asked(opened)
    await house.decide("eve", asked)  # no owner of the one that opened it
    await house.world.end(opened.handle, who=agent(SCHEDULER))
    again = await house.world.launch(["danger"], who=SECOND)
    newer = await house.asked(again)
    assert newer.launcher == SECOND
    older = await house.world.store.read(lambda tx: tx.approval(asked.id))
    assert older is not None
    assert older.state is ApprovalState.REPLACED
    assert (await refusal(house.decide("eve", newer, code=house.code(1)))).reason is Reason.OWNER_MAY_NOT


async def test_an_owner_of_the_latest_launcher_does_not_vote(house: House) -> None:
    opened = await launched_by_two(house)
    asked = await house.asked(opened)
    await house.world.end(opened.handle, who=agent(SCHEDULER))
    await house.world.launch(["danger"], who=SECOND)
    assert (await refusal(house.decide("eve", asked))).reason is Reason.OWNER_MAY_NOT
    assert (await refusal(house.decide("ann", asked))).reason is Reason.APPROVAL_CHANGED  # it would not be used


async def test_a_grant_that_is_gone_is_a_changed_one(house: House) -> None:
    asked = await house.asked(await house.world.begin(["danger"]))
    await house.world.load_map(NEEDS.replace("scopes: [plain, elevated, danger, timed]", "scopes: [plain]"))
    assert (await refusal(house.decide("bob", asked))).reason is Reason.APPROVAL_CHANGED


@pytest.mark.parametrize("wall", [timedelta(days=1), timedelta(0)])
async def test_an_expired_one_is_decided_no_more(house: House, wall: timedelta) -> None:
    asked = await house.asked(await house.world.begin(["danger"]))
    if wall:
        house.world.fake_clock.set_wall(house.world.clock.now() + wall)
    else:
        await house.world.fake_clock.run(8 * 3600 + 10)
    assert (await refusal(house.decide("bob", asked))).reason is Reason.APPROVAL_EXPIRED


async def test_it_is_good_for_as_long_as_the_shortest_word(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    await house.decide("ann", asked, good_for=timedelta(minutes=5))
    given = await house.decide("bob", asked, good_for=timedelta(hours=9))
    assert given.expires_at - house.world.clock.now() == timedelta(minutes=5)


async def test_who_lost_the_role_since_has_not_said_yes(house: House) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    await house.decide("ann", asked)
    house.hire(operator("ann", roles=frozenset({Role.VIEWER})))
    assert (await house.decide("bob", asked)).state is ApprovalState.PENDING
    assert (await house.decide("cid", asked)).state is ApprovalState.APPROVED


async def test_who_has_signed_the_map_since_has_not_said_yes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    text = NEEDS + "approvals: {signers: refuse}\n"
    await house.world.load_map(text)
    monkeypatch.setattr(type(house.world.policies), "signers", frozenset({"zoe-2026"}))
    house.hire(operator("zoe", keys=frozenset({"zoe-2026"})))
    asked = await house.asked(await house.world.begin(["danger"]))
    await house.decide("ann", asked)
    monkeypatch.setattr(type(house.world.policies), "signers", frozenset({"ann-2026"}))
    house.hire(operator("ann", keys=frozenset({"ann-2026"})))
    assert (await house.decide("bob", asked)).state is ApprovalState.PENDING


async def test_a_role_that_was_taken_away_while_the_call_was_on_its_way_is_gone(house: House) -> None:
    asked = await house.asked(await house.world.begin(["danger"]))
    before = house.caller("ann")
    house.hire(operator("ann", roles=frozenset({Role.VIEWER})))
    late = house.desk.decide(
        before, asked.id, approve=True, reason="r", code=house.code(), digest=asked.digest, good_for=None
    )
    assert (await refusal(late)).reason is Reason.ROLE_MISSING


async def test_two_uses_of_one_code_at_once_are_one_vote(house: House) -> None:
    first = await house.asked(await house.world.begin(["danger"]))
    second = await house.asked(await house.world.begin(["danger"], run="r2"))
    code = house.code()
    answers = await asyncio.gather(
        house.decide("ann", first, code=code), house.decide("ann", second, code=code), return_exceptions=True
    )
    refused = [one for one in answers if isinstance(one, BrokerError)]
    assert [one.reason for one in refused] == [Reason.CODE_REPLAYED]


async def test_under_a_map_that_a_stranger_signed_nothing_is_approved_or_used(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await house.world.begin(["danger"])
    asked = await house.asked(opened)
    await house.decide("ann", asked)
    monkeypatch.setattr(type(house.world.policies), "signers", frozenset({"ghost-2026"}))
    assert (await refusal(house.decide("bob", asked))).reason is Reason.SIGNER_UNKNOWN
    house.hire(operator("gus", keys=frozenset({"ghost-2026"})))
    assert (await house.decide("bob", asked)).state is ApprovalState.APPROVED


async def test_a_signer_does_not_approve_when_the_map_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.world.load_map(NEEDS + "approvals: {signers: refuse}\n")
    asked = await house.asked(await house.world.begin(["danger"]))
    monkeypatch.setattr(type(house.world.policies), "signers", frozenset({"ann-2026"}))
    house.hire(operator("ann", keys=frozenset({"ann-2026"})))
    assert (await refusal(house.decide("ann", asked))).reason is Reason.SIGNER_MAY_NOT
    assert (await house.decide("bob", asked)).state is ApprovalState.PENDING
