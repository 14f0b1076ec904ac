"""The only source of time. Everything else receives a Clock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """One moment by the wall and by the count of one boot."""

    wall: datetime
    boot: float  # seconds of CLOCK_BOOTTIME
    boot_id: str  # "" when the machine does not say

    def since(self, *, wall: datetime, boot: float, boot_id: str) -> timedelta:
        """How long ago that was; negative when it is to come. By elapsed time within one boot, else by the wall."""
        if boot_id and boot_id == self.boot_id:
            return timedelta(seconds=self.boot - boot)
        return self.wall - wall


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

    def moment(self) -> Moment:
        """Wall time and boot time together, and which boot it is."""
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

    def moment(self) -> Moment:
        return Moment(wall=self.now(), boot=self.boottime(), boot_id=_boot_id())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class MovableClock(SystemClock):
    """The machine's clocks, ahead by what somebody asked for: the dev broker's. Used from one event loop."""

    def __init__(self) -> None:
        self._ahead = timedelta(0)
        self._moved = asyncio.Event()

    @property
    def ahead(self) -> timedelta:
        """Of the machine."""
        return self._ahead

    def move(self, ahead: timedelta) -> None:
        """All hands by the same, and whoever sleeps looks again. Backwards only by a fresh start."""
        self._ahead += ahead
        self._moved.set()
        self._moved = asyncio.Event()

    def reset(self) -> None:
        """Together with the machine again; nobody may be using it."""
        self._ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self._ahead

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead.total_seconds()

    def boottime(self) -> float:
        return super().boottime() + self._ahead.total_seconds()

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._moved.wait()
        await asyncio.sleep(0)


@cache
def _boot_id() -> str:
    """Of this boot: CLOCK_BOOTTIME of another one says nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
