"""When the list is full and the scope chose it: all older sessions of the role are cut off at once."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.contents import Entry
from broker.providers.aws.denies.looking import LOOK_AGAIN
from broker.providers.aws.denies.role import Denied, issued_of
from broker.providers.aws.ending import Ending
from broker.providers.aws.probes import Prober
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.base import DENY_WRITTEN_AT, Contact, CutOff, LeaseRef, ProviderError
from tests.fakes.iam import BLOCK, CUTTING, DENIED, LOST, ROLE, World, lease

ROOM = 9


async def full(*, heard: bool = True) -> tuple[World, list[LeaseRef]]:
    """A role whose places are all taken by entries, a while after they were written."""
    world = World(heard=heard, deny_share=1.0)
    world.iam.crowd(ROOM)
    refs = [world.ref(lease(number), minutes=30) for number in range(ROOM)]
    for ref in refs:
        await world.list.reserve(BLOCK, ref)
    world.open = [*refs]
    assert {result.state for result in await asyncio.gather(*(world.end(ref) for ref in refs))} == {Denied.DENY_WRITTEN}
    world.clock.advance(10)
    return world, refs


def cutting(world: World, number: int, *, minutes: float = 15) -> LeaseRef:
    ref = world.ref(lease(number), minutes=minutes, params=CUTTING.model_dump(mode="json", exclude_none=True))
    world.open.append(ref)
    return ref


async def end(world: World, ref: LeaseRef, block: AwsBlock = CUTTING) -> Denied:
    return (await world.end(ref, block=block)).state


def ending_of(world: World) -> Ending:
    async def nothing(*_: object, **__: object) -> Failure:
        raise AssertionError("no scope here has a probe")

    return Ending(world.list, Prober(nothing, world.clock), world.clock)


def statements(world: World) -> list[tuple[str, int, str]]:
    """(kind, names, before) of this epoch's list."""
    (name,) = world.iam.lists()
    held = []
    for statement in json.loads(world.iam.policies[name])["Statement"]:
        condition = statement["Condition"]
        names = condition.get("StringLike", {}).get("aws:userid", ())
        before = condition.get("DateLessThan", {}).get("aws:TokenIssueTime", "")
        held.append((statement["Sid"].rstrip("0123456789"), len(names), before))
    return held


async def test_what_it_covers_leaves_the_list_and_frees_its_place() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    assert world.list.no_room(refs[0].params, "spiffe://test.local/b") is not None
    result = await world.end(ref, block=CUTTING)
    (policy,) = world.iam.lists()
    assert (result.state, result.policy, result.at) == (Denied.ROLE_CUT_OFF, policy, world.clock.now())
    assert statements(world) == [("cut", 0, "2026-11-22T12:00:15Z")]
    assert all(world.iam.stops(each.lease_id, issued_of(each)) for each in (*refs, ref))
    assert not world.iam.stops(lease(7), world.clock.now())  # what is issued from now on is untouched
    assert world.list.no_room(refs[0].params, "spiffe://test.local/b") is None
    assert {await end(world, each, BLOCK) for each in refs} == {Denied.ROLE_CUT_OFF}  # who asks again hears of it


async def test_a_scope_that_did_not_choose_it_waits() -> None:
    world, _ = await full()
    ref = world.ref(lease(100))
    world.clock.advance(5)
    result = await world.end(ref)
    assert (result.state, result.cut) == (Denied.DENY_LIST_FULL, None)
    assert result.again is not None
    assert statements(world) == [("until", ROOM, "")]


async def test_a_wish_that_needed_no_cut_off_is_not_granted_to_the_next_writer() -> None:
    world, refs = await full()
    entry = Entry(agent=refs[0].agent, issued=issued_of(refs[0]), bound=refs[0].expires_at)
    assert await world.list._role(BLOCK)._writer.write(refs[0].lease_id, entry, cut=True) is None  # it is denied by now
    assert await end(world, world.ref(lease(100)), BLOCK) is Denied.DENY_LIST_FULL
    assert [kind for kind, _, _ in statements(world)] == ["until"]


async def test_while_there_is_room_nobody_is_cut_off() -> None:
    world = World(heard=True)
    world.iam.crowd(ROOM)
    ref = cutting(world, 1)
    world.clock.advance(5)
    assert await end(world, ref) is Denied.DENY_WRITTEN


async def test_a_session_that_is_too_young_gets_the_room_that_the_older_ones_leave() -> None:
    world, _ = await full()
    world.clock.advance(1)
    ref = cutting(world, 100)
    assert await end(world, ref) is Denied.DENY_WRITTEN
    assert [(kind, names) for kind, names, _ in statements(world)] == [("until", 1), ("cut", 0)]


async def test_when_it_would_make_no_room_nobody_is_cut_off() -> None:
    world = World(heard=True, deny_share=1.0)
    world.iam.crowd(ROOM)
    refs = [world.ref(lease(number)) for number in range(ROOM)]
    await asyncio.gather(*(world.end(ref) for ref in refs))
    assert await end(world, cutting(world, 100)) is Denied.DENY_LIST_FULL  # all were issued just now
    assert statements(world) == [("until", ROOM, "")]


async def test_places_of_sessions_that_it_does_not_cover_stay_theirs() -> None:
    world = World(heard=True, deny_share=1.0)
    world.iam.crowd(ROOM)
    ref = cutting(world, 100)
    world.clock.advance(60)
    young = [world.ref(lease(number)) for number in range(ROOM)]
    for each in young:
        await world.list.reserve(BLOCK, each)
    world.open += young
    assert await end(world, ref) is Denied.DENY_LIST_FULL  # the statement itself would take seven of their places
    assert not world.iam.lists()
    assert {await end(world, each, BLOCK) for each in young} == {Denied.DENY_WRITTEN}


async def test_running_sessions_that_it_ends_are_told_when_their_end_is_asked_for() -> None:
    world, _ = await full()
    running = cutting(world, 101, minutes=60)
    ref = cutting(world, 100)
    world.clock.advance(5)
    assert await end(world, ref) is Denied.ROLE_CUT_OFF
    writes = world.iam.calls.count("put_role_policy")
    assert await end(world, running) is Denied.ROLE_CUT_OFF
    assert world.iam.calls.count("put_role_policy") == writes  # its end was foreseen
    later = world.ref(lease(102), minutes=90, intent_at=running.intent_at, refs=running.refs)
    assert await end(world, later) is Denied.DENY_WRITTEN  # nobody knew of it: by its name, then


async def test_once_a_minute_and_forward_only() -> None:
    world, refs = await full()
    first = cutting(world, 100)
    world.clock.advance(5)
    assert await end(world, first) is Denied.ROLE_CUT_OFF
    others = [world.ref(lease(number), minutes=20) for number in range(ROOM - 7)]
    await asyncio.gather(*(world.end(other) for other in others))  # the list is full again: the statement has its size
    second = cutting(world, 101)
    world.clock.advance(5)
    result = await world.end(second, block=CUTTING)
    assert (result.state, result.again is not None) == (Denied.DENY_LIST_FULL, True)
    world.clock.advance(60)
    world.open = [second]
    assert await end(world, second) is Denied.ROLE_CUT_OFF
    assert await end(world, refs[0], BLOCK) is Denied.ROLE_CUT_OFF  # its end is remembered
    ((_, _, before),) = statements(world)
    assert before > "2026-11-22T12:01:15Z"
    assert await end(world, first) is Denied.ROLE_CUT_OFF


async def test_it_stays_until_the_last_bound_of_what_it_covers_and_then_leaves() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    await end(world, ref)
    world.clock.advance(29 * 60)
    await world.deny(lease(200))
    assert [kind for kind, _, _ in statements(world)] == ["until", "cut"]
    assert world.iam.stops(refs[0].lease_id, issued_of(refs[0]))
    world.clock.advance(2 * 60)
    await world.deny(lease(201))
    assert statements(world) == [("until", 2, "")]


async def test_without_awss_time_nobody_is_cut_off() -> None:
    world, _ = await full(heard=False)
    ref = cutting(world, 100)
    world.clock.advance(5)
    assert await end(world, ref) is Denied.DENY_LIST_FULL


async def test_one_that_was_refused_covers_nobody() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    world.iam.script["put_role_policy"] = [DENIED]
    with pytest.raises(ProviderError):
        await end(world, ref)
    assert await end(world, refs[0], BLOCK) is Denied.DENY_WRITTEN
    assert await end(world, ref) is Denied.DENY_LIST_FULL  # once a minute, tries included
    world.clock.advance(60)
    assert await end(world, ref) is Denied.ROLE_CUT_OFF


async def test_one_of_unknown_outcome_is_claimed_when_it_is_surely_there() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    world.iam.script["put_role_policy"] = [LOST]
    with pytest.raises(ProviderError):
        await end(world, ref)
    assert await end(world, ref) is Denied.DENY_UNSURE
    assert await end(world, refs[0], BLOCK) is Denied.DENY_WRITTEN  # by name or by the cut-off: either was there
    world.clock.advance(61)
    assert await end(world, ref) is Denied.ROLE_CUT_OFF


async def test_a_write_of_unknown_outcome_puts_it_off_for_nobody() -> None:
    world = World(heard=True, deny_share=1.0)
    world.iam.crowd(ROOM)
    *refs, last = [world.ref(lease(number), minutes=30) for number in range(ROOM)]
    world.open = [*refs, last]
    await asyncio.gather(*(world.end(ref) for ref in refs))
    world.iam.script["put_role_policy"] = [LOST]
    with pytest.raises(ProviderError):
        await end(world, last, BLOCK)
    ref = cutting(world, 100)
    world.clock.advance(5)
    assert await end(world, ref) is Denied.DENY_UNSURE  # nothing new is claimed while a late write may land
    assert world.iam.stops(ref.lease_id, issued_of(ref))
    world.clock.advance(61)
    assert await end(world, ref) is Denied.ROLE_CUT_OFF


async def test_the_next_epoch_knows_it() -> None:
    old, refs = await full()
    ref = cutting(old, 100)
    old.clock.advance(5)
    await end(old, ref)
    new = World(old.iam, epoch=8, clock=old.clock, heard=True)
    assert await end(new, refs[0], BLOCK) is Denied.DENY_UNSURE
    new.clock.advance(61)
    result = await new.end(refs[0])
    assert (result.state, [result.policy]) == (Denied.ROLE_CUT_OFF, old.iam.lists(7))
    assert not new.iam.lists(8)


# --- as the engine hears of it ---


async def test_the_engine_is_told_what_ends_with_it() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    ending = ending_of(world)
    progress = await ending.revoke(ref)
    assert (progress.evidence, progress.step) == (None, "ROLE_CUT_OFF")
    assert progress.refs[DENY_WRITTEN_AT] == "2026-11-22T12:00:15Z"
    assert progress.cut_off == CutOff(param="role_arn", value=ROLE, before=world.clock.now())
    assert progress.cut_off.hits(refs[0])


async def test_a_doubt_cuts_nobody_off_since_nobody_would_hear_of_it() -> None:
    world, _ = await full()
    doubt = cutting(world, 100)
    world.clock.advance(400)
    settlement = await ending_of(world).settle(doubt)
    assert (settlement.found, settlement.evidence, settlement.refs) == (False, None, {})
    assert statements(world) == [("until", ROOM, "")]


def test_when_a_session_was_issued_is_known_or_put_late() -> None:
    world = World()
    now = world.clock.now()
    assert issued_of(world.ref(lease(1))) == now
    older = world.ref(lease(1), refs={"session_expires_at": (now + timedelta(hours=1)).isoformat()})
    assert issued_of(older) == now + timedelta(minutes=45)
    assert issued_of(world.ref(lease(1), refs={"issued_at": "soon"})) == now + timedelta(minutes=5)


async def test_one_that_is_too_young_is_asked_again_as_soon_as_it_is_old_enough() -> None:
    world = World(heard=True, deny_share=1.0)
    world.iam.crowd(ROOM)
    refs = [world.ref(lease(number)) for number in range(ROOM)]
    await asyncio.gather(*(world.end(ref) for ref in refs))
    ref = cutting(world, 100)
    told = await world.end(ref, block=CUTTING)
    assert told.again is not None
    assert told.again <= timedelta(seconds=3)
    world.clock.advance(told.again.total_seconds())
    assert await end(world, ref) is Denied.ROLE_CUT_OFF


async def test_what_is_remembered_is_no_answer_of_iam() -> None:
    """An end that nobody was asked for must not tell the breaker that AWS is well."""
    world = World()
    ending = ending_of(world)
    bound = {**BLOCK.model_dump(mode="json", exclude_none=True), "revoke": "bound"}
    told = [await ending.revoke(world.ref(lease(1))) for _ in range(2)]
    told.append(await ending.revoke(world.ref(lease(2), params=bound)))
    told.append(await ending.revoke(world.ref(lease(3), minutes=0.5)))
    assert [one.contact for one in told] == [Contact.ANSWERED, *[Contact.NOT_ASKED] * 3]
    settled = [await ending.settle(world.ref(name)) for name in (lease(1), lease(4))]
    assert [one.contact for one in settled] == [Contact.NOT_ASKED, Contact.ANSWERED]


async def test_a_cut_off_that_somebody_deletes_is_missed_and_made_again() -> None:
    world, refs = await full()
    ref = cutting(world, 100)
    world.clock.advance(5)
    before = await world.end(ref, block=CUTTING)
    world.iam.policies.clear()
    world.clock.advance(LOOK_AGAIN)
    after = await world.end(refs[0])
    assert (after.state, after.cut) == (Denied.ROLE_CUT_OFF, before.cut)  # no later one: nobody else is ended
    assert all(world.iam.stops(each.lease_id, issued_of(each)) for each in (*refs, ref))
