"""Several epochs' writers on one role: nothing that was reported denied comes back to life, whatever gets lost or late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.providers.aws.calls import Failure
from broker.providers.aws.denies import lists, looking, writer
from broker.providers.aws.denies.ages import Age
from broker.providers.aws.denies.iam import Problem
from broker.providers.aws.denies.looking import ROLE_CHARACTERS, Looking, Names
from broker.providers.aws.denies.policy import Held, deny_policy, entries_in
from broker.providers.aws.denies.role import Denied
from broker.providers.aws.denies.writer import Writer
from broker.providers.base import LeaseRef, ProviderError
from tests.fakes.iam import BLOCK, CUTTING, DENIED, GONE, LOST, SLOW, FakeIam, WakingClock, World, lease

# --- one thing at a time ---


async def test_a_new_epoch_copies_nothing_and_leaves_the_older_list_until_its_last_bound() -> None:
    old = World()
    await old.deny(lease(1), minutes=10)
    new = World(old.iam, epoch=8)
    await new.deny(lease(2))
    assert (old.iam.denied(8), old.iam.denied(7)) == ([f"*:{lease(2)}"], [f"*:{lease(1)}"])
    new.clock.advance(10 * 60)
    await new.deny(lease(3))
    assert old.iam.lists(7)
    new.clock.advance(6 * 60)
    await new.deny(lease(4))
    assert (old.iam.lists(7), len(old.iam.lists(8))) == ([], 1)


async def test_a_full_list_of_a_predecessor_is_deleted_without_a_write() -> None:
    old = World()
    await asyncio.gather(*(old.deny(lease(number), minutes=10) for number in range(480)))
    new = World(old.iam, epoch=8)
    await new.list.close()
    with pytest.raises(Exception, match="no room"):
        await new.list.reserve(BLOCK, new.ref(lease(500)))
    new.clock.advance(15 * 60 + 1)
    await new.list.reserve(BLOCK, new.ref(lease(500)))
    assert new.iam.policies == {}


async def test_a_paused_older_writer_cannot_undo_a_newer_ones_denies() -> None:
    old = World()
    await old.deny(lease(1))
    new = World(old.iam, epoch=8)
    await new.deny(lease(2))
    await old.deny(lease(3))
    assert old.iam.denied(8) == [f"*:{lease(2)}"]


async def test_nor_one_that_counts_the_same_epochs_in_a_copy_of_the_database() -> None:
    one = World()
    other = World(one.iam)
    await one.deny(lease(1))
    await other.deny(lease(2))
    await one.deny(lease(3))
    assert len(one.iam.lists()) == 2
    issued = one.clock.now()
    assert all(one.iam.stops(lease(number), issued) for number in (1, 2, 3))


async def test_a_process_that_took_a_new_epoch_writes_its_own_list() -> None:
    world = World()
    await world.deny(lease(1))
    world.epoch = 8
    await world.deny(lease(2))
    assert (world.iam.denied(7), world.iam.denied(8)) == ([f"*:{lease(1)}"], [f"*:{lease(2)}"])


async def test_of_an_epoch_that_is_over_nothing_is_kept_in_memory() -> None:
    world = World()
    for epoch in range(8, 40):
        world.epoch = epoch
        await world.deny(lease(epoch))
    assert len(world.list._roles) == 1


async def test_what_a_predecessor_wrote_is_claimed_after_a_second_look_and_not_written_again() -> None:
    old = World()
    ref = old.ref(lease(1))
    await old.end(ref)
    new = World(old.iam, epoch=8, clock=old.clock)
    first = await new.end(ref)
    assert (first.state, first.at) == (Denied.DENY_UNSURE, None)
    assert first.again is not None
    new.clock.advance(first.again.total_seconds())
    found = await new.end(ref)
    assert (found.state, [found.policy]) == (Denied.DENY_WRITTEN, old.iam.lists(7))
    assert old.iam.calls.count("put_role_policy") == 1


async def test_what_vanished_from_a_predecessors_list_is_written_to_our_own() -> None:
    old = World()
    refs = [old.ref(lease(1)), old.ref(lease(2))]
    await old.end(refs[0])
    (name,) = old.iam.lists(7)
    earlier = old.iam.policies[name]
    await old.end(refs[1])
    new = World(old.iam, epoch=8, clock=old.clock)
    assert {(await new.end(ref)).state for ref in refs} == {Denied.DENY_UNSURE}
    old.iam.policies[name] = earlier  # a write of the predecessor's that was on its way
    new.clock.advance(61)
    assert [(await new.end(ref)).state for ref in refs] == [Denied.DENY_WRITTEN] * 2
    assert old.iam.denied(8) == [f"*:{lease(2)}"]


async def test_policies_of_others_are_never_deleted() -> None:
    iam = FakeIam()
    for name in ("permissions", "stepcred-deny-ffffffff-1", "stepcred-deny-0123abcd-9", "stepcred-deny-0123abcd-x"):
        iam.policies[name] = deny_policy({lease(9): datetime(2020, 1, 1, tzinfo=UTC)})
    for name in (
        "stepcred-deny-0123abcd-7",
        "stepcred-deny-0123abcd-5-x",
        "stepcred-cutoff-0123abcd",
    ):  # no end is known
        iam.policies[name] = '{"Version":"2012-10-17","Statement":[{"Sid":"recovered"}]}'
    world = World(iam)
    await world.deny(lease(1))
    world.clock.advance(3600)
    await world.deny(lease(2))
    assert "delete_role_policy" not in iam.calls


async def test_what_recover_wrote_counts_and_is_deleted_when_its_time_is_over() -> None:
    world = World()
    text = (
        '{"Version":"2012-10-17","Statement":[{"Sid":"cut%d","Effect":"Deny","Action":"*","Resource":"*",'
        '"Condition":{"DateLessThan":{"aws:TokenIssueTime":"2026-11-22T11:00:00Z"}}}]}'
    )
    until = world.clock.now() + timedelta(minutes=30)
    world.iam.policies["stepcred-cutoff-0123abcd"] = text % until.timestamp()
    await world.deny(lease(1))
    (taken,) = world.list.rooms().values()
    assert taken.places == entries_in(ROLE_CHARACTERS - len(text % until.timestamp()))
    world.clock.advance(36 * 60)
    await world.deny(lease(2))
    assert "stepcred-cutoff-0123abcd" not in world.iam.policies


async def test_an_old_list_that_cannot_be_deleted_stops_no_deny() -> None:
    old = World()
    await old.deny(lease(1), minutes=10)
    new = World(old.iam, epoch=8)
    new.iam.script["delete_role_policy"] = [DENIED]
    new.clock.advance(20 * 60)
    assert await new.deny(lease(2)) is Denied.DENY_WRITTEN
    assert old.iam.lists(7)
    new.clock.advance(61)
    await new.deny(lease(3))
    assert not old.iam.lists(7)


# --- anything, in any order ---


class Fate(Enum):
    """Of one write."""

    FINE = "fine"
    LOST = "lost"  # the answer
    GONE = "gone"  # the request
    LATE = "late"  # it lands within a minute, and nobody hears of it
    SLOW = "slow"
    BROKEN = "broken"  # a 500, and nothing was done


class Line:
    """One process's way to IAM. Pausing the process holds every call before it is sent."""

    def __init__(self, iam: FakeIam, clock: WakingClock) -> None:
        self.iam = iam
        self.clock = clock
        self.fates: list[Fate] = []
        self.going = asyncio.Event()
        self.going.set()
        self.late: list[tuple[float, Any]] = []

    async def __call__(self, operation: str, **parameters: Any) -> Mapping[str, Any] | Failure:
        await asyncio.sleep(0)
        await self.going.wait()
        if operation != "put_role_policy" or not self.fates:
            return await self.iam(operation, **parameters)
        fate = self.fates.pop(0)
        if fate is Fate.LATE:
            self.late.append((self.clock.monotonic() + 55, parameters))
            return LOST
        if fate in (Fate.FINE, Fate.LOST):
            answer = await self.iam(operation, **parameters)
            return LOST if fate is Fate.LOST else answer
        return {Fate.GONE: GONE, Fate.SLOW: SLOW, Fate.BROKEN: Failure(code="ServiceFailure", status=500)}[fate]

    async def land(self) -> None:
        due = [parameters for at, parameters in self.late if at <= self.clock.monotonic()]
        self.late = [(at, parameters) for at, parameters in self.late if at > self.clock.monotonic()]
        for parameters in due:
            await self.iam("put_role_policy", **parameters)


async def all_of(tasks: list[asyncio.Task[None]]) -> None:
    """Raises what the first of them raised."""
    for told in await asyncio.gather(*tasks, return_exceptions=True):
        if told is not None:
            raise told


@dataclass
class Story:
    """Two epochs' brokers at one role that has room for a few, and everything that was ever claimed."""

    clock: WakingClock = field(default_factory=WakingClock)
    iam: FakeIam = field(default_factory=FakeIam)
    refs: dict[int, LeaseRef] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    claims: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)  # lease id → issued, bound
    pending: list[asyncio.Task[None]] = field(default_factory=list)
    began: bool = False  # the newer epoch

    def __post_init__(self) -> None:
        self.iam.crowd(9)
        self.lines = [Line(self.iam, self.clock) for _ in range(2)]
        self.worlds = [
            World(self.iam, line=line, epoch=epoch, clock=self.clock, heard=True)
            for line, epoch in zip(self.lines, (7, 8), strict=True)
        ]

    def ref(self, number: int) -> LeaseRef:
        if number not in self.refs:
            self.refs[number] = self.worlds[0].ref(lease(number), minutes=3 + number)
        return self.refs[number]

    async def end(self, process: int, number: int) -> None:
        ref, world = self.ref(number), self.worlds[process]
        block = CUTTING if number % 2 else BLOCK
        try:
            state = (await world.end(ref, block=block)).state
        except ProviderError:
            return
        if state in (Denied.DENY_WRITTEN, Denied.ROLE_CUT_OFF) and (process == 1 or not self.began):
            self.claims[ref.lease_id] = (datetime.fromisoformat(str(ref.refs["issued_at"])), ref.expires_at)
            self.check()

    async def ask(self, process: int, numbers: list[int], fates: list[Fate]) -> None:
        """End these. The newer epoch's engine also asks for every end that is not over."""
        if process == 1:
            self.began = True
            numbers = sorted({*numbers, *self.ended})
        self.ended |= set(numbers)
        for world in self.worlds:
            world.open = [self.ref(number) for number in self.refs]
        self.lines[process].fates = [*fates]
        tasks = [asyncio.create_task(self.end(process, number)) for number in numbers]
        if not self.lines[process].going.is_set():
            self.pending += tasks
            await self._settle()
            return
        await all_of(tasks)

    async def pass_time(self, seconds: int) -> None:
        for _ in range(0, seconds, 20):
            self.clock.advance(20)
            for line in self.lines:  # also a paused process's: they are on their way
                await line.land()
            await self._settle()
            self.check()

    async def pause(self) -> None:
        self.lines[0].going.clear()

    async def resume(self) -> None:
        self.lines[0].going.set()
        await self._settle()
        self.check()

    def check(self) -> None:
        now = self.clock.now()
        for name, (issued, bound) in self.claims.items():
            assert now > bound or self.iam.stops(name, issued), f"{name} was reported denied and is alive"

    async def finish(self) -> None:
        self.lines[0].going.set()
        await all_of(self.pending)
        for world in self.worlds:
            await world.list.close()
        self.check()

    async def _settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)


FATES = st.lists(st.sampled_from([*Fate, Fate.FINE, Fate.LATE, Fate.LOST]), max_size=3)
NUMBERS = st.one_of(
    st.lists(st.integers(0, 14), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(0, 14), min_size=8, max_size=12, unique=True),
)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.just(0), NUMBERS, FATES),
        st.tuples(st.just("ask"), st.just(1), NUMBERS, FATES),
        st.tuples(st.just("pass_time"), st.sampled_from([20, 40, 60, 80, 240])),
        st.tuples(st.just("pause")),
        st.tuples(st.just("resume")),
    ),
    min_size=2,
    max_size=12,
)


async def play(moves: list[tuple[Any, ...]]) -> None:
    story = Story()
    for move, *arguments in moves:
        await getattr(story, move)(*arguments)
    await story.finish()


@settings(max_examples=200, deadline=None)
@given(moves=MOVES)
def test_what_was_reported_denied_stays_denied_until_its_bound(moves: list[tuple[Any, ...]]) -> None:
    asyncio.run(play(moves))


# --- and each rule is needed ---


def _deletes_older_lists(patch: pytest.MonkeyPatch) -> None:
    """As one must that copies: two lists of the same entries fit once only."""

    async def sweep(self: Looking, now: Age) -> None:
        for name in self._older:
            await self._iam("delete_role_policy", RoleName=self._role, PolicyName=name)
        self._older, self._ours = {}, {}

    patch.setattr(Looking, "_sweep", sweep)


def _one_name_for_all_epochs(patch: pytest.MonkeyPatch) -> None:
    def names(installation: str, epoch: int, name: str) -> Names:
        return looking.names_of(installation, 1, "x")

    patch.setattr(lists, "names_of", names)


def _no_reading_back(patch: pytest.MonkeyPatch) -> None:
    async def believe(self: Writer) -> Problem | None:
        self._held = Held(names=frozenset(self._contents._sent), cut=self._contents.cut)
        self._unread, self._doubt_until = False, None
        self._claim()
        return None

    patch.setattr(Writer, "_read_back", believe)


def _claims_in_doubt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer, "LATE_WRITE_SECONDS", 0.0)


def _claims_what_is_found_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(looking, "LATE_WRITE_SECONDS", 0.0)


def _forgets_what_it_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "broker.providers.aws.denies.contents.Contents.went", lambda self, draft: setattr(self, "cut", draft.cut)
    )


def _covers_the_young(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("broker.providers.aws.denies.policy.ISSUED_WITHIN", timedelta(days=-1))


ALL = list(range(11))


@pytest.mark.parametrize(
    ("mutant", "moves"),
    [
        (_deletes_older_lists, [("ask", 0, [0], []), ("ask", 1, [0], [])]),
        (_one_name_for_all_epochs, [("ask", 1, [1], []), ("ask", 0, [0], [])]),
        (_no_reading_back, [("ask", 0, [0], [Fate.GONE])]),
        (_claims_in_doubt, [("ask", 0, [0], [Fate.LATE]), ("ask", 0, [1], []), ("pass_time", 60)]),
        (
            _claims_what_is_found_at_once,
            [("ask", 0, [0], [Fate.LATE]), ("ask", 0, [1], []), ("ask", 1, [1], []), ("pass_time", 60)],
        ),
        (
            _forgets_what_it_sent,
            [
                *(("ask", 1, [0, 1], []), ("ask", 0, [0, 1, 2], []), ("ask", 0, [0], [])),
                *(("pass_time", 240), ("ask", 1, [0], [])),
            ],
        ),
        (_covers_the_young, [("ask", 0, ALL, []), ("ask", 0, [0], [])]),
    ],
    ids=lambda given: given.__name__.strip("_") if callable(given) else "",
)
def test_without_it_something_comes_back_to_life(
    mutant: Callable[[pytest.MonkeyPatch], None], moves: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(play(moves))
    mutant(monkeypatch)
    with pytest.raises(AssertionError, match="is alive"):
        asyncio.run(play(moves))


async def test_a_predecessors_list_that_somebody_deletes_is_missed() -> None:
    old = World()
    ref = old.ref(lease(1), minutes=60)
    await old.end(ref)
    new = World(old.iam, epoch=8, clock=old.clock)
    await new.end(ref)
    new.clock.advance(61)
    told = await new.end(ref)
    assert (told.state, told.again) == (Denied.DENY_WRITTEN, timedelta(seconds=looking.LOOK_AGAIN))
    new.iam.policies.clear()
    new.clock.advance(looking.LOOK_AGAIN)
    assert (await new.end(ref)).state is Denied.DENY_WRITTEN
    assert new.iam.stops(ref.lease_id, ref.intent_at)


@pytest.mark.parametrize("first", ["deny", "reserve"])
async def test_what_a_predecessors_list_denies_takes_no_second_place(first: str) -> None:
    """After a restart those that wait for their bound are asked about first."""
    old = World()
    refs = [old.ref(lease(number)) for number in range(200)]
    await asyncio.gather(*(old.end(ref) for ref in refs))
    new = World(old.iam, epoch=8, clock=old.clock, deny_share=1.0)
    new.open = [*refs, new.ref(lease(500), epoch=7)]
    if first == "deny":
        await new.end(refs[0])
    else:
        await new.list.reserve(BLOCK, new.ref(lease(501)))
        new.list.release(BLOCK, new.ref(lease(501)))
    (room,) = new.list.rooms().values()
    assert room.taken == 1  # of the one that is alive
