"""How many successors a long step may have: a count of its own, beside the budget."""

from __future__ import annotations

from datetime import datetime, timedelta


def successor_allowance(*, first_mint: datetime, step_deadline: datetime, ttl: timedelta) -> int:
    """The span from first mint to step deadline over 2/3 of the ttl, rounded up, in exact arithmetic; 0 when no time is left.

    A successor is due at 2/3 of a lease's life, so this many carry a step to its deadline and no further.
    The ttl must be longer than zero.
    """
    span = step_deadline - first_mint
    return max(0, -(-3 * span // (2 * ttl)))
