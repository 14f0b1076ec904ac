"""Work that no caller can cancel, and writes that are made sooner or later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_never, wait_exponential_jitter

from broker.errors import StoreError
from broker.leases.core import Core
from broker.leases.epoch import EpochLost
from broker.store.base import Tx

T = TypeVar("T")


class Background:
    """Owns its tasks: they end when they are done, when the epoch is lost, or when the process stops."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def busy(self) -> bool:
        """Something is under way."""
        return bool(self._tasks)

    def run(self, work: Coroutine[Any, Any, T], *, name: str = "") -> asyncio.Task[T]:
        """Start it. Await the task under `asyncio.shield`, or not at all."""
        task = asyncio.create_task(work, name=name or None)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def settled(self) -> None:
        """Wait until nothing is under way, what the last ones started included."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def cancel(self) -> None:
        """The process ends: the next epoch goes on from the rows."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def write_surely(self, operation: Callable[[Tx], None], *, then: Callable[[], None]) -> None:
        """Write how a mint settled, then `then`; when the disk says no, go on trying behind the caller's back."""
        try:
            await self._core.store.write(self._fenced(operation), quick=True)
        except EpochLost:
            return  # a successor has the row
        except StoreError:
            self.run(self.insist(operation, then=then))
            raise
        then()

    async def insist(self, operation: Callable[[Tx], None], *, then: Callable[[], None]) -> None:
        """Without end by design: until it is written the row says INTENT, and after a restart IN_DOUBT."""
        retrying = AsyncRetrying(
            stop=stop_never,
            wait=wait_exponential_jitter(multiplier=0.2, max=10),
            retry=retry_if_exception_type(StoreError),
            sleep=self._core.clock.sleep,
        )
        try:
            await retrying(self._core.store.write, self._fenced(operation), quick=True)
        except EpochLost:
            return
        then()

    def _fenced(self, operation: Callable[[Tx], None]) -> Callable[[Tx], None]:
        def fenced(tx: Tx) -> None:
            self._core.epoch.fence(tx)
            operation(tx)

        return fenced

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at: the caller may have gone
