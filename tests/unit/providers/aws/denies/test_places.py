"""Places: who gets one before a mint, who does not, and when they are free again."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import StoreError
from broker.model import Revocability
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.ages import KEEP_AFTER, SKEW, Age, age
from broker.providers.aws.denies.book import Book, Lack, Place
from broker.providers.aws.denies.looking import ANOTHER_ACCOUNT, FAILED_PAUSE, ROLE_CHARACTERS, UNBOUNDED
from broker.providers.aws.denies.policy import entries_in
from broker.providers.aws.denies.role import Denied
from broker.providers.base import Contact, LeaseRef, MintRefused
from tests.fakes.clock import START
from tests.fakes.iam import AGENT, BLOCK, CUTTING, DENIED, GONE, FakeIam, World, lease

PLACES = entries_in(ROLE_CHARACTERS)
ANOTHER = "spiffe://test.local/b"


def crowded(entries: int) -> FakeIam:
    """A role whose other policies leave room for so many."""
    iam = FakeIam()
    iam.crowd(entries)
    return iam


async def reserve(world: World, *refs: LeaseRef) -> int:
    """How many got a place."""
    told = await asyncio.gather(*(world.list.reserve(BLOCK, ref) for ref in refs), return_exceptions=True)
    assert all(each is None or isinstance(each, MintRefused) for each in told)
    return told.count(None)


async def test_all_places_are_taken_before_a_mint_and_none_twice() -> None:
    world = World(deny_share=1.0)
    refs = [world.ref(lease(number)) for number in range(PLACES + 20)]
    assert await reserve(world, *refs) == PLACES
    assert await reserve(world, *refs[:PLACES]) == PLACES  # asking again takes nothing
    full = world.list.no_room(refs[0].params, AGENT)
    assert full is not None
    assert (full.why, full.after) == (Lack.FULL.value, timedelta(minutes=15))
    world.list.release(BLOCK, refs[0])
    assert world.list.no_room(refs[0].params, AGENT) is None
    assert await reserve(world, refs[-1]) == 1


async def test_what_holds_a_place_finds_room_at_its_end() -> None:
    world = World(crowded(10), deny_share=1.0)
    refs = [world.ref(lease(number)) for number in range(10)]
    assert await reserve(world, *refs) == 10
    stranger = world.ref(lease(99), minutes=60)
    assert (await world.end(stranger)).state is Denied.DENY_LIST_FULL  # though nothing is written yet
    results = await asyncio.gather(*(world.end(ref) for ref in refs))
    assert {result.state for result in results} == {Denied.DENY_WRITTEN}


async def test_an_agent_holds_its_share_at_most_and_one_at_least() -> None:
    world = World(crowded(10))
    assert await reserve(world, *(world.ref(lease(number)) for number in range(8))) == 5
    assert await reserve(world, *(world.ref(lease(number), agent=ANOTHER) for number in range(10, 18))) == 5
    over = world.list.no_room(world.ref(lease(1)).params, AGENT)
    assert over is not None
    assert over.why == Lack.FULL.value
    tiny = World(crowded(1), deny_share=0.01)
    assert await reserve(tiny, *(tiny.ref(lease(number)) for number in range(3))) == 1


async def test_over_its_share_is_told_with_its_own_earliest_end() -> None:
    world = World(crowded(4))
    await reserve(
        world, world.ref(lease(1), minutes=3, agent=ANOTHER), *(world.ref(lease(n), minutes=9) for n in (2, 3))
    )
    over = world.list.no_room(world.ref(lease(4)).params, AGENT)
    assert over is not None
    assert (over.why, over.after) == (Lack.SHARE.value, timedelta(minutes=9))
    assert world.list.no_room(world.ref(lease(4)).params, ANOTHER) is None


async def test_a_place_is_free_at_the_bound_and_an_entrys_a_little_later() -> None:
    world = World(crowded(2), deny_share=1.0)
    ended, running = world.ref(lease(1), minutes=5), world.ref(lease(2), minutes=5)
    assert await reserve(world, ended, running) == 2
    await world.end(ended)
    world.clock.advance(5 * 60 + 1)
    assert await reserve(world, world.ref(lease(3)), world.ref(lease(4))) == 1
    world.clock.advance(KEEP_AFTER.total_seconds())
    assert await reserve(world, world.ref(lease(4))) == 1


async def test_with_awss_own_time_an_entrys_place_is_free_sooner() -> None:
    world = World(crowded(1), heard=True)
    ref = world.ref(lease(1), minutes=5)
    await reserve(world, ref)
    await world.end(ref)
    world.clock.advance(5 * 60 + SKEW.total_seconds() + 1)
    assert await reserve(world, world.ref(lease(2))) == 1
    assert (await world.end(world.ref(lease(2)))).state is Denied.DENY_WRITTEN
    assert world.iam.denied() == [f"*:{lease(2)}"]


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1)])
def test_a_time_far_ahead_of_ours_is_not_believed(ahead: timedelta) -> None:
    now = age(START + ahead, START)
    assert not now.over(START + timedelta(minutes=5))
    assert age(START - ahead, START).at == START - ahead
    assert age(None, START).at == START


async def test_a_lease_that_waits_for_its_bound_takes_none() -> None:
    world = World(crowded(0))
    bound = BLOCK.model_copy(update={"revoke": "bound"})
    await world.list.reserve(bound, world.ref(lease(1)))
    await world.list.reserve(BLOCK, world.ref(lease(1), revocability=Revocability.EXPIRY_ONLY))
    assert world.iam.calls == []
    params = bound.model_dump(mode="json", exclude_none=True)
    assert world.list.no_room(params, AGENT) is None


async def test_a_scope_that_cuts_off_needs_none() -> None:
    world = World(crowded(1))
    await reserve(world, world.ref(lease(1)))
    await world.list.reserve(CUTTING, world.ref(lease(2)))
    assert world.list.no_room(CUTTING.model_dump(mode="json", exclude_none=True), AGENT) is None
    assert world.list.no_room(world.ref(lease(1)).params, AGENT) is not None


# --- the role ---


async def test_nothing_is_known_and_nothing_is_said_before_the_first_look() -> None:
    world = World(crowded(0))
    assert world.list.no_room(world.ref(lease(1)).params, AGENT) is None
    assert world.list.rooms() == {}
    assert await reserve(world, world.ref(lease(1))) == 0
    assert world.list.no_room(world.ref(lease(1)).params, AGENT) is not None
    (taken,) = world.list.rooms().values()
    assert (taken.taken, taken.places) == (0, 0)


@pytest.mark.parametrize(
    ("iam", "why"),
    [(FakeIam(bounded=False), UNBOUNDED), (FakeIam("arn:aws:iam::999999999999:role/teams/etl"), ANOTHER_ACCOUNT)],
)
async def test_a_role_that_cannot_be_relied_on_gets_no_lease(iam: FakeIam, why: str) -> None:
    world = World(iam)
    with pytest.raises(MintRefused, match=why):
        await world.list.reserve(BLOCK, world.ref(lease(1)))
    assert "put_role_policy" not in iam.calls


async def test_a_role_without_a_boundary_is_taken_when_that_is_accepted_and_its_leases_are_denied_in_any_case() -> None:
    accepted = World(FakeIam(bounded=False), accept_unbounded_roles=True)
    assert await reserve(accepted, accepted.ref(lease(1))) == 1
    strict = World(FakeIam(bounded=False))
    assert await strict.deny(lease(1)) is Denied.DENY_WRITTEN


@pytest.mark.parametrize("failure", [DENIED, GONE, Failure(code="NoSuchEntity", status=404)])
@pytest.mark.parametrize("operation", ["get_role", "list_role_policies"])
async def test_what_iam_does_not_say_is_against_the_lease(operation: str, failure: Failure) -> None:
    world = World()
    world.iam.script[operation] = [failure]
    with pytest.raises(MintRefused, match=failure.code):
        await world.list.reserve(BLOCK, world.ref(lease(1)))
    world.clock.advance(FAILED_PAUSE)
    await world.list.reserve(BLOCK, world.ref(lease(1)))


async def test_a_look_that_never_comes_back_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.providers.aws.denies.role.LOOK_LIMIT", 0.05)
    world = World()
    stuck = asyncio.Event()

    async def hang(**_: object) -> dict[str, object]:
        await stuck.wait()
        return {}

    monkeypatch.setattr(world.iam, "_get_role", hang)
    assert await reserve(world, *(world.ref(lease(number)) for number in range(3))) == 0
    assert world.iam.calls == ["get_role"]  # one look for all
    stuck.set()
    await world.list.close()


async def test_what_others_add_shrinks_the_list_at_the_next_look_and_what_fits_is_written() -> None:
    world = World(crowded(6), deny_share=1.0)
    refs = [world.ref(lease(number), minutes=20 + number) for number in range(6)]
    assert await reserve(world, *refs) == 6
    world.iam.policies["more"] = json.dumps({"Statement": "x" * 34}, separators=(",", ":"))  # 50: three entries
    world.clock.advance(601)
    results = await asyncio.gather(*(world.end(ref) for ref in refs))
    assert [result.state for result in results] == [Denied.DENY_LIST_FULL] * 3 + [Denied.DENY_WRITTEN] * 3
    assert all(result.again for result in results[:3])
    assert await reserve(world, world.ref(lease(9))) == 0


async def test_a_full_book_is_looked_at_again_when_it_is_old() -> None:
    world = World(crowded(0))
    assert await reserve(world, world.ref(lease(1))) == 0
    del world.iam.policies["permissions"]
    assert await reserve(world, world.ref(lease(1))) == 0
    world.clock.advance(601)
    assert world.list.no_room(world.ref(lease(1)).params, AGENT) is None  # the mint looks
    assert await reserve(world, world.ref(lease(1))) == 1


# --- what was alive before ---


async def test_leases_of_earlier_epochs_hold_their_places() -> None:
    world = World(crowded(5), deny_share=1.0)
    now = world.clock.now()
    other_role = {**world.ref(lease(0)).params, "role_arn": "arn:aws:iam::123456789012:role/other"}
    world.open = [
        *(world.ref(lease(number), epoch=6) for number in range(3)),
        world.ref(lease(10), epoch=6, params=other_role),
        world.ref(lease(11), epoch=6, params={**world.ref(lease(0)).params, "revoke": "bound"}),
        world.ref(lease(12), epoch=6, revocability=Revocability.EXPIRY_ONLY),
        world.ref(lease(13), epoch=6, params={"role_arn": 1}),
        world.ref(lease(14), epoch=6, expires_at=now - timedelta(seconds=1)),
        *(world.ref(lease(number)) for number in range(20, 30)),  # of this epoch: they come themselves
    ]
    assert await reserve(world, *world.open[-10:]) == 2
    assert await reserve(world, *world.open[:3]) == 3


@pytest.mark.parametrize("error", [StoreError("the disk is full"), ValueError("a row that cannot be read")])
async def test_while_the_store_does_not_say_who_lives_nobody_gets_a_place_and_ends_go_on(error: Exception) -> None:
    world, said = World(), [error, error]

    async def broken() -> list[LeaseRef]:
        if said:
            raise said.pop()
        return []

    world.list._open_leases = broken
    with pytest.raises(MintRefused, match="the store did not say"):
        await world.list.reserve(BLOCK, world.ref(lease(1)))
    assert await world.deny(lease(2)) is Denied.DENY_WRITTEN
    await world.list.reserve(BLOCK, world.ref(lease(1)))  # nothing of it stays


# --- for any order of things ---

SOME = st.lists(st.integers(0, 40), min_size=1, max_size=8, unique=True)


class Players:
    """Three agents that mint and end at a crowded role."""

    def __init__(self, room: int, share: float) -> None:
        self.world = World(crowded(room), deny_share=share)
        self.running: dict[int, LeaseRef] = {}

    async def mint(self, number: int) -> None:
        ref = self.world.ref(lease(number), minutes=4, agent=f"spiffe://test.local/{number % 3}")
        try:
            await self.world.list.reserve(BLOCK, ref)
        except MintRefused:
            return
        self.running.setdefault(number, ref)

    async def end(self, number: int) -> None:
        if (ref := self.running.get(number)) is None:
            return
        left = ref.expires_at - self.world.clock.now()
        state = (await self.world.end(ref)).state
        assert state is Denied.DENY_WRITTEN or (state is Denied.WAITING_FOR_BOUND and left < timedelta(seconds=62))

    async def refused(self, number: int) -> None:
        """Nothing was minted after all."""
        if f"*:{lease(number)}" not in str(self.world.iam.policies) and number in self.running:
            self.world.list.release(BLOCK, self.running.pop(number))

    async def wait(self, number: int) -> None:
        self.world.clock.advance(number * 8)


@settings(max_examples=80, deadline=None)
@given(
    room=st.integers(0, 12),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    moves=st.lists(st.tuples(st.sampled_from(["mint", "mint", "end", "refused", "wait"]), SOME), max_size=14),
)
def test_no_order_of_mints_and_ends_takes_more_places_than_there_are(
    room: int, share: float, moves: list[tuple[str, list[int]]]
) -> None:
    async def play() -> None:
        players = Players(room, share)
        for move, numbers in moves:
            await asyncio.gather(*(getattr(players, move)(number) for number in numbers))
            assert all(taken.taken <= taken.places == room for taken in players.world.list.rooms().values())

    asyncio.run(play())


def test_a_book_counts_by_agent() -> None:
    book = Book(0.5)
    for number in range(3):
        book.hold(lease(number), Place(agent=AGENT, bound=START + timedelta(minutes=number + 1)))
    assert book.lack(AGENT, 10) is None
    assert book.lack(AGENT, 6) is Lack.SHARE
    assert book.lack(ANOTHER, 6) is None
    assert book.lack(ANOTHER, 3) is Lack.FULL
    now = Age(at=START, slack=KEEP_AFTER)
    assert book.free_in(now) == timedelta(minutes=1)
    assert book.free_in(now, ANOTHER) == timedelta(seconds=1)
    book.denied(lease(0))
    assert book.free_in(now) == timedelta(minutes=2)


async def test_a_look_that_failed_is_one_answer_however_many_mints_waited_for_it_and_is_not_repeated_at_once() -> None:
    world = World()
    world.iam.script["get_role"] = [Failure(code="ServiceFailure", status=500)] * 9
    refs = [world.ref(lease(number)) for number in range(20)]
    told = await asyncio.gather(*(world.list.reserve(BLOCK, ref) for ref in refs), return_exceptions=True)
    assert all(isinstance(each, MintRefused) for each in told)
    assert [each.contact for each in told if isinstance(each, MintRefused)].count(Contact.FAILED) == 1
    for ref in refs:  # IAM is in trouble: not each mint asks it
        with pytest.raises(MintRefused):
            await world.list.reserve(BLOCK, ref)
    assert world.iam.calls.count("get_role") == 1
    world.clock.advance(FAILED_PAUSE)
    world.iam.script.clear()
    assert await reserve(world, refs[0]) == 1
