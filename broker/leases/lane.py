"""The revocation lane: every REVOKING and IN_DOUBT lease is worked on until there is evidence (I5).

Never on a caller's context, with a bulkhead per provider, so that one dead provider cannot hold up another's
revocations. What one attempt does is in `ending`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial

from broker.errors import StoreError
from broker.leases.bulkhead import Bulkhead
from broker.leases.core import Core
from broker.leases.ending import Ending, backoff
from broker.leases.epoch import EpochLost
from broker.log import get_logger
from broker.model import Lease, LeaseState
from broker.providers.base import EndsTogether

log = get_logger(__name__)

BULKHEAD = 16  # revocations in flight per provider, unless it says how many
PAGE = 32  # of one provider known here and not ended, those waiting at the bulkhead included (in proportion, where more
# are in flight): the others wait in the store, where what becomes of them is seen
IDLE = 1.0  # seconds between looks when nobody woke the lane
SHARE = 4  # a crowd of leases has one in so many of its provider's places while somebody mints: more would hold up the mints
CALM = 1.0  # seconds without a mint, after which it has all of them
BUSY = 0.05  # seconds, while there is more than a page of work
DISK_PAUSE = 2.0  # seconds at most, after the end of a lease could not be written
SET_BACK = 1.0  # seconds by which the wall clock goes back without anybody noticing


class RevocationLane:
    """Works off what must die."""

    def __init__(self, core: Core, mints: Callable[[], bool]) -> None:
        """`mints`: is a mint under way?"""
        self._core = core
        self._mints = mints
        self._minted = float("-inf")  # monotonic time of the last look that saw one
        self._ending = Ending(core)
        self._held: set[str] = set()  # leases under way, or waiting at a bulkhead
        self._tasks: set[asyncio.Task[None]] = set()
        self._bulkheads: dict[str, Bulkhead] = {}  # by provider
        self._finished: set[str] = set()  # during the read of what is due: its rows are older than that
        self._behind = False  # more may be due in the store than the last look brought
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
        for bulkhead in self._bulkheads.values():
            self._fill(bulkhead)  # perhaps nobody mints any more
        return len(due)

    def take(self, leases: Iterable[Lease]) -> None:
        """Start what was just asked to die, without looking for it: `leases` as that durable transaction left them.

        Only while nothing waits in the store, which would be overtaken. What is not taken is found there.
        """
        for lease in leases:
            if lease.state is not LeaseState.REVOKING or lease.attempts or lease.id in self._held:
                continue  # not due, or known
            bulkhead = self._bulkhead(lease.provider)
            if self._is_full(bulkhead):
                self._behind = bulkhead.crowded = True
            if self._behind:
                self._core.lane.set()
            else:
                self._start(lease)

    async def _due(self) -> list[Lease]:
        """A page beyond what is under way: one provider's stuck leases must not fill it and hide another's.

        A `high` one is not held up by its provider's full page either.
        """
        now = self._core.clock.now()
        full = [name for name, bulkhead in self._bulkheads.items() if self._is_full(bulkhead)]
        held = frozenset(self._held)
        self._finished.clear()
        due = await self._core.store.read(lambda tx: tx.due_leases(now, PAGE, without=full, but=held))
        self._behind = bool(full) or len(due) == PAGE
        more = {lease.provider for lease in due} if len(due) == PAGE else set()
        for name in {*self._bulkheads, *more}:
            self._bulkhead(name).crowded = name in more or name in full
        return [lease for lease in due if lease.id not in self._held and lease.id not in self._finished]

    @property
    def busy(self) -> bool:
        """Some revocation is in flight."""
        return bool(self._held)

    async def cancel(self) -> None:
        """The process ends: what is in flight is idempotent, and the next epoch goes on."""
        while tasks := set(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, lease: Lease) -> None:
        self._held.add(lease.id)
        bulkhead = self._bulkhead(lease.provider)
        bulkhead.put(lease)
        self._fill(bulkhead)

    def _fill(self, bulkhead: Bulkhead) -> None:
        places = bulkhead.places
        if bulkhead.crowded and places == BULKHEAD and self._somebody_mints():
            places //= SHARE
        while (lease := bulkhead.next(places)) is not None:
            task = asyncio.create_task(self._work(lease), name=f"revoke {lease.id}")
            self._tasks.add(task)
            task.add_done_callback(partial(self._done, lease, bulkhead))

    def _done(self, lease: Lease, bulkhead: Bulkhead, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._held.discard(lease.id)
        self._finished.add(lease.id)
        bulkhead.leave()
        if task.cancelled():
            return  # the process ends
        if bulkhead.crowded and bulkhead.held <= bulkhead.places:
            self._core.lane.set()  # there may be another page, and from now on places are free
        self._fill(bulkhead)

    def _bulkhead(self, provider: str) -> Bulkhead:
        if provider not in self._bulkheads:
            held = self._core.providers.get(provider)
            at_once = held.ends_at_once if isinstance(held, EndsTogether) else BULKHEAD
            self._bulkheads[provider] = Bulkhead(at_once)
        return self._bulkheads[provider]

    def _somebody_mints(self) -> bool:
        now = self._core.clock.monotonic()
        if self._mints():
            self._minted = now
        return now - self._minted < CALM

    def _is_full(self, bulkhead: Bulkhead) -> bool:
        return bulkhead.held >= PAGE * bulkhead.places // BULKHEAD

    def _wall_over_boot(self) -> float:
        return self._core.clock.now().timestamp() - self._core.clock.boottime()

    async def _work(self, lease: Lease) -> None:
        try:
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
