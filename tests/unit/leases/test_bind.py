"""`bind: key`: a handle in other hands is worth nothing, also with another certificate of the same identity."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.beginning import Opened
from broker.leases.core import OTHER_KEY
from broker.model import Agent, Bind, Certificate, EndReason, LeaseState, StepState
from tests.fakes.bound import ANY_KEY, FIRST, NOBODYS, ONE_KEY, OTHER_ONE, RENEWED, calls, holder, told
from tests.fakes.launchers import SCHEDULER, launcher
from tests.fakes.world import World, agent, new_id, refusal, world


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, sqlite=True) as made:
        await made.load_map(ONE_KEY)
        yield made


async def begun(broker: World, who: Agent = FIRST) -> tuple[Opened, str, str]:
    """A step with a claimed lease: what was opened, the lease, and the request that asked for it."""
    opened, request_id = await broker.begin(["plain", "timed"], who=who), new_id()
    lease = (await broker.issue(opened.handle, who=who, request_id=request_id)).lease
    await broker.engine.heartbeat(who, opened.handle, [lease.id])
    return opened, lease.id, request_id


async def test_another_key_of_the_same_identity_gets_what_a_stranger_gets(broker: World) -> None:
    opened, lease_id, request_id = await begun(broker)
    minted, row = list(broker.backend.mints), await broker.step_row(opened)
    answers = set()
    for who, handle in ((OTHER_ONE, opened.handle), (agent(), opened.handle), (FIRST, "x" * 26)):
        for call in calls(broker, who, handle, lease_id, request_id):
            answers.add(told(await refusal(call)))
    assert answers == {NOBODYS}
    assert broker.backend.mints == minted
    assert await broker.step_row(opened) == row
    assert (await broker.lease(lease_id)).state is LeaseState.ACTIVE


async def test_whose_certificate_is_renewed_over_its_key_goes_on(broker: World) -> None:
    opened, lease_id, request_id = await begun(broker)
    same = await broker.issue(opened.handle, who=RENEWED, request_id=request_id)
    assert same.lease.id == lease_id
    await broker.engine.heartbeat(RENEWED, opened.handle, [lease_id])
    newer = (await broker.issue(opened.handle, who=RENEWED)).lease
    assert (await broker.lease(newer.id)).certificate == RENEWED.certificate
    assert (await broker.step_row(opened)).certificate == FIRST.certificate
    assert (await broker.end(opened.handle, who=RENEWED)).all_proven


async def test_without_it_the_identity_is_enough_and_what_called_is_known_all_the_same(broker: World) -> None:
    await broker.load_map(ANY_KEY)
    opened, lease_id, request_id = await begun(broker)
    assert ((await broker.step_row(opened)).bind, (await broker.lease(lease_id)).certificate) == (
        Bind.IDENTITY,
        FIRST.certificate,
    )
    await broker.engine.heartbeat(OTHER_ONE, opened.handle, [lease_id])
    assert (await broker.issue(opened.handle, who=OTHER_ONE, request_id=request_id)).lease.id == lease_id
    newer = (await broker.issue(opened.handle, who=OTHER_ONE)).lease
    assert (await broker.lease(newer.id)).certificate == OTHER_ONE.certificate
    assert (await broker.end(opened.handle, who=OTHER_ONE)).all_proven


async def test_a_replayed_begin_step_gives_the_handle_to_its_own_key_only(broker: World) -> None:
    request_id = new_id()
    opened = await broker.begin(who=FIRST, request_id=request_id)
    assert (await broker.begin(who=RENEWED, request_id=request_id)).handle == opened.handle
    assert told(await refusal(broker.begin(who=OTHER_ONE, request_id=request_id))) == NOBODYS


async def test_what_has_ended_is_told_to_its_own_key_only(broker: World) -> None:
    opened, lease_id, request_id = await begun(broker)
    await broker.end(opened.handle, who=FIRST)
    assert (await refusal(broker.issue(opened.handle, who=FIRST))).reason is Reason.STEP_ENDED
    for call in calls(broker, OTHER_ONE, opened.handle, lease_id, request_id):
        assert told(await refusal(call)) == NOBODYS


async def test_the_next_attempt_is_held_to_the_key_that_opens_it(broker: World) -> None:
    first, lease_id, _ = await begun(broker)
    assert (await refusal(broker.begin(who=OTHER_ONE))).reason is Reason.STEP_ALIVE
    await broker.load_map(ONE_KEY.replace("bind: key", "bind: key, concurrent: supersede"))
    second = await broker.begin(who=OTHER_ONE)
    assert second.step.attempt == 2
    assert (await broker.lease(lease_id)).end_reason is EndReason.SUPERSEDED
    await broker.issue(second.handle, who=OTHER_ONE)
    assert told(await refusal(broker.issue(second.handle, who=FIRST))) == NOBODYS
    assert (await refusal(broker.issue(first.handle, who=FIRST))).reason is Reason.STEP_ENDED


# --- what the map of today says ---


async def test_a_map_that_asks_for_the_key_later_goes_by_that_of_the_first_call(broker: World) -> None:
    await broker.load_map(ANY_KEY)
    opened, _, request_id = await begun(broker)
    await broker.load_map(ONE_KEY)
    for call in (
        broker.issue(opened.handle, who=OTHER_ONE),
        broker.issue(opened.handle, who=OTHER_ONE, request_id=request_id),
    ):
        assert told(await refusal(call)) == NOBODYS
    await broker.issue(opened.handle, who=RENEWED)
    await broker.engine.heartbeat(OTHER_ONE, opened.handle, [])  # the step itself was begun under the other rule


async def test_a_map_that_asks_for_it_no_more_frees_the_next_attempt_and_not_this_one(broker: World) -> None:
    opened, lease_id, request_id = await begun(broker)
    await broker.load_map(ANY_KEY)
    for call in calls(broker, OTHER_ONE, opened.handle, lease_id, request_id):
        assert told(await refusal(call)) == NOBODYS
    await broker.end(opened.handle, who=FIRST)
    again = await broker.begin(who=FIRST)
    await broker.issue(again.handle, who=OTHER_ONE)


async def test_one_scope_of_several_holds_the_whole_step(broker: World) -> None:
    both = ANY_KEY.replace("scopes: [plain, timed]", "scopes: [timed]") + (
        "  held: {workloads: [load], workflows: [nightly], scopes: [plain], bind: key}\n"
    )
    await broker.load_map(both)
    opened = await broker.begin(["timed", "plain"], who=FIRST)
    assert opened.step.bind is Bind.KEY
    assert told(await refusal(broker.issue(opened.handle, "timed", who=OTHER_ONE))) == NOBODYS
    free = await broker.begin(["timed"], who=FIRST, run="r2")
    assert free.step.bind is Bind.IDENTITY
    await broker.issue(free.handle, "timed", who=OTHER_ONE)


async def test_credentials_that_another_key_asked_for_die_by_a_map_that_asks_for_the_key(broker: World) -> None:
    await broker.load_map(ANY_KEY)
    opened, kept, _ = await begun(broker)
    gone = (await broker.issue(opened.handle, who=OTHER_ONE)).lease.id
    await broker.engine.heartbeat(FIRST, opened.handle, [gone])
    await broker.load_map(ONE_KEY)

    async def withdrawn() -> bool:
        return (await broker.lease(gone)).end_reason is EndReason.POLICY_CHANGED

    for _ in range(100):
        if await withdrawn():
            break
        await broker.engine.heartbeat(FIRST, opened.handle, [kept])
        await broker.fake_clock.run(5)
    assert await withdrawn()
    assert (await broker.lease(kept)).state is LeaseState.ACTIVE


async def test_a_key_that_nobody_knows_is_not_the_right_one(broker: World) -> None:
    """Of a step from before keys were kept, and of a caller without one."""
    opened = await broker.begin(who=agent())
    for who in (agent(), FIRST):
        assert told(await refusal(broker.issue(opened.handle, who=who))) == NOBODYS
    assert broker.backend.mints == []


# --- steps that a launcher opens ---


@pytest.fixture
async def launched(broker: World) -> Opened:
    await broker.set_launchers(launcher())
    return await broker.launch(["plain", "timed"])


FIRST_CALLS: dict[str, Callable[[World, str], Awaitable[Any]]] = {
    "issue": lambda broker, handle: broker.issue(handle, who=FIRST),
    "heartbeat": lambda broker, handle: broker.engine.heartbeat(FIRST, handle, []),
}


@pytest.mark.parametrize("call", FIRST_CALLS)
async def test_a_launched_step_is_held_to_its_workload_s_first_call(broker: World, launched: Opened, call: str) -> None:
    row = await broker.step_row(launched)
    assert (row.bind, row.certificate) == (Bind.KEY, Certificate())
    await FIRST_CALLS[call](broker, launched.handle)
    row = await broker.step_row(launched)
    assert (row.bind, row.certificate) == (Bind.KEY, FIRST.certificate)
    for work in calls(broker, OTHER_ONE, launched.handle, "a" * 16, new_id()):
        assert told(await refusal(work)) == NOBODYS
    (record,) = await broker.journal("STEP_STARTED")
    assert record["data"] == {"opened_by": SCHEDULER, "bind": "key", "spki_sha256": "aa" * 32}


async def test_a_launcher_ends_its_step_and_gets_its_handle_again_with_whatever_key(broker: World) -> None:
    await broker.set_launchers(launcher())
    request_id = new_id()
    opened = await broker.launch(["plain"], request_id=request_id)
    await broker.issue(opened.handle, who=FIRST)
    assert (await broker.launch(["plain"], request_id=request_id)).handle == opened.handle
    assert (await broker.end(opened.handle, who=agent(SCHEDULER))).all_proven


async def test_of_two_first_calls_at_once_one_key_is_the_first(broker: World, launched: Opened) -> None:
    results = await asyncio.gather(
        *(broker.engine.heartbeat(who, launched.handle, []) for who in (FIRST, OTHER_ONE, RENEWED)),
        return_exceptions=True,
    )
    row = await broker.step_row(launched)
    by_key = {"aa" * 32: [0, 2], "bb" * 32: [1]}[row.certificate.spki_sha256]
    assert [n for n, one in enumerate(results) if not isinstance(one, Exception)] == by_key
    assert all(told(one) == NOBODYS for one in results if isinstance(one, BrokerError))


async def test_a_grant_for_a_network_counts_from_the_first_call_on(broker: World) -> None:
    """While only its launcher has called, nobody knows where the workload is."""
    await broker.load_map(ONE_KEY.replace("bind: key", "bind: key, when: {networks: [10.0.0.0/8]}"))
    await broker.set_launchers(launcher())
    opened = await broker.launch(["plain"])
    assert opened.step.bind is Bind.IDENTITY
    await broker.engine.heartbeat(holder("aa", address="10.1.1.1"), opened.handle, [])
    row = await broker.step_row(opened)
    assert (row.bind, row.state) == (Bind.KEY, StepState.OPEN)
    thief = holder("bb", address="10.1.1.1")
    assert told(await refusal(broker.engine.heartbeat(thief, opened.handle, []))) == NOBODYS


# --- the journal ---


async def test_the_journal_says_what_a_step_is_held_to_and_why_another_key_was_refused(broker: World) -> None:
    opened, _, _ = await begun(broker)
    (record,) = await broker.journal("STEP_BEGUN")
    assert (record["data"]["bind"], record["data"]["spki_sha256"]) == ("key", "aa" * 32)
    (record,) = await broker.journal("LEASE_INTENT")
    assert record["data"]["bind"] == "key"
    error = await refusal(broker.engine.heartbeat(OTHER_ONE, opened.handle, []))
    await broker.engine._refusals.record(OTHER_ONE, "Heartbeat", error)
    (record,) = await broker.journal("DENIED")
    assert (record["step_id"], record["run"], record["cert_sha256"]) == (opened.step.id, "r1", OTHER_ONE.cert_sha256)
    assert (record["data"]["why"], record["data"]["spki_sha256"]) == (OTHER_KEY, "bb" * 32)


async def test_what_a_step_is_held_to_outlives_the_process(broker: World) -> None:
    opened, lease_id, _ = await begun(broker)
    await broker.crash()
    await broker.start()
    assert told(await refusal(broker.engine.heartbeat(OTHER_ONE, opened.handle, []))) == NOBODYS
    await broker.engine.heartbeat(RENEWED, opened.handle, [lease_id])
