"""A clock that only a test moves."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from broker.clock import Moment

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class FakeClock:
    """`broker.clock.Clock` with three hands that can be moved together or apart. Use it on one event loop."""

    def __init__(self, now: datetime = START) -> None:
        self._wall = now
        self._monotonic = 1_000.0
        self._boottime = 5_000.0  # differs from monotonic, so that mixing them up shows
        self._boot = 1
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def boottime(self) -> float:
        return self._boottime

    def moment(self) -> Moment:
        return Moment(wall=self._wall, boot=self._boottime, boot_id=f"boot-{self._boot}")

    def reboot(self) -> None:
        """Boot time begins anew."""
        self._boottime = 10.0
        self._boot += 1

    @property
    def sleeping(self) -> int:
        """How many tasks wait in `sleep` now."""
        return sum(not future.done() for _, future in self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Wake when `advance` has moved the monotonic hand far enough; zero only yields."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._monotonic + seconds, future))
        await future

    def advance(self, seconds: float) -> None:
        """Time passes on all three clocks; sleepers that are due run at the next `await`."""
        self._monotonic += seconds
        self.suspend(seconds)
        waiting = [(due, future) for due, future in self._sleepers if not future.done()]
        self._sleepers = [(due, future) for due, future in waiting if due > self._monotonic]
        for due, future in sorted(waiting, key=lambda sleeper: sleeper[0]):
            if due <= self._monotonic:
                future.set_result(None)

    async def run(self, seconds: float, *, step: float = 1.0) -> None:
        """Advance in steps and let woken tasks run in between: for loops that sleep again and again."""
        left = seconds
        while left > 0:
            self.advance(min(step, left))
            left -= step
            for _ in range(10):
                await asyncio.sleep(0)

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: wall and boot time move on, monotonic time stands still, nobody wakes."""
        self._wall += timedelta(seconds=seconds)
        self._boottime += seconds

    def set_wall(self, at: datetime) -> None:
        """An operator or NTP sets the wall clock, in either direction; nothing else moves."""
        self._wall = at
