"""So many of one provider's revocations under way, and who is next; and the same for writes that end steps."""

from __future__ import annotations

import asyncio
from collections import deque

from broker.model import Lease, Tier

FIRST = 2  # writes let in at once after a pause; each that is written lets in one more
PAUSE = 0.1  # seconds


class Bulkhead:
    """Leases that wait for a place, `high` ones first, else as they came."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.crowded = False  # more of this provider's are due than are known here
        self._taken = 0
        self._high: deque[Lease] = deque()
        self._others: deque[Lease] = deque()

    @property
    def held(self) -> int:
        """Leases with a place, and those that wait for one."""
        return self._taken + len(self._high) + len(self._others)

    def put(self, lease: Lease) -> None:
        """It waits."""
        (self._high if lease.tier is Tier.HIGH else self._others).append(lease)

    def next(self, places: int) -> Lease | None:
        """Gives one of so many places to whoever is next; None: nobody waits, or all are taken."""
        if self._taken >= places or not (waiting := self._high or self._others):
            return None
        self._taken += 1
        return waiting.popleft()

    def leave(self) -> None:
        """A place is free."""
        self._taken -= 1


class Turnstile:
    """Lets writes in as far as they fit into a few ms of the store's writer, where everybody's calls wait behind them.

    How much the next one will be is not known before it is written: it is taken to be like the last ones. After a pause
    nothing is known, and a few are let in at first.
    """

    def __init__(self, room: int) -> None:
        self._room = room  # leases
        self._each = 1  # leases of the last one; of a heavier one before it that has not faded
        self._window = FIRST
        self._used = float("-inf")  # event loop's time
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a turn. One is always let in."""
        if asyncio.get_running_loop().time() - self._used > PAUSE:
            self._window = FIRST
        if not self._waiting and self._fits():
            self._inside += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(None)  # let in, and gone
            raise

    def leave(self, leases: int | None) -> None:
        """Written; of so many leases, where that is known."""
        self._inside -= 1
        self._used = asyncio.get_running_loop().time()
        if leases is not None:
            self._each = max(1, leases, self._each // 2)
            self._window = min(self._window + 1, self._room)
        while self._waiting and self._fits():
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)

    def _fits(self) -> bool:
        return self._inside < max(1, min(self._window, self._room // self._each))
