"""A loop and a store that tell a `Meter` what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

from broker.store.base import Tx
from broker.store.sqlite import SqliteStore
from tests.counts.meter import READ, THREAD, WRITE, Meter, is_ours
from tests.fakes.clock import FakeClock
from tests.fakes.loop import LoopOnClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class CountingLoop(LoopOnClock):
    """Counts tasks of the broker's own, and what is handed over between threads, in either direction."""

    def __init__(self, clock: FakeClock, meter: Meter) -> None:
        self._meter = meter
        super().__init__(clock)
        self.set_task_factory(self._task)

    async def idle(self) -> None:
        """Also for several that wait for it."""
        if self._door.idle is None or self._door.idle.done():
            self._door.idle = self.create_future()
        await self._door.idle

    def _task(self, loop: asyncio.AbstractEventLoop, work: Any, /, **more: Any) -> asyncio.Task[Any]:
        self._meter.tasks += is_ours(work.cr_frame.f_globals)
        return asyncio.Task(work, loop=loop, **more)

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self._meter.hops += 1
        return super().call_soon_threadsafe(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        self._meter.hops += 1
        future = super().run_in_executor(executor, func, *args)
        self._meter.waiting[THREAD] += 1
        future.add_done_callback(lambda _: self._meter.done(THREAD))
        return future


class CountingStore:
    """The store, and how many operations are asked of it."""

    def __init__(self, store: SqliteStore, meter: Meter) -> None:
        self._store = store
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        self._meter.writes += 1
        with self._meter.under_way(WRITE):
            return await self._store.write(operation, quick=quick)

    async def read(self, operation: Callable[[Tx], T], *, quick: bool = False) -> T:
        self._meter.reads += 1
        with self._meter.under_way(READ):
            return await self._store.read(operation, quick=quick)
