"""What is counted: one operation at a time, 32 at a time, a minute in which nobody asks, a thousand ends at once."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from broker.leases.beginning import Opened
from broker.leases.ids import new_lease_id, new_nonce
from broker.model import EndReason, Lease, LeaseState
from broker.store.base import Tx
from tests.counts.counting import Counting
from tests.counts.figures import Figure, Figures, Kind, Operation
from tests.counts.meter import Meter
from tests.counts.parts import ODD, CountedWorld, counted, daemon
from tests.counts.watched import CountingLoop
from tests.fakes.clock import FakeClock
from tests.fakes.world import agent, new_id
from tests.support import logs

T = TypeVar("T")

MEMORY = "/dev/shm"  # counts are the same on every disk, and this one is never slow
AT_ONCE = 32
DUE = 1000
MINUTE = 60.0  # seconds
QUARTER = 0.25  # seconds: as often as anybody looks
LIVES = 100
# Blocks: asyncio clears its weak references now and then, and the writer remembers rows until it has put 4,096 of them.
ROOM = 2000
PER_STEP = 10  # as many as the guard lets one have
RIPE = 420.0  # seconds: past two thirds of the scope's ten minutes
BEAT = 10.0  # seconds between heartbeats
MINUTES = "idle_minute_of_a_daemon"


# --- one at a time ---


async def one_at_a_time(count: Counting, prefix: str = "", run: str = "r1") -> None:
    """A step's whole life."""
    world, named = count.world, f"{prefix}{{}}".format
    async with count.operation(named("begin_step")):
        opened = await world.begin(run=run)
    first = new_id()
    async with count.operation(named("issue_first")):
        lease = (await world.issue(opened.handle, request_id=first)).lease
    async with count.operation(named("issue_replayed")):
        await world.issue(opened.handle, request_id=first)
    async with count.operation(named("issue_later")):
        other = (await world.issue(opened.handle)).lease
    async with count.operation(named("heartbeat_that_claims")):
        await world.engine.heartbeat(agent(), opened.handle, [lease.id, other.id])
    async with count.operation(named("heartbeat")):
        await world.engine.heartbeat(agent(), opened.handle, [lease.id, other.id])
    async with count.operation(named("issue_refused")):
        await world.refused(opened.handle, "other")
    async with count.operation(named("revoke_lease")):
        await world.engine.revoke_lease(
            agent(), request_id=new_id(), handle=opened.handle, lease_id=other.id, wait_seconds=5
        )
    await beating(world, opened, [lease.id], seconds=RIPE)
    async with count.operation(named("issue_successor")):
        newer = (await world.issue(opened.handle, replaces=lease.id)).lease
    async with count.operation(named("heartbeat_that_ends_the_older")):
        await world.engine.heartbeat(agent(), opened.handle, [newer.id])
    async with count.operation(named("end_step")):
        await world.end(opened.handle)


async def beating(world: CountedWorld, opened: Opened, held: list[str], *, seconds: float) -> None:
    """Time passes while a client is there."""
    left = seconds
    while left > 0:
        await passing(world, BEAT)
        await world.engine.heartbeat(agent(), opened.handle, held)
        left -= BEAT


async def passing(world: CountedWorld, seconds: float, *, pace: float = 1.0) -> None:
    """Whoever sleeps wakes up, and has done what it wants to before more time passes."""
    for _ in range(int(seconds / pace)):
        world.fake_clock.advance(pace)
        await world.meter.settled()


# --- nobody asks ---


async def minutes(count: Counting) -> None:
    """Of the engine alone; with nothing, and with one step whose client is there."""
    world = count.world
    async with count.operation("idle_minute"):
        await passing(world, MINUTE)
    opened = await world.begin(run="held")
    held = (await world.issue(opened.handle)).lease
    await world.engine.heartbeat(agent(), opened.handle, [held.id])
    async with count.operation("minute_with_a_step"):
        await beating(world, opened, [held.id], seconds=MINUTE)


async def memory(count: Counting) -> None:
    """Blocks of memory that a life leaves behind, and that a live lease takes, when nobody asks for it any more."""
    world = count.world
    await lives(world, 3)
    before = await blocks(world)
    await lives(world, LIVES)
    count.found["left_by_a_hundred_lives"] = _kept(await blocks(world) - before)
    opened = [await world.begin(run=f"live-{number}") for number in range(LIVES // PER_STEP)]
    before = await blocks(world, opened)
    held = {one.handle: [(await world.issue(one.handle)).lease.id for _ in range(PER_STEP)] for one in opened}
    live = await blocks(world, opened, held)
    count.found["a_hundred_live_leases"] = _kept(live - before)


def _kept(number: int) -> Operation:
    return {"memory": {"blocks": Figure(ROOM, Kind.AT_MOST, number)}}


async def lives(world: CountedWorld, number: int) -> None:
    for _ in range(number):
        opened = await world.begin(run=new_id())
        lease = (await world.issue(opened.handle)).lease
        await world.engine.heartbeat(agent(), opened.handle, [lease.id])
        await world.end(opened.handle)


async def blocks(world: CountedWorld, opened: Sequence[Opened] = (), held: Mapping[str, list[str]] = {}) -> int:
    """When a minute has passed since: credentials are kept for that long for whoever asks again."""
    for _ in range(int(MINUTE / BEAT)):
        for one in opened:
            await world.engine.heartbeat(agent(), one.handle, held.get(one.handle, []))
        await passing(world, BEAT)
    world.meter.reset()
    gc.collect()
    return sys.getallocatedblocks()


# --- many at once ---


async def at_once(count: Counting) -> None:
    """Each in a step of its own, over a disk so slow that all that can come together does."""
    world, who = count.world, agent()
    steps = await together(count, "begin_step_at_once", lambda n: world.begin(run=f"run-{n:02}"))
    issued = await together(count, "issue_at_once", lambda n: world.issue(steps[n].handle))
    held = [one.lease.id for one in issued]
    await together(count, "heartbeat_at_once", lambda n: world.engine.heartbeat(who, steps[n].handle, [held[n]]))
    ended = await together(count, "end_step_at_once", lambda n: world.end(steps[n].handle))
    assert all(one.all_proven for one in ended)


async def together(count: Counting, name: str, work: Callable[[int], Awaitable[T]]) -> list[T]:
    """32 of it, begun in one moment."""
    gate = asyncio.Event()

    async def one(number: int) -> T:
        await gate.wait()
        return await work(number)

    tasks = [asyncio.create_task(one(number)) for number in range(AT_ONCE)]  # ours, and not counted
    async with count.operation(name, many=AT_ONCE):
        gate.set()
        await asyncio.gather(*tasks)
    return [task.result() for task in tasks]


async def due_at_once(count: Counting) -> None:
    """A thousand ends."""
    world = count.world
    opened = await world.begin(run="drained")
    pattern = (await world.issue(opened.handle)).lease
    await world.store.write(lambda tx: _add_revoking(tx, pattern, DUE))
    async with count.operation("due_at_once", many=DUE):
        world.core.lane.set()
        await count.meter.settled()
        while count.meter.provider.count("revoke") < DUE:
            world.fake_clock.advance(0.05)
            await count.meter.settled()


def _add_revoking(tx: Tx, pattern: Lease, number: int) -> None:
    for _ in range(number):
        lease = replace(pattern, id=new_lease_id(), request_id=new_id(), nonce=new_nonce())
        tx.insert_lease(replace(lease, state=LeaseState.INTENT, refs={}, active_at=None))
        tx.activate(lease.id, epoch=lease.epoch, refs=lease.refs, at=lease.intent_at)
        tx.to_revoking(lease.id, at=lease.intent_at, reason=EndReason.STEP_ENDED)


# --- all of it ---


async def _alone(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    with meter.profiled():
        async with counted(folder, meter, clock) as world:
            count = Counting(world)
            for run in ("warm", "r1"):
                await one_at_a_time(count, run=run)
            await minutes(count)
            return count.found


async def _memory(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    async with counted(folder, meter, clock) as world:
        count = Counting(world)
        await memory(count)
        return count.found


async def _daemon(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    with meter.profiled():
        async with daemon(folder, meter, clock) as world:
            count = Counting(world)
            await passing(world, MINUTE)
            async with count.operation(MINUTES):
                await passing(world, MINUTE, pace=QUARTER)
            # Looked at as often as a pooled connection ends: whether it is still there is chance.
            calls = {name: figure for name, figure in count.found[MINUTES]["provider"].items() if name != "connect"}
            return {MINUTES: {**count.found[MINUTES], "provider": calls}}


async def _many(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    async with counted(folder, meter, clock) as world:
        count = Counting(world)
        await at_once(count)
        await due_at_once(count)
        return count.found


async def _vault(folder: Path, meter: Meter, clock: FakeClock) -> Figures:
    with meter.profiled():
        async with counted(folder, meter, clock, vault=True) as world:
            count = Counting(world)
            async with count.operation("vault_issue_after_start"):
                await world.issue((await world.begin(run="cold")).handle)
            for run in ("warm", "r1"):
                await one_at_a_time(count, "vault_", run)
            return {name: found for name, found in count.found.items() if found["provider"]}


Part: TypeAlias = Callable[[Path, Meter, FakeClock], Coroutine[Any, Any, Figures]]
PARTS: tuple[Part, ...] = (_memory, _alone, _many, _vault, _daemon)  # memory first: others leave garbage


def measured(parts: Iterable[Part] = PARTS) -> Figures:
    """Everything, in a few seconds; each part in a world of its own."""
    found: dict[str, Operation] = {}
    now = datetime.now(UTC).replace(microsecond=0)  # certificates of the tests are good today
    with logs.restored():
        for part in parts:
            meter, clock = Meter(), FakeClock(now + ODD)
            with (
                tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder,
                asyncio.Runner(loop_factory=partial(CountingLoop, clock, meter)) as runner,
            ):
                found |= runner.run(part(Path(folder), meter, clock))
    return found
