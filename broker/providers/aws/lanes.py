"""How many calls are made at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from broker.providers.aws.calls import Failure

T = TypeVar("T")

BUSY = Failure(code="NoFreeWorker", sent=False, why="no free worker, each waits for an answer")


class Lane:
    """So many calls at a time, and no long queue: one that waited too long for its turn was never sent."""

    def __init__(self, name: str, workers: int, patience: float) -> None:
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix=f"aws-{name}")
        self._free = asyncio.Semaphore(workers)
        self._patience = patience  # seconds to wait for a turn

    async def run(self, call: Callable[[], T]) -> T | Failure:
        """The call's result, on a thread. A cancelled caller leaves it running, and its turn taken, until it returns."""
        if not await self._turn():
            return BUSY
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._executor, call)
        running.add_done_callback(lambda _: self._free.release())
        return await asyncio.shield(running)

    async def wait(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | Failure:
        """The same of a call that needs no thread. A cancelled caller cancels it."""
        if not await self._turn():
            return BUSY
        try:
            return await call()
        finally:
            self._free.release()

    async def _turn(self) -> bool:
        if not self._free.locked():
            return await self._free.acquire()
        try:
            async with asyncio.timeout(self._patience):
                return await self._free.acquire()
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Wait for calls under way; each is bounded by its timeouts."""
        await asyncio.to_thread(self._executor.shutdown)
