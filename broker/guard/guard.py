"""The durable guard: reads a key's rows, asks the rules, and charges inside the caller's transaction (I4).

Two rows stand behind each answer: the budget of (workload, workflow, run, step, scope), and the limit of
(workload, scope) over the rolling hour, whose row has `key == hour_key`. A scope may have a third limit, over all
agents. All of their times are guard time (see `timing`); those of the answers are by the wall clock.

Successors of a lease are not asked for here: their count is `successors.successor_allowance`.
A guard row that cannot be read raises StoreError, and then there is no intent at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from broker.clock import Moment
from broker.guard import keys
from broker.guard.listing import Listed, is_hour, listed
from broker.guard.rules import after_failure, after_success, assess, assess_hour
from broker.guard.shared import Shared
from broker.guard.tiers import DEFAULT_RULES, HOUR, AfterLock, TierRules
from broker.guard.timing import by_wall, guard_time, keep_time
from broker.guard.verdicts import Admitted, Cooling, GuardRefusal, GuardVerdict, Held, Locked, LockNow, Why
from broker.model import JsonValue, Lease, Tier
from broker.store.base import Tx
from broker.store.guard import GuardRow, GuardState

SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardAsk:
    """One more credential of which scope, and against whose counters."""

    key: str  # keys.guard_key; the lease keeps it
    hour_key: str  # keys.hour_key
    tier: Tier
    about: Mapping[str, JsonValue]  # keys.about
    shared: Shared | None = None  # the scope's limit over all agents, if it has one


class _Assessed(NamedTuple):
    verdict: GuardVerdict
    rows: tuple[GuardRow, ...]  # to store


class Guard:
    """Refuses indefinite retries. Holds no state: everything durable is in the transaction."""

    def __init__(self, rules: Callable[[Tier], TierRules] = DEFAULT_RULES.__getitem__) -> None:
        """`rules`: what counts for a tier today."""
        self._rules = rules

    def look(self, tx: Tx, ask: GuardAsk, now: Moment) -> GuardVerdict:
        """What `admit` would answer; writes nothing and costs no attempt."""
        at = guard_time(tx, now)
        return _told(self._assess(tx, ask, at).verdict, at, now)

    def admit(self, tx: Tx, ask: GuardAsk, *, lease_id: str, now: Moment) -> GuardVerdict:
        """Charge one attempt, or refuse.

        The caller commits the transaction in either case: `LockNow`, `HoldNow`, a first `Ceiling` and a counted
        exhaustion of the hour are written too. It asks only for a step that is still open, so that requests
        in flight when the lock falls do not turn it into a hold.
        """
        at = guard_time(tx, now)
        verdict, rows = self._assess(tx, ask, at)
        if rows:
            keep_time(tx, now)
        for row in rows:
            tx.put_guard_row(row)
        if isinstance(verdict, Admitted):
            scope = ask.shared.scope if ask.shared else None
            tx.add_charge(lease_id=lease_id, key=ask.key, hour_key=ask.hour_key, at=at, shared=scope)
        return _told(verdict, at, now)

    def halted(self, tx: Tx, ask: GuardAsk, *, now: Moment) -> Locked | Held | None:
        """The lock or hold that stands, if any. Writes nothing; for successors, whose count is another."""
        hour, row = _hour_row(tx, ask), _budget_row(tx, ask)
        if GuardState.HELD in (hour.state, row.state):
            return Held()
        at = guard_time(tx, now)
        if row.state is GuardState.LOCKED and row.until is not None and at < row.until:
            return Locked(until=by_wall(row.until, guard_now=at, now=now))
        return None

    def give_back(self, tx: Tx, lease: Lease) -> bool:
        """Proven that nothing was minted: in the transaction that proves VOID. False when it was not charged.

        Lets go of no lock and no hold, and of no cool-down.
        """
        if not tx.return_charge(lease.id):
            return False
        row = tx.guard_row(lease.guard_key)
        if row is not None:
            tx.put_guard_row(replace(row, spent=max(0, row.spent - 1)))
        return True

    def mint_failed(self, tx: Tx, key: str, *, now: Moment) -> datetime | None:
        """Cool down. Returns when the step may ask again; None when it is locked or held."""
        row = tx.guard_row(key)
        if row is None:
            return now.wall
        at = keep_time(tx, now)
        row = after_failure(row, self._rules(Tier(row.tier)), at)
        tx.put_guard_row(row)
        hour = tx.guard_row(row.hour_key)
        if hour is not None:
            tx.put_guard_row(replace(hour, failures=hour.failures + 1))
        if row.state is not GuardState.COOLING or row.until is None:
            return None
        return by_wall(row.until, guard_now=at, now=now)

    def mint_succeeded(self, tx: Tx, key: str) -> None:
        """The next failure cools down as a first one. Gives no attempt back."""
        row = tx.guard_row(key)
        if row is None:
            return
        for known in (row, tx.guard_row(row.hour_key)):
            if known is not None and known.failures:
                tx.put_guard_row(after_success(known))

    def reset(self, tx: Tx, key: str, *, by: str, at: datetime) -> GuardRow | None:
        """An operator's: a key, of a budget or of an hourly limit, starts anew. None when there is no such key.

        Charges of the rolling hour still count: a reset opens, it does not multiply.
        """
        row = tx.guard_row(key)
        if row is None:
            return None
        fresh = GuardRow(key=row.key, hour_key=row.hour_key, tier=row.tier, about=row.about, reset_by=by, reset_at=at)
        tx.put_guard_row(fresh)
        return fresh

    def comes_back(self, row: GuardRow) -> bool:
        """Does time alone give back all that a reset would?

        Not what is closed: its locks of the last 24 h are forgotten by a reset. Nor anything of a tier whose budget never
        comes back: reset before it is HELD, again and again, it never would be.
        """
        closed = row.state in (GuardState.LOCKED, GuardState.HELD)
        return not closed and self._rules(Tier(row.tier)).after_lock is AfterLock.RESTORE

    def listed(self, tx: Tx, row: GuardRow, *, now: Moment) -> Listed:
        """For operators. Writes nothing."""
        at = guard_time(tx, now)
        charges = tx.count_charges(row.key, at - HOUR) if is_hour(row) else 0
        return listed(row, self._rules(Tier(row.tier)), charges=charges, at=at, now=now)

    def _assess(self, tx: Tx, ask: GuardAsk, at: datetime) -> _Assessed:
        rules = self._rules(ask.tier)
        hour, row = _hour_row(tx, ask), _budget_row(tx, ask)
        # 1. A held workload is refused before anything of its step is looked at or changed.
        if hour.state is GuardState.HELD:
            return _Assessed(Held(), ())
        # 2. The step's own budget.
        verdict = assess(row, rules, at)
        if not isinstance(verdict, Admitted):
            return _refused(verdict)
        # 3. The workload's rolling hour.
        filled = tx.nth_charge(rules.hourly, hour_key=ask.hour_key, since=at - HOUR)
        limit = assess_hour(hour, rules, at, frees_at=None if filled is None else _frees_at(at, filled))
        if not isinstance(limit, Admitted):
            return _refused(limit)
        # 4. The scope's, over all agents. It changes no row: it locks, holds and counts nobody.
        shared = ask.shared
        if shared is not None and (filled := shared.filled(tx, ask.hour_key, at - HOUR)) is not None:
            free = _frees_at(at, filled)
            return _refused(Cooling(until=free, wait=free - at, why=Why.SHARED))
        return _Assessed(verdict, (verdict.row, limit.row))


def _refused(verdict: GuardRefusal) -> _Assessed:
    row = None if isinstance(verdict, Locked | Held) else verdict.row
    return _Assessed(verdict, () if row is None else (row,))


def _told(verdict: GuardVerdict, at: datetime, now: Moment) -> GuardVerdict:
    """By the wall clock, as people and agents read it."""
    if isinstance(verdict, Cooling | LockNow | Locked):
        return replace(verdict, until=by_wall(verdict.until, guard_now=at, now=now))
    return verdict


def _budget_row(tx: Tx, ask: GuardAsk) -> GuardRow:
    row = tx.guard_row(ask.key)
    if row is not None:
        # The scope's tier of today, and who opened the step that asks: its owners reset nothing.
        return _as_today(row, ask.tier.value, ask.about)
    return GuardRow(key=ask.key, hour_key=ask.hour_key, tier=ask.tier.value, about=ask.about)


def _hour_row(tx: Tx, ask: GuardAsk) -> GuardRow:
    row, about = tx.guard_row(ask.hour_key), keys.without_step(ask.about)
    if row is not None:
        return _as_today(row, ask.tier.value, about)
    return GuardRow(key=ask.hour_key, hour_key=ask.hour_key, tier=ask.tier.value, about=about)


def _as_today(row: GuardRow, tier: str, about: Mapping[str, JsonValue]) -> GuardRow:
    return row if (row.tier, row.about) == (tier, about) else replace(row, tier=tier, about=about)


def _frees_at(at: datetime, filled: datetime) -> datetime:
    """The first whole second from now on at which this charge, which still counts a whole hour later, is out of the window."""
    seconds = (filled + HOUR - at) // SECOND
    return at + (seconds + 1) * SECOND
