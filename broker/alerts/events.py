"""When what was sounded as an event is over.

Whoever sounds one labels it so that its end can be found: `guard_key` = (a lock, a hold, a ceiling), `review` =
the id of the review (break-glass). Without it, it is over after a day.
"""

from __future__ import annotations

from datetime import timedelta

from broker.clock import Moment
from broker.guard.timing import guard_time
from broker.store.base import GuardState, Tx
from broker.store.notices import AlertRow

KEY = "guard_key"
REVIEW = "review"
DAY = timedelta(days=1)


def recent(_tx: Tx, row: AlertRow, now: Moment) -> bool:
    """A ceiling: the step will not be told anything else, and nobody has to open anything."""
    return now.wall - row.since < DAY


def locked(tx: Tx, row: AlertRow, now: Moment) -> bool:
    """Until its time is over, or it was opened. What became a hold goes on until that is opened."""
    key = row.alert.labels.get(KEY)
    if key is None:
        return recent(tx, row, now)
    guard = tx.guard_row(key)
    if guard is None or guard.state is not GuardState.LOCKED:
        return guard is not None and guard.state is GuardState.HELD
    return guard.until is None or guard_time(tx, now) < guard.until


def held(tx: Tx, row: AlertRow, now: Moment) -> bool:
    """Until an operator opens it."""
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
