"""What ends cost, in counts that no machine changes, and who must not pay for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.config import Timings
from broker.leases import bulkhead, lane, reaper, steps
from broker.leases.bulkhead import Bulkhead, Turnstile
from broker.leases.outcomes import outcome_of
from broker.leases.selection import Selection
from broker.model import EndReason, Evidence, LeaseState, Tier
from broker.providers.base import LeaseRef, Progress
from tests.fakes.clock import FakeClock
from tests.fakes.domain import lease as a_lease
from tests.fakes.memory_store import MemoryStore
from tests.fakes.provider import FakeProvider
from tests.fakes.world import ANN, World, agent, new_id


@asynccontextmanager
async def still(folder: Path, **timings: Any) -> AsyncIterator[World]:
    """A broker in which nothing runs by itself: neither lane nor reaper look around."""
    made = World(folder, MemoryStore(), clock=FakeClock(), timings=Timings(**timings))
    made.build()
    await made.engine.take_up()
    await made.policies.load_initial(made.store, made.clock)
    yield made
    await made.engine.stop()


async def pass_time(broker: World, seconds: int) -> None:
    """With nothing going on but the epoch's renewal."""
    for _ in range(seconds // 10):
        broker.fake_clock.advance(10)
        await broker.engine.renew()


@pytest.fixture
async def quiet(tmp_path: Path) -> AsyncIterator[World]:
    async with still(tmp_path) as made:
        yield made


class Costs:
    """Operations on the store, and calls to the provider, from now on."""

    def __init__(self, broker: World, patch: pytest.MonkeyPatch) -> None:
        self._broker = broker
        self._seen = len(broker.provider.seen)
        self._counts: Counter[str] = Counter()
        for name in ("read", "write"):
            patch.setattr(broker.store, name, self._counted(name, getattr(broker.store, name)))

    def _counted(self, name: str, original: Any) -> Any:
        async def counted(operation: Any, **how: Any) -> Any:
            self._counts[name] += 1
            return await original(operation, **how)

        return counted

    @property
    def so_far(self) -> tuple[int, int, list[str]]:
        """Writes, reads, calls."""
        return self._counts["write"], self._counts["read"], self._broker.provider.seen[self._seen :]


@pytest.mark.parametrize("leases", [1, 3])
async def test_a_step_ends_with_one_write_and_one_for_each_proof(
    quiet: World, monkeypatch: pytest.MonkeyPatch, leases: int
) -> None:
    opened = await quiet.begin()
    for _ in range(leases):
        await quiet.issue(opened.handle)
    costs = Costs(quiet, monkeypatch)
    ended = await quiet.end(opened.handle)
    assert ended.all_proven
    assert costs.so_far == (1 + leases, 0, ["revoke"] * leases)


async def test_one_lease_ends_with_two_writes(quiet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await quiet.begin()
    lease = (await quiet.issue(opened.handle)).lease
    costs = Costs(quiet, monkeypatch)
    outcome = await quiet.engine.revoke_lease(
        agent(), request_id=new_id(), handle=opened.handle, lease_id=lease.id, wait_seconds=5
    )
    assert outcome.evidence is Evidence.SEEN_DEAD
    assert costs.so_far == (2, 1, ["revoke"])


async def test_an_end_that_was_written_wakes_nobody_who_looks_for_work(quiet: World) -> None:
    opened = await quiet.begin()
    lease = (await quiet.issue(opened.handle)).lease
    quiet.core.lane.clear()
    await quiet.engine.heartbeat(agent(), opened.handle, [lease.id])
    assert (await quiet.end(opened.handle)).all_proven
    assert not quiet.core.lane.is_set()


async def test_a_heartbeat_that_retires_a_lease_wakes_the_lane(quiet: World) -> None:
    opened = await quiet.begin()
    older = (await quiet.issue(opened.handle)).lease
    await pass_time(quiet, 500)
    newer = (await quiet.issue(opened.handle, replaces=older.id)).lease
    quiet.core.lane.clear()
    await quiet.engine.heartbeat(agent(), opened.handle, [older.id, newer.id])
    assert quiet.core.lane.is_set()


async def test_what_is_told_to_who_waits_is_what_the_store_holds(quiet: World) -> None:
    """Also of a doubt, which was asked to end after the lane had read it."""
    opened = await quiet.begin()
    plain = (await quiet.issue(opened.handle)).lease
    quiet.provider.fail = "lose-answer"
    with pytest.raises(Exception, match="mint"):
        await quiet.issue(opened.handle)
    (doubt,) = await quiet.leases(LeaseState.IN_DOUBT)
    settle, asked, go_on = quiet.provider.settle, asyncio.Event(), asyncio.Event()

    async def slow(ref: LeaseRef, *, final: bool) -> Any:
        if final:
            asked.set()
            await go_on.wait()
        return await settle(ref, final=final)

    quiet.provider.settle = slow  # type: ignore[method-assign]
    while not asked.is_set():
        await quiet.engine._lane.step()
        await asyncio.sleep(0.001)
        await pass_time(quiet, 20)
    waiting = asyncio.create_task(quiet.end(opened.handle, wait=60))
    await quiet.until(lambda: _has(quiet, LeaseState.REVOKED))
    go_on.set()
    ended = await waiting
    assert list(ended.outcomes) == [outcome_of(await quiet.lease(one)) for one in (plain.id, doubt.id)]
    assert ended.all_proven


async def test_asking_again_for_an_end_asks_the_provider_no_oftener(quiet: World) -> None:
    opened = await quiet.begin()
    await quiet.issue(opened.handle)
    quiet.provider.revoke_fails = True
    for _ in range(5):
        await quiet.end(opened.handle, wait=0)
        await asyncio.sleep(0.001)
    assert quiet.provider.seen.count("revoke") == 1


class Gated(FakeProvider):
    """Ends as many as it is told to."""

    gate: asyncio.Semaphore

    async def revoke(self, ref: LeaseRef) -> Progress:
        self.seen.append(ref.lease_id)
        await self.gate.acquire()
        return await super().revoke(ref)

    @property
    def asked(self) -> list[str]:
        """Leases, in the order in which it was asked to end them."""
        return [one for one in self.seen if one not in ("mint", "revoke", "settle")]


def gated(broker: World) -> Gated:
    provider = Gated(broker.backend)
    provider.gate = asyncio.Semaphore(0)
    broker.core.providers["fake"] = provider  # type: ignore[index]  # the world's own dict
    return provider


async def test_who_has_just_ended_overtakes_nobody_who_waits(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "PAGE", 2)  # so many are known in memory; the others wait in the store
    provider, ids, handles = gated(broker), [], []
    for number in range(8):
        opened = await broker.begin(run=f"r{number}")
        ids.append((await broker.issue(opened.handle)).lease.id)
        handles.append(opened.handle)
    for handle in handles[:5]:
        await broker.end(handle, wait=0)
        broker.fake_clock.advance(0.1)
    for handle in handles[5:]:
        provider.gate.release()  # places become free just as others end
        await broker.end(handle, wait=0)
        broker.fake_clock.advance(0.1)
    for _ in ids:
        provider.gate.release()
    await broker.until(broker.nothing_alive)
    assert provider.asked == ids


async def test_a_crowd_of_ends_leaves_room_for_mints(quiet: World) -> None:
    provider = gated(quiet)
    for number in range(12):
        opened = await quiet.begin(run=f"r{number}")
        for _ in range(4):
            await quiet.issue(opened.handle)
    many = frozenset(lease.id for lease in await quiet.leases(LeaseState.ACTIVE))
    other = await quiet.begin(run="other")
    provider.before_landing.clear()
    mint = asyncio.create_task(quiet.issue(other.handle))
    await quiet.until(lambda: _has(quiet, LeaseState.INTENT))
    await quiet.engine.orders.revoke(Selection(leases=many), ANN)
    await quiet.engine._lane.step()
    await asyncio.sleep(0.001)
    assert len(provider.asked) == lane.BULKHEAD // lane.SHARE
    provider.before_landing.set()
    await mint
    provider.gate.release()
    await quiet.until(lambda: _asked(provider, lane.BULKHEAD // lane.SHARE + 1))
    await asyncio.sleep(0.001)
    assert len(provider.asked) == lane.BULKHEAD // lane.SHARE + 1, "somebody minted a moment ago"
    quiet.fake_clock.advance(lane.CALM)
    await quiet.engine._lane.step()  # none of those under way has to end first
    await quiet.until(lambda: _asked(provider, lane.BULKHEAD + 1))
    assert len(provider.asked) == lane.BULKHEAD + 1


async def test_the_next_page_is_looked_for_before_places_are_free(quiet: World) -> None:
    provider = gated(quiet)
    for number in range(10):
        opened = await quiet.begin(run=f"r{number}")
        for _ in range(4):
            await quiet.issue(opened.handle)
        await quiet.end(opened.handle, wait=0)
    await quiet.engine._lane.step()
    await quiet.until(lambda: _asked(provider, lane.BULKHEAD))
    quiet.core.lane.clear()
    for number in range(lane.PAGE - lane.BULKHEAD):
        assert not quiet.core.lane.is_set(), f"when {number} had ended"
        provider.gate.release()
        await quiet.until(lambda: _asked(provider, lane.BULKHEAD + number + 1))  # noqa: B023 - awaited at once
    assert quiet.core.lane.is_set()


async def test_who_stops_starts_nothing_more(quiet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = gated(quiet)
    for number in range(5):
        opened = await quiet.begin(run=f"r{number}")
        for _ in range(4):
            await quiet.issue(opened.handle)
        await quiet.end(opened.handle, wait=0)
    await quiet.until(lambda: _asked(provider, lane.BULKHEAD))
    costs = Costs(quiet, monkeypatch)
    await quiet.engine._lane.cancel()
    await asyncio.sleep(0.001)
    assert costs.so_far[:2] == (0, 0)
    assert len(provider.asked) == lane.BULKHEAD


async def test_what_began_and_ended_during_a_look_is_not_begun_again(
    quiet: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, opened = gated(quiet), await quiet.begin()
    lease = (await quiet.issue(opened.handle)).lease
    read = quiet.store.read

    async def meanwhile(operation: Any, **how: Any) -> Any:
        await quiet.end(opened.handle, wait=0)
        rows = await read(operation, **how)
        assert [row.id for row in rows] == [lease.id]
        monkeypatch.setattr(quiet.store, "read", read)
        provider.gate.release()
        await quiet.until(lambda: _has(quiet, LeaseState.REVOKED))
        await asyncio.sleep(0.001)
        return rows

    monkeypatch.setattr(quiet.store, "read", meanwhile)
    await quiet.engine._lane.step()
    await asyncio.sleep(0.001)
    assert provider.asked == [lease.id]


async def test_what_is_claimed_at_the_last_moment_lives_on(quiet: World) -> None:
    opened = await quiet.begin()
    lease = (await quiet.issue(opened.handle)).lease
    await quiet.engine.heartbeat(agent(), opened.handle, [lease.id])
    await quiet.engine._reaper._end_unclaimed([lease.id])
    assert (await quiet.lease(lease.id)).state is LeaseState.ACTIVE


async def test_a_few_ends_wait_for_no_mint(quiet: World) -> None:
    provider = gated(quiet)
    handles = [(await quiet.begin(run=f"r{number}")).handle for number in range(5)]
    for handle in handles:
        for _ in range(4):
            await quiet.issue(handle)
    other = await quiet.begin(run="other")
    provider.before_landing.clear()
    mint = asyncio.create_task(quiet.issue(other.handle))
    await quiet.until(lambda: _has(quiet, LeaseState.INTENT))
    for handle in handles:
        await quiet.end(handle, wait=0)
    await quiet.until(lambda: _asked(provider, lane.BULKHEAD))
    provider.before_landing.set()
    await mint


async def _has(broker: World, state: LeaseState) -> bool:
    return bool(await broker.leases(state))


async def _asked(provider: Gated, times: int) -> bool:
    return len(provider.asked) >= times


def test_high_ones_are_next() -> None:
    waiting = Bulkhead(2)
    for name, tier in (("a", Tier.LOW), ("b", Tier.ELEVATED), ("c", Tier.HIGH), ("d", Tier.LOW)):
        waiting.put(a_lease(name, tier=tier))
    assert waiting.held == 4
    started = [waiting.next(2), waiting.next(2)]
    assert [one and one.id for one in started] == ["c", "a"]
    assert waiting.next(2) is None
    waiting.leave()
    assert waiting.next(1) is None, "one place, and it is taken"
    assert waiting.held == 3


# --- the writer is everybody's ---


async def test_as_many_are_let_in_as_fit_by_what_the_last_ones_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "PAUSE", 60)
    turns = Turnstile(32)
    inside = list[int]()  # of each wave, all of it written together

    async def waves(count: int, *, leases: int) -> None:
        waiting = {asyncio.create_task(turns.enter()) for _ in range(count)}
        while waiting:
            await asyncio.sleep(0)
            done = {task for task in waiting if task.done()}
            waiting -= done
            inside.append(len(done))
            for _ in done:
                turns.leave(leases)

    await waves(60, leases=1)
    assert inside == [2, 4, 8, 16, 30], "what they are is not known at first"
    inside.clear()
    await waves(64, leases=1)
    assert inside == [32, 32]
    inside.clear()
    await waves(35, leases=25)
    assert inside == [32, 1, 1, 1]
    inside.clear()
    await waves(8, leases=1)
    assert inside == [1, 2, 5], "a heavy one fades"


async def test_after_a_pause_few_are_let_in_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkhead, "PAUSE", 0)
    turns = Turnstile(32)
    for _ in range(40):
        await turns.enter()
        turns.leave(1)
    await asyncio.sleep(0.001)
    waiting = [asyncio.create_task(turns.enter()) for _ in range(8)]
    await asyncio.sleep(0)
    assert sum(task.done() for task in waiting) == bulkhead.FIRST
    for task in waiting:
        task.cancel()


async def test_who_is_gone_before_or_after_his_turn_keeps_it_from_nobody() -> None:
    turns = Turnstile(1)
    await turns.enter()
    first, second, third = (asyncio.create_task(turns.enter()) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    turns.leave(1)
    second.cancel()  # it was let in, and has not run since
    await asyncio.wait_for(third, 1)


async def test_heavy_steps_are_written_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "AT_ONCE", 4)
    async with still(tmp_path) as broker:
        handles = [(await broker.begin(run=f"r{number}")).handle for number in range(6)]
        for handle in handles:
            for _ in range(3):
                await broker.issue(handle)
        await broker.end(handles[0])
        write, under_way, most = broker.store.write, list[None](), list[int]()

        async def counted(operation: Any, **how: Any) -> Any:
            if "Steps.end" in operation.__qualname__:
                under_way.append(None)
                most.append(len(under_way))
            try:
                return await write(operation, **how)
            finally:
                if "Steps.end" in operation.__qualname__:
                    under_way.pop()

        monkeypatch.setattr(broker.store, "write", counted)
        ended = await asyncio.gather(*(broker.end(handle) for handle in handles[1:]))
        assert all(one.all_proven for one in ended)
        assert most == [1] * 5


async def test_the_steps_end_in_pieces(quiet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TOGETHER", 2)
    for number in range(5):
        await quiet.begin(run=f"r{number}")
    open_ = await quiet.store.read(lambda tx: tx.open_steps())
    costs = Costs(quiet, monkeypatch)
    await quiet.engine._steps.end_all([(step, EndReason.OPERATOR) for step in open_], by="ann")
    assert costs.so_far[:2] == (3, 0)


async def test_what_lapses_together_ends_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "TOGETHER", 2)
    async with still(tmp_path, silence_bound=timedelta(hours=1), claim_window=timedelta(hours=1)) as broker:
        opened = await broker.begin()
        for _ in range(5):
            await broker.issue(opened.handle)
        await pass_time(broker, 610)
        costs = Costs(broker, monkeypatch)
        await broker.engine._reaper._expire(broker.clock.boottime())
        assert costs.so_far[:2] == (3, 4)
        assert not await broker.leases(LeaseState.ACTIVE)


async def test_a_round_of_the_reaper_ends_though_there_is_more(quiet: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one would look like a stall, after which silence is counted anew."""
    monkeypatch.setattr(reaper, "TOGETHER", 1)
    for number in range(5):
        await quiet.begin(run=f"r{number}")
    await pass_time(quiet, 60)
    write, left = quiet.store.write, list[int]()

    async def slow(operation: Any) -> Any:
        quiet.fake_clock.advance(1)
        return await write(operation)

    monkeypatch.setattr(quiet.store, "write", slow)
    for _ in range(3):
        await quiet.engine._reaper._end_steps(quiet.clock.boottime())
        left.append(await quiet.store.read(lambda tx: tx.open_step_count()))
    assert left == [3, 1, 0]
