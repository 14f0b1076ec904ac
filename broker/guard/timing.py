"""Guard time: one clock for all locks, cool-downs and rolling hours, which nobody sets.

It begins as wall time and passes as CLOCK_BOOTTIME does, asleep or awake; over a reboot, as the wall clock does,
but never back. A wall clock that is moved by a day, either way, therefore ends nothing early and makes nothing last
longer. It may differ from the wall clock for as long as the database lives: `by_wall` translates for people.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.clock import Moment
from broker.store.base import Tx
from broker.store.guard import GuardClock

NOTHING = timedelta(0)


def guard_time(tx: Tx, now: Moment) -> datetime:
    """What time it is for the guard. Writes nothing."""
    kept = tx.guard_clock()
    return now.wall if kept is None else kept.at + max(_passed(kept, now), NOTHING)


def keep_time(tx: Tx, now: Moment) -> datetime:
    """The same, from which it is counted on. In each transaction that stores a guard time, and in each new epoch.

    Without the latter a clock set forward after a reboot would be believed; without the former, one that was set
    forward before it.
    """
    kept = tx.guard_clock()
    # Taken before the one that is kept: counted from here on, what lies between them would pass twice.
    if kept is not None and kept.boot_id == now.boot_id and _passed(kept, now) < NOTHING:
        return kept.at
    at = now.wall if kept is None else kept.at + max(_passed(kept, now), NOTHING)
    tx.set_guard_clock(GuardClock(at=at, wall=now.wall, boot=now.boot, boot_id=now.boot_id))
    return at


def by_wall(at: datetime, *, guard_now: datetime, now: Moment) -> datetime:
    """When it is `at` by the wall clock as it goes today."""
    return now.wall + (at - guard_now)


def _passed(kept: GuardClock, now: Moment) -> timedelta:
    return now.since(wall=kept.wall, boot=kept.boot, boot_id=kept.boot_id)
