"""The durable guard: reads a key's rows, asks the rules, and charges inside the caller's transaction (I4).

Two rows stand behind each answer: the budget of (workload, workflow, run, step, scope), and the limit of
(workload, scope) over the rolling hour, whose row has `key == hour_key`. The latter also remembers the latest
moment at which it admitted anything (`refilled_at`). Guard time never runs behind that moment: with a clock
set back, charges would be dated so early that they leave the window too soon once it is set right. A clock
set *forward* is believed.

Successors of a lease are not asked for here: their count is `successors.successor_allowance`.
A guard row that cannot be read raises StoreError, and then there is no intent at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from broker.guard import keys
from broker.guard.rules import after_failure, after_success, assess, assess_hour
from broker.guard.tiers import DEFAULT_RULES, HOUR, TierRules
from broker.guard.verdicts import Admitted, GuardRefusal, GuardVerdict, Held, Locked
from broker.model import JsonValue, Lease, Tier
from broker.store.base import GuardRow, GuardState, Tx


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardAsk:
    """One more credential of which scope, and against whose counters."""

    key: str  # keys.guard_key; the lease keeps it
    hour_key: str  # keys.hour_key
    tier: Tier
    about: Mapping[str, JsonValue]  # keys.about


class _Assessed(NamedTuple):
    verdict: GuardVerdict
    rows: tuple[GuardRow, ...]  # to store
    at: datetime  # guard time


class Guard:
    """Refuses indefinite retries. Holds no state: everything durable is in the transaction."""

    def __init__(self, rules: Mapping[Tier, TierRules] = DEFAULT_RULES) -> None:
        self._rules = dict(rules)

    def rules(self, tier: Tier) -> TierRules:
        """What a tier allows."""
        return self._rules[tier]

    def look(self, tx: Tx, ask: GuardAsk, now: datetime) -> GuardVerdict:
        """What `admit` would answer; writes nothing and costs no attempt."""
        return self._assess(tx, ask, now).verdict

    def admit(self, tx: Tx, ask: GuardAsk, *, lease_id: str, now: datetime) -> GuardVerdict:
        """Charge one attempt, or refuse.

        The caller commits the transaction in either case: `LockNow`, `HoldNow`, a first `Ceiling` and a counted
        exhaustion of the hour are written too. It asks only for a step that is still open, so that requests
        in flight when the lock falls do not turn it into a hold.
        """
        verdict, rows, at = self._assess(tx, ask, now)
        for row in rows:
            tx.put_guard_row(row)
        if isinstance(verdict, Admitted):
            tx.add_charge(lease_id=lease_id, key=ask.key, hour_key=ask.hour_key, at=at)
        return verdict

    def halted(self, tx: Tx, ask: GuardAsk, *, now: datetime) -> Locked | Held | None:
        """The lock or hold that stands, if any. Writes nothing; for successors, whose count is another."""
        hour, row = _hour_row(tx, ask), _budget_row(tx, ask)
        if GuardState.HELD in (hour.state, row.state):
            return Held()
        if row.state is GuardState.LOCKED and row.until is not None and _forward(hour, now) < row.until:
            return Locked(until=row.until)
        return None

    def give_back(self, tx: Tx, lease: Lease, *, now: datetime) -> bool:  # noqa: ARG002 - `now` is every writer's
        """Proven that nothing was minted: in the transaction that proves VOID. False when it was not charged.

        Lets go of no lock and no hold, and of no cool-down.
        """
        if not tx.return_charge(lease.id):
            return False
        row = tx.guard_row(lease.guard_key)
        if row is not None:
            tx.put_guard_row(replace(row, spent=max(0, row.spent - 1)))
        return True

    def mint_failed(self, tx: Tx, key: str, *, now: datetime) -> datetime | None:
        """Cool down. Returns when the step may ask again; None when it is locked or held."""
        row = tx.guard_row(key)
        if row is None:
            return now
        hour = tx.guard_row(row.hour_key)
        row = after_failure(row, self._rules[Tier(row.tier)], _forward(hour, now))
        tx.put_guard_row(row)
        if hour is not None:
            tx.put_guard_row(replace(hour, failures=hour.failures + 1))
        return row.until if row.state is GuardState.COOLING else None

    def mint_succeeded(self, tx: Tx, key: str, *, now: datetime) -> None:  # noqa: ARG002 - as above
        """The next failure cools down as a first one. Gives no attempt back."""
        row = tx.guard_row(key)
        if row is None:
            return
        for known in (row, tx.guard_row(row.hour_key)):
            if known is not None and known.failures:
                tx.put_guard_row(after_success(known))

    def reset(self, tx: Tx, key: str) -> bool:
        """An operator's: a key, of a budget or of an hourly limit, starts anew. False when there is none.

        Charges of the rolling hour still count: a reset opens, it does not multiply.
        """
        row = tx.guard_row(key)
        if row is None:
            return False
        tx.put_guard_row(GuardRow(key=row.key, hour_key=row.hour_key, tier=row.tier, about=row.about))
        return True

    def _assess(self, tx: Tx, ask: GuardAsk, now: datetime) -> _Assessed:
        rules = self._rules[ask.tier]
        hour, row = _hour_row(tx, ask), _budget_row(tx, ask)
        now = _forward(hour, now)
        # 1. A held workload is refused before anything of its step is looked at or changed.
        if hour.state is GuardState.HELD:
            return _Assessed(Held(), (), now)
        # 2. The step's own budget.
        verdict = assess(row, rules, now)
        if not isinstance(verdict, Admitted):
            return _refused(verdict, now)
        # 3. The workload's rolling hour.
        charges = tx.count_charges(ask.hour_key, now - HOUR)
        frees_at = _frees_at(tx, ask.hour_key, rules.hourly, now) if charges >= rules.hourly else now
        limit = assess_hour(hour, rules, now, charges=charges, frees_at=frees_at)
        if not isinstance(limit, Admitted):
            return _refused(limit, now)
        return _Assessed(verdict, (verdict.row, limit.row), now)


def _refused(verdict: GuardRefusal, now: datetime) -> _Assessed:
    row = None if isinstance(verdict, Locked | Held) else verdict.row
    return _Assessed(verdict, () if row is None else (row,), now)


def _budget_row(tx: Tx, ask: GuardAsk) -> GuardRow:
    row = tx.guard_row(ask.key)
    if row is not None:
        return replace(row, tier=ask.tier.value)  # the scope's tier of today
    return GuardRow(key=ask.key, hour_key=ask.hour_key, tier=ask.tier.value, about=ask.about)


def _hour_row(tx: Tx, ask: GuardAsk) -> GuardRow:
    row = tx.guard_row(ask.hour_key)
    if row is not None:
        return replace(row, tier=ask.tier.value)
    about = keys.without_step(ask.about)
    return GuardRow(key=ask.hour_key, hour_key=ask.hour_key, tier=ask.tier.value, about=about)


def _forward(hour: GuardRow | None, now: datetime) -> datetime:
    """Guard time: never behind the latest admission, whatever the wall clock was set to."""
    return now if hour is None or hour.refilled_at is None else max(now, hour.refilled_at)


def _frees_at(tx: Tx, hour_key: str, hourly: int, now: datetime) -> datetime:
    """The first whole second from now on at which fewer than `hourly` charges are in the window."""

    def open_after(seconds: int) -> bool:
        return tx.count_charges(hour_key, now + timedelta(seconds=seconds) - HOUR) < hourly

    return now + timedelta(seconds=1 + bisect_left(range(1, 3601), True, key=open_after))
