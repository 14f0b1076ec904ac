"""The revocation lane: every REVOKING and IN_DOUBT lease is worked on until there is evidence (I5).

Never on a caller's context, with a bulkhead per provider, so that one dead provider cannot hold up another's
revocations. What one attempt does is in `ending`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from broker.errors import StoreError
from broker.leases.core import Core
from broker.leases.ending import Ending, backoff
from broker.leases.epoch import EpochLost
from broker.log import get_logger
from broker.model import Lease
from broker.providers.base import EndsTogether

log = get_logger(__name__)

BULKHEAD = 16  # revocations in flight per provider, unless it says how many
PAGE = 32  # of one provider under way, those waiting at the bulkhead included: a `high` one waits behind no more (in
# proportion, where more are in flight)
IDLE = 1.0  # seconds between looks when nobody woke the lane
BUSY = 0.05  # seconds, while there is more than a page of work
DISK_PAUSE = 2.0  # seconds at most, after the end of a lease could not be written
SET_BACK = 1.0  # seconds by which the wall clock goes back without anybody noticing


class RevocationLane:
    """Works off what must die."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._ending = Ending(core)
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._load: Counter[str] = Counter()  # provider → leases in `_busy`
        self._bulkheads: dict[str, asyncio.Semaphore] = {}
        self._finished: set[str] = set()  # during the read of what is due: its rows are older than that
        self._drift = self._wall_over_boot()

    async def run(self) -> None:
        """Until cancelled."""
        core = self._core
        while True:
            core.lane.clear()
            started = 0
            try:
                started = await self.step()
            except Exception:  # a dead lane would leave credentials alive for ever
                log.exception("cannot read what is due for revocation")
            try:
                async with asyncio.timeout(IDLE if started < PAGE else BUSY):
                    await core.lane.wait()
            except TimeoutError:
                continue

    async def step(self) -> int:
        """Start what is due and not yet under way; returns how many."""
        drift, self._drift = self._drift, self._wall_over_boot()
        if self._drift < drift - SET_BACK:
            await self._core.make_due()  # what was due in a minute would now be due in an hour
        due = await self._due()
        for lease in due:
            self._start(lease)
        return len(due)

    async def _due(self) -> list[Lease]:
        """A page beyond what is under way: one provider's stuck leases must not fill it and hide another's.

        A `high` one is not held up by its provider's full page either.
        """
        now = self._core.clock.now()
        full = [name for name, count in self._load.items() if count >= PAGE * self._at_once(name) // BULKHEAD]
        limit = PAGE + len(self._busy)
        self._finished.clear()
        due = await self._core.store.read(lambda tx: tx.due_leases(now, limit, without=full))
        return [lease for lease in due if lease.id not in self._busy and lease.id not in self._finished][:PAGE]

    @property
    def busy(self) -> bool:
        """Some revocation is in flight."""
        return bool(self._busy)

    async def cancel(self) -> None:
        """The process ends: what is in flight is idempotent, and the next epoch goes on."""
        for task in list(self._busy.values()):
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _start(self, lease: Lease) -> None:
        task = asyncio.create_task(self._work(lease), name=f"revoke {lease.id}")
        self._busy[lease.id] = task
        self._load[lease.provider] += 1
        task.add_done_callback(lambda _: self._done(lease))

    def _done(self, lease: Lease) -> None:
        self._busy.pop(lease.id, None)
        self._finished.add(lease.id)
        self._load[lease.provider] -= 1
        if self._load[lease.provider] == self._at_once(lease.provider) // 2:
            self._core.lane.set()  # there may be another page

    def _bulkhead(self, provider: str) -> asyncio.Semaphore:
        if provider not in self._bulkheads:
            self._bulkheads[provider] = asyncio.Semaphore(self._at_once(provider))
        return self._bulkheads[provider]

    def _at_once(self, provider: str) -> int:
        held = self._core.providers.get(provider)
        return held.ends_at_once if isinstance(held, EndsTogether) else BULKHEAD

    def _wall_over_boot(self) -> float:
        return self._core.clock.now().timestamp() - self._core.clock.boottime()

    async def _work(self, lease: Lease) -> None:
        try:
            async with self._bulkhead(lease.provider):
                await self._ending.attempt(lease)
        except EpochLost:
            await self._core.clock.sleep(IDLE)  # a successor's lease now, or ours again when the epoch is
        except StoreError:
            log.warning("the end of a lease could not be written; trying again", lease=lease.id)
            await self._core.clock.sleep(min(DISK_PAUSE, backoff(lease.attempts)))  # it keeps its place meanwhile
        except Exception:
            log.exception("revocation failed unexpectedly", lease=lease.id)
            with contextlib.suppress(EpochLost, StoreError):  # then it stays due
                await self._ending.defer(lease, problem="unexpected failure")
