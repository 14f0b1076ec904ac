"""The only source of time. Everything else receives a Clock."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Three clocks, because each lies differently."""

    def now(self) -> datetime:
        """Wall time, aware, UTC. An operator or NTP can move it."""
        ...

    def monotonic(self) -> float:
        """Seconds; never goes back, stands still while the machine sleeps."""
        ...

    def boottime(self) -> float:
        """Seconds since boot, counting sleep: what an epoch's expiry is measured on."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait at least `seconds` of monotonic time."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
