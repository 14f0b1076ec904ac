"""A broker that a test drives: no loop of its own runs, and time passes when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from broker.config import Timings
from broker.model import Step
from broker.providers.base import Provider
from broker.store.base import Tx
from tests.fakes.loop import LoopOnClock
from tests.fakes.memory_store import MemoryStore
from tests.fakes.world import World
from tests.invariants.outside import Outside, Remote, TrueClock

T = TypeVar("T")
TICK = 5.0  # seconds between rounds: as late as the reaper may be without taking it for a stall


class Driven(World):
    """Lane, reaper and epoch take one round each per `tick`."""

    def __init__(self, folder: Path, clock: TrueClock) -> None:
        super().__init__(folder, MemoryStore(), clock=clock, timings=Timings())
        self.outside = Outside(clock)

    def providers(self) -> dict[str, Provider]:
        return {name: Remote(self.outside, name=name, timed=name == "timed") for name in ("fake", "timed")}

    async def start(self) -> None:
        self.build()
        for provider in self.core.providers.values():
            await provider.check()  # as readiness does
        await self.engine.take_up()
        await self.policies.load_initial(self.store, self.clock)

    async def tick(self, seconds: float) -> None:
        """Time passes, then everything that runs by itself runs once."""
        self.fake_clock.advance(seconds)
        await self.round()

    async def round(self) -> None:
        await idle()
        await self.engine.renew()
        await self.engine._sweep.step()
        await self.engine._reaper.tick()
        await self.engine._lane.step()
        await idle()

    @property
    def memory(self) -> MemoryStore:
        assert isinstance(self.store, MemoryStore)
        return self.store

    def look(self, operation: Callable[[Tx], T]) -> T:
        """Read without giving anybody else a turn."""
        return self.memory.look(operation)

    def step(self, step_id: str) -> Step:
        found = self.look(lambda tx: tx.step(step_id))
        assert found is not None
        return found


async def idle() -> None:
    """Until nothing more happens without time passing."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LoopOnClock)
    await loop.idle()


async def passes(count: int) -> None:
    """Let whoever is ready run so many times: less than idle leaves work half done."""
    for _ in range(count):
        await asyncio.sleep(0)
