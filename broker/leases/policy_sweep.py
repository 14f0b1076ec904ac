"""After each new map: what is alive and would be given no more has to die.

New credentials need none of this: the intent's transaction and the commit's compare the generation. INTENT rows are doomed at
once, for nobody holds what they make; ACTIVE ones have the grace of their tier, in which a later map may give them again.
A restart begins the grace anew; no lease outlives its own life by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from broker.errors import StoreError
from broker.leases import moves
from broker.leases.committing import SWAP_WAIT
from broker.leases.core import Core, PolicyMoved
from broker.leases.epoch import EpochLost
from broker.leases.standing import is_denied, still_given
from broker.log import get_logger
from broker.model import EndReason, Lease, LeaseState
from broker.policy.live.holder import Policy
from broker.store.base import Tx

log = get_logger(__name__)

PAGE = 50  # leases asked about in one read, and ended in one transaction: a few ms of the store's threads
AGAIN = 1.0  # seconds until another try, after what could not be read or written
# In this order; (state, of tier `high` only). An INTENT that becomes ACTIVE meanwhile was asked about before.
_PASSES = (
    (LeaseState.INTENT, False),
    (LeaseState.ACTIVE, True),
    (LeaseState.IN_DOUBT, False),
    (LeaseState.ACTIVE, False),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gone:
    """A lease whose credential would not be given today."""

    lease: Lease
    denied: bool  # by a rule that says so


class PolicySweep:
    """Remembers which leases live on in their grace."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._grace_over: dict[str, float] = {}  # lease id → boottime
        self._unfinished = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._until_due()
            try:
                await self.step()
            except (EpochLost, PolicyMoved, StoreError) as error:
                log.warning("leases could not be held against the new map; they are again", problem=str(error))
                await self._core.clock.sleep(AGAIN)
            except Exception:  # a dead sweep would leave alive what nobody grants
                log.exception("leases could not be held against the new map")
                await self._core.clock.sleep(AGAIN)

    async def step(self) -> None:
        """What is due now. Raises EpochLost, PolicyMoved, StoreError: it is due still."""
        adopted = self._core.policies.adopted
        while adopted.is_set() or self._unfinished:
            adopted.clear()
            self._unfinished = True
            await self._ask_all()
            self._unfinished = False
        boot = self._core.clock.boottime()
        over = [lease_id for lease_id, at in self._grace_over.items() if at <= boot]
        for start in range(0, len(over), PAGE):
            await self._end_of_grace(over[start : start + PAGE])

    async def _until_due(self) -> None:
        """Until a map is adopted, or the first grace is over."""
        core = self._core
        if self._unfinished:
            return
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(core.policies.adopted.wait())}
        if self._grace_over:
            left = min(self._grace_over.values()) - core.clock.boottime()
            waits.add(asyncio.ensure_future(core.clock.sleep(max(left, 0.0))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _ask_all(self) -> None:
        """Every live lease, a page at a time; each page by the map of its moment."""
        living: dict[str, float] = {}
        for state, high in _PASSES:
            after, more = 0, True
            while more:
                after, more = await self._ask_page(state, living, high=high, after=after)
        self._grace_over = living  # whatever is given again, or has ended, is out

    async def _ask_page(
        self, state: LeaseState, living: dict[str, float], *, high: bool, after: int
    ) -> tuple[int, bool]:
        core, policy = self._core, self._core.policies.current

        def look(tx: Tx) -> tuple[list[_Gone], int, bool]:
            page, last = tx.lease_page(state, after=after, limit=PAGE, high=high)
            return list(self._gone(tx, page, policy)), last, bool(page)

        gone, last, more = await core.store.read(look)
        boot, now = core.clock.boottime(), list[str]()
        for one in gone:
            grace = core.grace.of(one.lease.tier).total_seconds()
            over = self._grace_over.get(one.lease.id, boot + grace)
            if state is not LeaseState.ACTIVE or one.denied or over <= boot:
                now.append(one.lease.id)
            else:
                living[one.lease.id] = over
        if now and not await self._withdraw(now, policy):
            return after, True  # by a map that is no longer the one: this page again
        return last, more

    async def _end_of_grace(self, lease_ids: Sequence[str]) -> None:
        """Those that today's map still does not give: another one may have come since all were asked about."""
        policy = self._core.policies.current

        def look(tx: Tx) -> list[str]:
            rows = [row for row in map(tx.lease, lease_ids) if row is not None]
            return [one.lease.id for one in self._gone(tx, rows, policy)]

        gone = await self._core.store.read(look)
        if not gone or await self._withdraw(gone, policy):
            for lease_id in lease_ids:
                del self._grace_over[lease_id]

    def _gone(self, tx: Tx, leases: Sequence[Lease], policy: Policy) -> Iterator[_Gone]:
        """On the reader's thread. Whether that map is still the one is seen where they are ended."""
        scope_map, now = policy.map, self._core.clock.now()
        for lease in leases:
            step = tx.step(lease.step_id)
            if step is None:  # no lease without one; if it were, nobody could say what it is for
                yield _Gone(lease=lease, denied=True)
            elif not still_given(scope_map, step, lease, now):
                yield _Gone(lease=lease, denied=is_denied(scope_map, step, lease, now))

    async def _withdraw(self, lease_ids: Sequence[str], policy: Policy) -> bool:
        """In one transaction, by the map that is in force in it. False when that is another one by now."""
        core = self._core

        def operation(tx: Tx) -> int:
            core.epoch.fence(tx)
            if tx.control().policy_generation != policy.generation:
                raise PolicyMoved
            at = core.clock.now()
            rows = filter(None, map(tx.lease, lease_ids))
            return sum(moves.withdraw(tx, row, at=at, reason=EndReason.POLICY_CHANGED) for row in rows)

        try:
            ended = await core.store.write(operation)
        except PolicyMoved:
            await core.clock.sleep(SWAP_WAIT)
            return False
        core.lane.set()
        if ended:
            log.info("leases withdrawn: the scope map gives them no more", leases=ended, generation=policy.generation)
        return True
