"""One epoch's deny list against an IAM in memory that keeps AWS's limit and can lose answers and write late."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.denies.looking import LOOK_AGAIN, ROLE_CHARACTERS, UNWRITABLE
from broker.providers.aws.denies.policy import entries_in
from broker.providers.aws.denies.role import Denied
from broker.providers.aws.denies.writer import PACE
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import Contact, MintRefused, ProviderError
from tests.fakes.clock import FakeClock
from tests.fakes.iam import BLOCK, CUTTING, DENIED, GONE, LOST, NO_ENTITY, ROLE, SLOW, FakeIam, World, lease


async def test_an_entry_names_one_session_in_a_policy_of_this_installation_and_epoch() -> None:
    world = World()
    result = await world.end(world.ref(lease(1)))
    (policy,) = world.iam.lists()
    assert (result.state, result.policy, result.at) == (Denied.DENY_WRITTEN, policy, world.clock.now())
    assert world.iam.denied() == [f"*:{lease(1)}"]


async def test_denying_again_writes_nothing_and_keeps_the_time_of_the_first_write() -> None:
    world = World()
    ref = world.ref(lease(1))
    first = await world.end(ref)
    world.clock.advance(30)
    assert await world.end(ref) == first
    assert world.iam.calls.count("put_role_policy") == 1


async def test_concurrent_ends_share_a_write_and_never_two_at_once() -> None:
    world = World()
    world.iam.gate = asyncio.Event()
    first = [asyncio.create_task(world.deny(lease(n))) for n in range(50)]
    while not world.iam.writing:  # noqa: ASYNC110 - the fake has no event for it
        await asyncio.sleep(0)
    later = [asyncio.create_task(world.deny(lease(n))) for n in range(50, 100)]
    await asyncio.sleep(0.02)
    world.iam.gate.set()
    assert set(await asyncio.gather(*first, *later)) == {Denied.DENY_WRITTEN}
    assert (world.iam.calls.count("put_role_policy"), world.iam.most_writing) == (2, 1)
    assert len(world.iam.denied()) == 100


async def test_a_cancelled_caller_does_not_let_a_second_writer_in() -> None:
    world = World()
    world.iam.gate = asyncio.Event()
    gone = asyncio.create_task(world.deny(lease(1)))
    await asyncio.sleep(0.02)
    gone.cancel()
    other = asyncio.create_task(world.deny(lease(2)))
    await asyncio.sleep(0.02)
    world.iam.gate.set()
    assert await other is Denied.DENY_WRITTEN
    assert (len(world.iam.denied()), world.iam.most_writing) == (2, 1)


async def test_entries_go_after_their_bound_and_not_before() -> None:
    world = World()
    await world.deny(lease(1), minutes=10)
    world.clock.advance(10 * 60)
    await world.deny(lease(2))
    assert len(world.iam.denied()) == 2
    world.clock.advance(6 * 60)
    await world.deny(lease(3))
    assert world.iam.denied() == sorted([f"*:{lease(2)}", f"*:{lease(3)}"])


async def test_nothing_is_written_in_the_last_minute() -> None:
    world = World()
    assert await world.deny(lease(1), minutes=0.9) is Denied.WAITING_FOR_BOUND
    assert world.iam.calls == []


async def test_what_comes_too_late_while_it_waits_for_the_pace_waits_for_its_bound() -> None:
    world = World()
    await world.deny(lease(1))
    assert await world.deny(lease(2), minutes=60.2 / 60) is Denied.WAITING_FOR_BOUND
    assert world.iam.denied() == [f"*:{lease(1)}"]


async def test_a_failed_write_is_not_tried_again_in_the_last_minute() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [DENIED]
    ref = world.ref(lease(1), minutes=2)
    with pytest.raises(ProviderError):
        await world.end(ref)
    world.clock.advance(61)
    assert (await world.end(ref)).state is Denied.WAITING_FOR_BOUND
    await world.deny(lease(2))
    assert world.iam.denied() == [f"*:{lease(2)}"]


async def test_a_full_list_refuses_new_entries_and_keeps_those_it_has() -> None:
    world = World()
    room = entries_in(ROLE_CHARACTERS)
    assert room == 480
    states = await asyncio.gather(*(world.deny(lease(n)) for n in range(room)))
    assert set(states) == {Denied.DENY_WRITTEN}
    assert len(world.iam.policies[world.iam.lists()[0]]) <= ROLE_CHARACTERS
    before = world.iam.denied()
    assert await world.deny(lease(1000), minutes=60) is Denied.DENY_LIST_FULL
    assert world.iam.denied() == before
    world.clock.advance(25 * 60)
    assert await world.deny(lease(1000), minutes=60) is Denied.DENY_WRITTEN


async def test_the_roles_own_policies_take_their_part_of_the_budget() -> None:
    world = World()
    world.iam.policies["permissions"] = json.dumps(
        {"Version": "2012-10-17", "Statement": "x" * 9_000}, separators=(",", ":")
    )
    states = await asyncio.gather(*(world.deny(lease(n)) for n in range(100)))
    assert (
        states.count(Denied.DENY_WRITTEN)
        == len(world.iam.denied())
        == entries_in(10_240 - len(world.iam.policies["permissions"]))
    )
    assert states.count(Denied.DENY_LIST_FULL) > 0


async def test_a_policy_that_was_added_beside_ours_is_counted_after_the_refusal() -> None:
    world = World()
    await world.deny(lease(1))
    world.iam.policies["permissions"] = json.dumps({"Statement": "x" * 10_060}, separators=(",", ":"))
    with pytest.raises(ProviderError, match="LimitExceeded"):
        await world.deny(lease(2))
    assert await world.deny(lease(2)) is Denied.DENY_LIST_FULL
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN


async def test_a_missing_permission_is_named() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [DENIED]
    with pytest.raises(ProviderError, match="IAM refused PutRolePolicy: AccessDenied"):
        await world.deny(lease(1))


async def test_a_namesake_in_the_brokers_own_account_is_not_taken_for_the_role() -> None:
    world = World(FakeIam(arn="arn:aws:iam::999999999999:role/teams/etl"))
    with pytest.raises(ProviderError, match="another account"):
        await world.deny(lease(1))
    assert world.iam.policies == {}


@pytest.mark.parametrize("name", ["*", "", "abcdefghijklmno?", "ABCDEFGHIJKLMNOP", "abcdefghijklmnop\n"])
async def test_a_pattern_never_gets_into_the_policy(name: str) -> None:
    with pytest.raises(ProviderError, match="not a lease id"):
        await World().deny(name)


async def test_a_lost_answer_is_read_back_once_it_can_no_longer_land() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [LOST]
    ref = world.ref(lease(1))
    with pytest.raises(ProviderError, match="unknown outcome") as problem:
        await world.end(ref)
    assert problem.value.contact is Contact.NONE
    calls = len(world.iam.calls)
    for _ in range(3):
        result = await world.end(ref)
        assert (result.state, result.at) == (Denied.DENY_UNSURE, None)
        assert result.again is not None
        world.clock.advance(20)
    assert world.iam.calls[calls:] == ["get_role_policy"] * 2  # only that it is still there can be learned before
    assert (await world.end(ref)).state is Denied.DENY_WRITTEN
    assert (await world.end(ref)).state is Denied.DENY_WRITTEN
    assert (world.iam.calls.count("put_role_policy"), world.iam.calls.count("get_role_policy")) == (1, 4)


async def test_what_was_sure_before_a_write_of_unknown_outcome_stays_sure() -> None:
    world = World()
    await world.deny(lease(1))
    world.iam.script["put_role_policy"] = [LOST]
    with pytest.raises(ProviderError):
        await world.deny(lease(2))
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN


async def test_a_late_write_that_undoes_a_newer_one_is_seen_and_repaired() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [LOST]
    with pytest.raises(ProviderError):
        await world.deny(lease(1))
    (policy,) = world.iam.lists()
    older = world.iam.policies[policy]
    second = world.ref(lease(2))
    assert (await world.end(second)).state is Denied.DENY_UNSURE  # written, and read back: but what was sent may land
    assert len(world.iam.denied()) == 2
    world.iam.policies[policy] = older
    world.clock.advance(61)
    assert (await world.end(second)).state is Denied.DENY_WRITTEN
    assert world.iam.denied() == sorted([f"*:{lease(1)}", f"*:{lease(2)}"])


async def test_a_write_that_failed_is_reported_and_made_good_by_asking_again() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [Failure(code="ServiceFailure", status=500)]
    with pytest.raises(ProviderError, match="ServiceFailure") as problem:
        await world.deny(lease(1))
    assert problem.value.contact is Contact.FAILED
    assert await world.deny(lease(1)) is Denied.DENY_UNSURE
    assert len(world.iam.denied()) == 1  # at once; the claim comes later
    world.clock.advance(61)
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN


async def test_a_write_that_another_writer_undid_is_not_claimed() -> None:
    world = World()
    world.iam.undone = True
    with pytest.raises(ProviderError, match="lost"):
        await world.deny(lease(1))
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN
    assert len(world.iam.denied()) == 1


async def test_a_write_that_iam_is_late_to_show_is_not_sent_again() -> None:
    world = World()
    world.iam.script["get_role_policy"] = [NO_ENTITY]
    with pytest.raises(ProviderError, match="lost"):
        await world.deny(lease(1))
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN
    assert world.iam.calls.count("put_role_policy") == 1


async def test_when_iam_cannot_be_read_nothing_is_claimed() -> None:
    world = World()
    world.iam.script["get_role_policy"] = [GONE]
    with pytest.raises(ProviderError, match="did not say"):
        await world.deny(lease(1))
    assert await world.deny(lease(1)) is Denied.DENY_WRITTEN
    assert world.iam.calls.count("put_role_policy") == 1


async def test_throttled_writes_slow_the_role_down_as_a_whole() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [SLOW] * 4
    refs = [world.ref(lease(n)) for n in range(50)]
    told = await asyncio.gather(*(world.end(ref) for ref in refs), return_exceptions=True)
    contacts = [each.contact for each in told if isinstance(each, ProviderError)]
    assert (len(contacts), contacts.count(Contact.FAILED), contacts.count(Contact.NOT_ASKED)) == (50, 1, 49)
    begun = world.clock.monotonic()
    while not all(
        result.state is Denied.DENY_WRITTEN for result in told if not isinstance(result, BaseException)
    ) or any(isinstance(result, BaseException) for result in told):
        world.clock.advance(0.5)
        told = await asyncio.gather(*(world.end(ref) for ref in refs), return_exceptions=True)
    assert world.iam.calls.count("put_role_policy") == 5
    assert world.clock.monotonic() - begun > 1 + 2 + 4


async def test_writes_keep_a_pace() -> None:
    world = World()
    begun = world.clock.monotonic()
    for number in range(5):
        assert await world.deny(lease(number)) is Denied.DENY_WRITTEN
    assert world.clock.monotonic() - begun == pytest.approx(4 * 0.5)


async def test_three_hundred_ends_at_once_are_two_writes() -> None:
    world = World()
    states = await asyncio.gather(*(world.deny(lease(number)) for number in range(300)))
    assert set(states) == {Denied.DENY_WRITTEN}
    assert (len(world.iam.denied()), world.iam.most_writing) == (300, 1)
    assert world.iam.calls.count("put_role_policy") <= 2


async def test_three_hundred_ends_within_a_minute_are_as_many_writes_as_the_pace_allows() -> None:
    clock = FakeClock()
    world = World(clock=clock)
    ends = []
    for number in range(300):
        ends.append(asyncio.create_task(world.deny(lease(number))))
        await clock.run(0.2, step=0.2)
    await clock.run(2)
    assert {end.result() for end in ends} == {Denied.DENY_WRITTEN}
    assert world.iam.calls.count("put_role_policy") <= 60 / PACE + 1


async def test_one_roles_refusal_is_no_reason_to_stop_minting_elsewhere() -> None:
    world = World()
    world.iam.script["put_role_policy"] = [DENIED]
    refused = pytest.raises(ProviderError, match="IAM refused PutRolePolicy: AccessDenied")
    with capture_logs() as logs, refused as problem:
        await world.deny(lease(1))
    assert [(entry["log_level"], entry["role"]) for entry in logs] == [("error", ROLE)]
    assert problem.value.contact is Contact.ANSWERED
    with pytest.raises(MintRefused, match="may not write"):
        await world.list.reserve(BLOCK, world.ref(lease(2)))
    full = world.list.no_room(world.ref(lease(3)).params, "spiffe://test.local/b")
    assert full is not None
    assert full.why == UNWRITABLE
    world.clock.advance(601)
    await world.list.reserve(BLOCK, world.ref(lease(2)))  # somebody may have given the right since


async def test_a_list_that_somebody_deletes_is_missed_and_written_again() -> None:
    """A tool that keeps a role as it is declared removes what it does not know, and nobody hears of it."""
    world = World()
    ref = world.ref(lease(1), minutes=60)
    first = await world.end(ref)
    assert first.again is not None  # to see whether it is still there
    world.iam.policies.clear()
    world.clock.advance(first.again.total_seconds())
    second = await world.end(ref)
    assert second.state is Denied.DENY_WRITTEN
    assert second.at == world.clock.now()
    assert world.iam.stops(ref.lease_id, ref.intent_at)
    reads = world.iam.calls.count("get_role_policy")
    assert await world.end(ref) == second
    assert world.iam.calls.count("get_role_policy") == reads  # not at each question


async def test_what_cannot_be_read_again_is_told_as_it_was_last_seen() -> None:
    world = World()
    ref = world.ref(lease(1), minutes=60)
    first = await world.end(ref)
    world.clock.advance(LOOK_AGAIN)
    world.iam.script |= {"get_role": [GONE] * 9, "get_role_policy": [GONE] * 9}
    assert await world.end(ref) == first


async def test_in_the_last_minute_a_written_deny_is_told_as_it_was_last_seen() -> None:
    world = World()
    ref = world.ref(lease(1), minutes=11)
    first = await world.end(ref)
    world.clock.advance(LOOK_AGAIN + 1)
    assert await world.end(ref) == first


async def test_one_answer_with_a_wrong_date_takes_no_deny_away_and_cuts_nobody_off_who_comes_later() -> None:
    """AWS refuses callers whose clock is minutes off: a date that is hours ahead of ours is another endpoint's."""
    world = World()
    wrong = world.clock.now() + timedelta(hours=2)
    world.list = DenyList(
        iam=lambda _block: world.iam,
        settings=AwsSettings(installation="0123abcd4567", deny_share=1.0),
        epoch=lambda: 7,
        clock=world.clock,
        heard=lambda: wrong,
        open_leases=world._open,
    )
    world.iam.crowd(2)
    refs = [world.ref(lease(number), minutes=60) for number in range(3)]
    for ref in refs:
        await world.end(ref, block=CUTTING)
    world.clock.advance(60)
    fresh = world.ref(lease(9), minutes=60)
    await world.end(fresh, block=CUTTING)
    assert world.iam.stops(refs[0].lease_id, refs[0].intent_at)
    assert not world.iam.stops(lease(10), world.clock.now())


async def test_what_a_late_write_took_away_is_written_again_before_the_doubt_is_over() -> None:
    world = World(heard=True)
    first, second = world.ref(lease(1)), world.ref(lease(2))
    await world.end(first)
    (policy,) = world.iam.lists()
    older = world.iam.policies[policy]
    world.iam.script["put_role_policy"] = [LOST]
    with pytest.raises(ProviderError):
        await world.end(second)
    told = await world.end(second)
    assert told.state is Denied.DENY_UNSURE
    assert told.again is not None
    world.iam.policies[policy] = older  # sent before `second` was asked for, carried out now
    world.clock.advance(told.again.total_seconds())
    assert told.again <= timedelta(seconds=10)
    assert (await world.end(second)).state is Denied.DENY_UNSURE
    assert second.lease_id in world.iam.policies[policy]
