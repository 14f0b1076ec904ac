"""So many of one provider's revocations under way, and who is next."""

from __future__ import annotations

from collections import deque

from broker.model import Lease, Tier


class Bulkhead:
    """Leases that wait for a place, `high` ones first, else as they came."""

    def __init__(self, places: int) -> None:
        self.places = places
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

    def next(self) -> Lease | None:
        """Gives a place to whoever is next; None: nobody waits, or there is none."""
        if self._taken >= self.places or not (waiting := self._high or self._others):
            return None
        self._taken += 1
        return waiting.popleft()

    def leave(self) -> None:
        """A place is free."""
        self._taken -= 1
