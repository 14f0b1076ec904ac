"""Decide, and decide again when the map is another one by the time that it counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from broker.errors import BrokerError, Reason
from broker.leases.core import PolicyMoved
from broker.leases.epoch import ASK_AGAIN

DECIDE_AGAIN = 3  # times, while maps are being loaded

T = TypeVar("T")


async def by_one_map(attempt: Callable[[], Awaitable[T]]) -> T:
    """What an attempt gives whose map stayed in force to its transaction. Raises BrokerError, and what the attempt raises."""
    for _ in range(DECIDE_AGAIN):
        try:
            return await attempt()
        except PolicyMoved:
            continue
    raise BrokerError(Reason.EPOCH_LOST, "the scope map keeps changing; ask again", retry_after=ASK_AGAIN)
