"""Opening what the guard closed, with duties kept apart, and alone when nobody else is there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from operator import methodcaller
from pathlib import Path

import pytest

from broker.alert import AlertRule
from broker.errors import BrokerError, Reason
from broker.guard.guard import Guard
from broker.leases.selection import Selection
from broker.model import JsonValue, LeaseState, StepState
from broker.operators.model import Role
from broker.store.guard import GuardRow, GuardState
from tests.fakes.launchers import launcher, with_launchers
from tests.fakes.world import ANN, MAP, agent, refusal, world
from tests.unit.operators.desk import House
from tests.unit.operators.people import operator


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with world(tmp_path) as broker:
        yield House(broker)


async def held(house: House) -> GuardRow:
    """A high key that came back after its lock."""
    for number in range(2):
        opened = await house.world.begin(["danger"])
        for _ in range(3 * (1 - number)):
            await house.world.issue(opened.handle, "danger")
        await refusal(house.world.issue(opened.handle, "danger"))
    (row,) = await house.world.store.read(lambda tx: tx.guard_page(after="", limit=9))
    assert row.state is GuardState.HELD
    return row


async def reset(house: House, name: str, key: str, *, code: str | None = None, break_glass: bool = False) -> str:
    code = house.code() if code is None else code
    row, review = await house.desk.reset(
        house.caller(name), key, reason="incident 9", code=code, break_glass=break_glass
    )
    assert (row.state, row.spent, row.reset_by) == (GuardState.OPEN, 0, name)
    return review


async def test_an_owner_of_the_launcher_of_its_latest_step_does_not_open_it(house: House) -> None:
    """Of neither of its keys: the step's budget, and the workload's hour."""
    first, second = "spiffe://dev.local/scheduler", "spiffe://dev.local/scheduler2"
    launchers = launcher(owners=["group:sched"]), launcher("second", second, owners=["eve"])
    await house.world.load_map(with_launchers(MAP, *launchers))
    house.hire(operator("eve"))
    for who, mints in ((first, 1), (second, 2)):
        opened = await house.world.launch(["danger"], who=who)
        for _ in range(mints):
            await house.world.issue(opened.handle, "danger")
        await house.world.end(opened.handle, who=agent(who))
    rows = await house.world.store.read(lambda tx: tx.guard_page(after="", limit=9, open_too=True))
    assert len(rows) == 2
    for row in rows:
        assert (await refusal(reset(house, "eve", row.key))).reason is Reason.OWNER_MAY_NOT


async def test_another_than_the_owner_opens_it(house: House) -> None:
    row = await held(house)
    assert (await refusal(reset(house, "dan", row.key))).reason is Reason.OWNER_MAY_NOT
    house.hire(operator("eve", roles=frozenset({Role.APPROVER})))
    assert (await refusal(reset(house, "eve", row.key))).reason is Reason.ROLE_MISSING
    assert (await refusal(reset(house, "ann", row.key, code="123"))).reason is Reason.CODE_WRONG
    assert (await refusal(reset(house, "ann", "0" * 64))).reason is Reason.NOT_FOUND
    assert await reset(house, "ann", row.key) == ""
    (record,) = await house.world.journal("GUARD_RESET")
    assert (record["data"]["operator"], record["data"]["was"]) == ("ann", "HELD")
    assert (record["run"], record["step"], record["scope"]) == ("r1", "load", "danger")  # part of the run's story
    assert await house.world.issue((await house.world.begin(["danger"])).handle, "danger")


async def test_nobody_opens_the_same_twice_in_a_row(house: House) -> None:
    row = await held(house)
    await reset(house, "ann", row.key)
    await house.world.engine.orders.revoke(Selection(everything=True), ANN, end_steps=True)
    row = await held(house)
    assert row.reset_by == "ann"
    assert (await refusal(reset(house, "ann", row.key, code=house.code(1)))).reason is Reason.OTHER_OPERATOR_NEEDED
    await reset(house, "bob", row.key)


async def second_reset(house: House, tier: str, state: GuardState) -> Reason | None:
    """What ann is told when she opens again what she opened last, and bob is not."""
    about: Mapping[str, JsonValue] = {"workload": "load", "scope": "any"}
    row = GuardRow(key="k", hour_key="h", tier=tier, about=about, spent=1, state=state, reset_by="ann")
    await house.world.store.write(methodcaller("put_guard_row", row))
    reason = None
    try:
        await reset(house, "ann", row.key)
    except BrokerError as error:
        reason = error.reason
    await house.world.store.write(methodcaller("put_guard_row", row))
    await reset(house, "bob", row.key)
    return reason


@pytest.mark.parametrize(
    ("tier", "free"),
    [
        ("low", {GuardState.OPEN, GuardState.COOLING}),
        (
            "elevated",
            {GuardState.OPEN, GuardState.COOLING},
        ),  # a second lock would hold it, had no reset forgotten the first
        ("high", set()),
    ],
)
@pytest.mark.parametrize("state", GuardState)
async def test_nobody_keeps_a_key_from_ever_being_held(
    house: House, tier: str, state: GuardState, free: set[GuardState]
) -> None:
    assert await second_reset(house, tier, state) is (None if state in free else Reason.OTHER_OPERATOR_NEEDED)


async def test_mutant_that_looks_at_held_keys_alone_is_found(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "comes_back", lambda _, row: row.state is not GuardState.HELD)
    assert await second_reset(house, "high", GuardState.LOCKED) is None


async def test_of_a_certificate_that_fits_two_workloads_neither_owner_opens_the_key(house: House) -> None:
    also = 'also: {id: "spiffe://dev.local/workflow/nightly/step/{name}", owners: [eve]}'
    grants = "grants:\n  also: {workloads: [also], workflows: [other], scopes: [danger], max_step: 2h}\n"
    await house.world.load_map(MAP.replace("workloads:\n", f"workloads:\n  {also}\n").replace("grants:\n", grants))
    row = await held(house)
    house.hire(operator("eve"))
    for owner in ("dan", "eve"):
        assert (await refusal(reset(house, owner, row.key))).reason is Reason.OWNER_MAY_NOT
    await reset(house, "ann", row.key)


async def test_break_glass_opens_alone_and_stays_open_to_review_until_another_signs(house: House) -> None:
    row = await held(house)
    house.hire(operator("eve", roles=frozenset({Role.APPROVER})))
    assert (await refusal(reset(house, "eve", row.key, break_glass=True))).reason is Reason.ROLE_MISSING
    assert (await refusal(reset(house, "dan", row.key, code="123456", break_glass=True))).reason is Reason.CODE_WRONG
    review = await reset(house, "dan", row.key, break_glass=True)
    fires = [one.alert for one in await house.world.store.read(lambda tx: tx.alerts())]
    (loud,) = [one for one in fires if one.rule is AlertRule.BREAK_GLASS]
    assert loud.labels["review"] == review
    (open_review,) = await house.world.store.read(lambda tx: tx.reviews())
    assert (open_review.by, open_review.about["set_aside"]) == ("dan", ["OWNER_MAY_NOT"])
    sign = house.desk.sign_review
    assert (await refusal(sign(house.caller("dan"), review, note="mine"))).reason is Reason.OTHER_OPERATOR_NEEDED
    signed = await sign(house.caller("bob"), review, note="seen")
    assert (signed.closed_by, signed.note) == ("bob", "seen")
    assert (await refusal(sign(house.caller("ann"), review, note="me too"))).reason is Reason.APPROVAL_DECIDED
    assert await house.world.store.read(lambda tx: tx.reviews()) == []
    rules = {one.alert.rule for one in await house.world.store.read(lambda tx: tx.alerts())}
    assert AlertRule.BREAK_GLASS not in rules
    assert (await house.world.journal_kinds()).count("REVIEW_SIGNED") == 1


async def test_the_kill_switch_says_first_what_would_die(house: House) -> None:
    opened = await house.world.begin(["plain"])
    lease = (await house.world.issue(opened.handle, "plain")).lease
    ann, run = house.caller("ann"), Selection(run="r1")
    would = await house.desk.revoke(ann, run, reason="", dry_run=True, end_steps=True)
    assert ([one.id for one in would.leases], [one.id for one in would.steps]) == ([lease.id], [opened.step.id])
    assert (await house.world.lease(lease.id)).state is LeaseState.ACTIVE
    await house.desk.revoke(ann, run, reason="incident", dry_run=False, end_steps=False)
    assert (await house.world.lease(lease.id)).state is not LeaseState.ACTIVE
    assert (await house.world.step_row(opened)).state is StepState.OPEN
    (record,) = await house.world.journal("REVOKE_ORDERED")
    assert record["data"]["selection"] == {"run": "r1"}
    with pytest.raises(Exception, match="nothing is selected"):
        await house.desk.revoke(ann, Selection(), reason="x", dry_run=True, end_steps=False)


async def test_freezing_by_name_and_lifting_it(house: House) -> None:
    opened, ann = await house.world.begin(["plain"]), house.caller("ann")
    would = await house.desk.freeze(ann, Selection(scope="plain"), reason="", dry_run=True, revoke=False)
    assert await house.world.issue(opened.handle, "plain")
    assert would.leases == ()
    frozen = await house.desk.freeze(ann, Selection(scope="plain"), reason="leak", dry_run=False, revoke=True)
    assert len(frozen.leases) == 1
    assert (await refusal(house.world.issue(opened.handle, "plain"))).reason is Reason.FROZEN
    lift = house.desk.unfreeze
    assert (await lift(ann, frozen.freeze.id, reason="", dry_run=True)).reason == "leak"
    assert (await refusal(house.world.issue(opened.handle, "plain"))).reason is Reason.FROZEN
    await lift(house.caller("bob"), frozen.freeze.id, reason="over", dry_run=False)
    assert await house.world.issue(opened.handle, "plain")
    assert (await refusal(lift(ann, frozen.freeze.id, reason="", dry_run=False))).reason is Reason.NOT_FOUND
    everything = await house.desk.freeze(ann, Selection(everything=True), reason="x", dry_run=False, revoke=False)
    assert everything.freeze.id == "all"
    bob = house.caller("bob")
    again = await house.desk.freeze(bob, Selection(everything=True), reason="y", dry_run=False, revoke=True)
    assert (again.freeze.by, again.freeze.reason) == ("ann", "x")  # it is hers; what he asked for is on record
    *_, record = await house.world.journal("FROZEN")
    assert (record["data"]["operator"], record["data"]["why"], record["data"]["new"]) == ("bob", "y", False)
    for wrong in (Selection(step="load"), Selection(leases=frozenset({"a"})), Selection(everything=True, run="r")):
        error = await refusal(house.desk.freeze(ann, wrong, reason="x", dry_run=False, revoke=False))
        assert error.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "nobodys",
    [
        Selection(agent="load"),
        Selection(scope="no-such"),
        Selection(provider="no-such"),
        Selection(run="a b"),
        Selection(workflow="a/b"),
    ],
)
async def test_a_name_that_nothing_can_have_is_not_frozen(house: House, nobodys: Selection) -> None:
    """Whoever mistyped it would believe to be safe."""
    ask = house.desk.freeze(house.caller("ann"), nobodys, reason="x", dry_run=True, revoke=False)
    assert (await refusal(ask)).reason is Reason.INVALID_ARGUMENT


async def test_the_same_freeze_twice_is_one_and_lifted_once(house: House) -> None:
    ann, run = house.caller("ann"), Selection(run="r1")
    first = await house.desk.freeze(ann, run, reason="x", dry_run=False, revoke=False)
    second = await house.desk.freeze(house.caller("bob"), run, reason="y", dry_run=False, revoke=False)
    assert second.freeze == first.freeze
    await house.desk.unfreeze(ann, first.freeze.id, reason="over", dry_run=False)
    assert await house.world.store.read(lambda tx: tx.freezes()) == []
