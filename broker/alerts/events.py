"""When what was sounded as an event is over.

Whoever sounds one labels it so that its end can be found: `guard_key` = (a lock, a hold, a ceiling), `review` =
the id of the review (break-glass). Without it, it is over after a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.alert import AlertRule
from broker.clock import Moment
from broker.guard.guard import Guard
from broker.guard.timing import guard_time
from broker.store import alarms
from broker.store.base import Tx
from broker.store.guard import GuardState
from broker.store.notices import AlertRow

KEY = "guard_key"
REVIEW = "review"
DAY = timedelta(days=1)


def recent(_tx: Tx, row: AlertRow, now: Moment) -> bool:
    """A ceiling: the step will not be told anything else, and nobody has to open anything."""
    return now.wall - row.last_at < DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """Until the lock's time is over, or it was opened. What became a hold goes on until that is opened.

    A lock that no time ends is a day's news.
    """

    guard: Guard

    def __call__(self, tx: Tx, row: AlertRow, now: Moment) -> bool:
        key = row.alert.labels.get(KEY)
        known = None if key is None else tx.guard_row(key)
        if known is None:
            return key is None and recent(tx, row, now)
        state = self.guard.listed(tx, known, now=now).state
        if state is not GuardState.LOCKED:
            return state is GuardState.HELD
        at = guard_time(tx, now)  # of the wall clock somebody may set a day passes at once
        running = known.until is not None and at < known.until
        return running or any(at - locked < DAY for locked in known.locked_at)


def held(tx: Tx, row: AlertRow, now: Moment) -> bool:
    """Until an operator opens it; that there are more, as long as more are held than were told of."""
    if alarms.MORE in row.alert.labels:
        told = tx.firing_counts().get(AlertRule.GUARD_HELD, 0) - 1  # without this one
        return tx.guard_counts().get(GuardState.HELD, 0) > told
    key = row.alert.labels.get(KEY)
    if key is None:
        return recent(tx, row, now)
    guard = tx.guard_row(key)
    return guard is not None and guard.state is GuardState.HELD


def unsigned(tx: Tx, row: AlertRow, now: Moment) -> bool:
    """Until a second operator has signed the review."""
    review_id = row.alert.labels.get(REVIEW)
    if review_id is None:
        return recent(tx, row, now)
    review = tx.review(review_id)
    return review is not None and review.closed_at is None
