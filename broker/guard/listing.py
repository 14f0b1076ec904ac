"""A guard key as people see it: by today's rules and the wall clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from broker.clock import Moment
from broker.guard.rules import refilled
from broker.guard.tiers import AfterLock, TierRules
from broker.guard.timing import by_wall
from broker.store.guard import GuardRow, GuardState


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """What a key has used, of how much, and how it stands."""

    row: GuardRow
    state: GuardState  # a row says COOLING or LOCKED until the next request finds that it is over
    until: datetime | None  # by the wall clock; None when no time ends it
    spent: int  # of the step's budget, or in the rolling hour
    allowed: int
    ceiling: int  # 0: an hour has none

    @property
    def hour(self) -> bool:
        """A workload's rolling hour, not one step's budget."""
        return is_hour(self.row)

    def about(self, name: str) -> str:
        """A word of what the key stands for; "" when it has none."""
        return str(self.row.about.get(name, ""))


def is_hour(row: GuardRow) -> bool:
    """It stands behind itself."""
    return row.key == row.hour_key


def listed(row: GuardRow, rules: TierRules, *, charges: int, at: datetime, now: Moment) -> Listed:
    """`charges`: of the rolling hour (looked at for its row only); `at`: guard time now."""
    state, until = row.state, row.until
    timed = state is GuardState.COOLING or (state is GuardState.LOCKED and rules.after_lock is AfterLock.RESTORE)
    if not timed:
        until = None
    elif until is None or until <= at:
        state, until = GuardState.OPEN, None
    restored = row.state is GuardState.LOCKED and state is GuardState.OPEN
    return Listed(
        row=row,
        state=state,
        until=None if until is None else by_wall(until, guard_now=at, now=now),
        spent=charges if is_hour(row) else 0 if restored else refilled(row, rules, at).spent,
        allowed=rules.hourly if is_hour(row) else rules.budget,
        ceiling=0 if is_hour(row) else rules.ceiling,
    )
