"""An event loop on a clock that only a test moves: timeouts and timers wait for it, and nothing waits for real time."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from tests.fakes.clock import FakeClock

NAP = 0.01  # seconds of real time, for threads
NAPS = 500  # of them in a row without anything happening: what is awaited will never come


class LoopOnClock(asyncio.SelectorEventLoop):
    """`idle` tells when all has happened that can happen without time passing."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._door = _Selector()
        super().__init__(self._door)

    def time(self) -> float:
        return self._clock.monotonic()

    async def idle(self) -> None:
        """Return when the loop would go to sleep."""
        self._door.idle = self.create_future()
        await self._door.idle


class _Selector(selectors.SelectSelector):
    """Asked to wait: no callback is ready. Without a socket either, that is all there is to know."""

    def __init__(self) -> None:
        super().__init__()
        self.idle: asyncio.Future[None] | None = None
        self._naps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        if timeout is not None and timeout <= 0:
            self._naps = 0
            return super().select(0)
        if self.idle is not None and not self.idle.done():
            found = super().select(0)
            if not found:  # a socket of this process may have just been written to
                self.idle.set_result(None)
            return found
        found = super().select(NAP)
        self._naps = 0 if found else self._naps + 1
        assert self._naps < NAPS, "this waits for time that nobody lets pass"
        return found
