"""The guard's arithmetic: pure, over one row and a moment. Both tables of DESIGN section 7.

Where the tables are silent:

- A budget or an hour that is empty *while the last mints failed* cools, and neither locks nor holds: the
  doubtful mints of a provider outage must not end an honest step. It grants no attempt, so a runaway gains
  nothing by it.
- Exhaustion comes before cool-downs: what locks need not wait for a timer to be locked.
- Windows are closed on both sides: what happened exactly an hour (or 24 h) ago still counts.
- `now` is guard time, which never runs backwards (see `timing`). One before the row's last refill would grant nothing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from broker.guard.tiers import DAY, HOUR, AfterLock, TierRules, WhenEmpty
from broker.guard.verdicts import Admitted, Ceiling, Cooling, GuardVerdict, Held, HoldNow, Locked, LockNow, Why
from broker.store.guard import GuardRow, GuardState


def assess(  # noqa: PLR0911 - one return for each row of the tables, in their order
    row: GuardRow, rules: TierRules, now: datetime
) -> GuardVerdict:
    """May this step make one more attempt now? `Admitted.row` has it charged."""
    # 1. Held: only an operator ends it.
    if row.state is GuardState.HELD:
        return Held()
    # 2. Locked, or locked until just now.
    if row.state is GuardState.LOCKED:
        if rules.after_lock is AfterLock.HOLD:
            return HoldNow(row=_held(row))
        if row.until is not None and now < row.until:
            return Locked(until=row.until)
        row = replace(row, state=GuardState.OPEN, until=None, spent=0)
    # 3. What time has given back.
    row = refilled(row, rules, now)
    exhausted = row.spent >= rules.budget
    # 4. The first request after exhaustion locks, or holds when it is the n-th lock in 24 h.
    if exhausted and rules.when_empty is WhenEmpty.LOCK and not row.failures:
        return _lock(row, rules, now)
    # 5. The ceiling over all intents, failed ones included. One above it means: the alert has gone out.
    if row.admitted >= rules.ceiling:
        return Ceiling(row=replace(row, admitted=rules.ceiling + 1) if row.admitted == rules.ceiling else None)
    # 6. A running cool-down.
    if row.until is not None and now < row.until:
        return _cooling(row.until, now, Why.FAILURE if row.failures else Why.ATTEMPT)
    # 7. An empty budget that does not lock.
    if exhausted:
        return _cooling(_next_attempt(row, rules, now), now, Why.BUDGET)
    return Admitted(row=_charged(row, rules, now))


def assess_hour(row: GuardRow, rules: TierRules, now: datetime, *, frees_at: datetime | None) -> GuardVerdict:
    """May this workload make one more attempt in this rolling hour?

    `frees_at` is when the window, which is full, lets the next one through; None: it has room.
    """
    # 1. Held: only an operator ends it.
    if row.state is GuardState.HELD:
        return Held()
    # 2. Room in the window.
    if frees_at is None:
        return Admitted(row=row)
    # 3. Exhausted: the n-th time in 24 h holds, counted at most once an hour, and not while mints fail.
    if row.failures:  # an outage's doubts fill the window, and come back long before they would leave it
        frees_at = min(frees_at, now + rules.max_cool_down)
    if rules.hour_exhaustions_to_hold is None or row.failures:
        return _cooling(frees_at, now, Why.HOUR)
    counted = tuple(at for at in row.hour_exhausted_at if at >= now - DAY)
    if counted and now < counted[-1] + HOUR:
        return _cooling(frees_at, now, Why.HOUR)
    row = replace(row, hour_exhausted_at=(*counted, now))
    if len(row.hour_exhausted_at) >= rules.hour_exhaustions_to_hold:
        return HoldNow(row=_held(row))
    return _cooling(frees_at, now, Why.HOUR, row)


def after_failure(row: GuardRow, rules: TierRules, now: datetime) -> GuardRow:
    """A mint failed: cool down, twice as long each time. A lock or hold stays as it is."""
    cool = rules.cool_down_after(row.failures)
    row = replace(row, failures=row.failures + 1, cool=cool)
    if row.state in (GuardState.LOCKED, GuardState.HELD):
        return row
    until = now + cool if row.until is None else max(row.until, now + cool)
    return replace(row, state=GuardState.COOLING, until=until)


def after_success(row: GuardRow) -> GuardRow:
    """A mint succeeded: the next failure starts at the first cool-down again. It gives no attempt back."""
    return replace(row, failures=0, cool=timedelta(0))


def refilled(row: GuardRow, rules: TierRules, now: datetime) -> GuardRow:
    """With the attempts that time has given back."""
    if rules.refill is None or not row.spent:
        return row
    since = row.refilled_at or now
    refills = max(0, (now - since) // rules.refill)
    return replace(row, spent=max(0, row.spent - refills), refilled_at=since + refills * rules.refill)


def _charged(row: GuardRow, rules: TierRules, now: datetime) -> GuardRow:
    spent = row.spent + 1
    until = None
    if rules.cool_from is not None and spent >= rules.cool_from:
        until = now + rules.cool_down_after(spent - rules.cool_from)
    return replace(
        row,
        spent=spent,
        admitted=row.admitted + 1,
        state=GuardState.COOLING if until else GuardState.OPEN,
        until=until,
        refilled_at=row.refilled_at if row.spent else now,  # a full budget does not save up time
    )


def _next_attempt(row: GuardRow, rules: TierRules, now: datetime) -> datetime:
    if rules.refill is not None:
        return (row.refilled_at or now) + rules.refill
    return now + rules.cool_down_after(row.failures - 1)


def _lock(row: GuardRow, rules: TierRules, now: datetime) -> GuardVerdict:
    recent = tuple(at for at in row.locked_at if at >= now - DAY)
    row = replace(row, locked_at=(*recent, now))
    if rules.locks_to_hold is not None and len(row.locked_at) >= rules.locks_to_hold:
        return HoldNow(row=_held(row))
    until = now + rules.lock
    return LockNow(row=replace(row, state=GuardState.LOCKED, until=until), until=until)


def _cooling(until: datetime, now: datetime, why: Why, row: GuardRow | None = None) -> Cooling:
    return Cooling(until=until, wait=until - now, why=why, row=row)


def _held(row: GuardRow) -> GuardRow:
    return replace(row, state=GuardState.HELD, until=None)
