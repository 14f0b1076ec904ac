"""Every line of the two tables, by itself."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from broker.guard.rules import after_failure, after_success, assess, assess_hour
from broker.guard.tiers import DEFAULT_RULES, TierRules
from broker.guard.verdicts import Admitted, Ceiling, Cooling, Held, HoldNow, Locked, LockNow, Why
from broker.model import Tier
from broker.store.guard import GuardRow, GuardState
from tests.fakes.clock import START

LOW, ELEVATED, HIGH = (DEFAULT_RULES[tier] for tier in (Tier.LOW, Tier.ELEVATED, Tier.HIGH))
NEW = GuardRow(key="k", hour_key="h", tier="any", about={})


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def charge(row: GuardRow, rules: TierRules, now: datetime, times: int = 1, apart: float = 0) -> GuardRow:
    for n in range(times):
        verdict = assess(row, rules, now + n * seconds(apart))
        assert isinstance(verdict, Admitted), verdict
        row = verdict.row
    return row


# --- low: 10, refill 1 / min; COOLING when the budget is empty, ended by the refill


def test_low_cools_when_empty_until_the_next_refill() -> None:
    row = charge(NEW, LOW, START, times=10)
    assert assess(row, LOW, START + seconds(20)) == Cooling(until=START + seconds(60), wait=seconds(40), why=Why.BUDGET)
    assert isinstance(assess(row, LOW, START + seconds(59.9)), Cooling)
    row = charge(row, LOW, START + seconds(60))
    assert isinstance(assess(row, LOW, START + seconds(60)), Cooling)  # one came back, not ten
    charge(row, LOW, START + seconds(180), times=2)


def test_low_saves_up_no_more_than_its_budget() -> None:
    row = charge(NEW, LOW, START)
    row = charge(row, LOW, START + timedelta(hours=5), times=10)
    assert isinstance(assess(row, LOW, START + timedelta(hours=5)), Cooling)


def test_low_saves_up_nothing_while_its_budget_is_full() -> None:
    row = replace(charge(NEW, LOW, START), spent=0)  # the first one was given back
    later = START + timedelta(hours=5)
    assert isinstance(assess(charge(row, LOW, later, times=10), LOW, later), Cooling)


def test_low_keeps_the_part_of_a_minute_that_has_passed() -> None:
    row = charge(NEW, LOW, START, times=10)
    row = charge(row, LOW, START + seconds(90))  # refilled at 60
    verdict = assess(row, LOW, START + seconds(91))
    assert isinstance(verdict, Cooling)
    assert verdict.until == START + seconds(120)


def test_low_never_locks() -> None:
    row = charge(NEW, LOW, START, times=10)
    assert {type(assess(row, LOW, START)) for _ in range(100)} == {Cooling}


# --- elevated: 5; COOLING after each attempt from the 2nd, 10 s doubling


def test_elevated_cools_after_each_attempt_from_the_second() -> None:
    row, now, waits = NEW, START, []
    for _ in range(4):
        row = charge(row, ELEVATED, now)
        verdict = assess(row, ELEVATED, now)
        wait = verdict.wait if isinstance(verdict, Cooling) else seconds(0)
        waits.append(wait.total_seconds())
        now += wait
    assert waits == [0, 10, 20, 40]


def exhausted_elevated(start: datetime, row: GuardRow = NEW) -> GuardRow:
    return charge(row, ELEVATED, start, times=5, apart=80)


def test_elevated_locks_at_the_first_request_after_exhaustion_even_while_cooling() -> None:
    row = exhausted_elevated(START)
    now = START + seconds(4 * 80 + 1)
    verdict = assess(row, ELEVATED, now)
    assert isinstance(verdict, LockNow)
    assert (verdict.row.state, verdict.until) == (GuardState.LOCKED, now + timedelta(hours=1))


def test_elevated_is_restored_when_its_lock_ends() -> None:
    verdict = assess(exhausted_elevated(START), ELEVATED, START + timedelta(minutes=10))
    assert isinstance(verdict, LockNow)
    assert assess(verdict.row, ELEVATED, verdict.until - seconds(1)) == Locked(until=verdict.until)
    again = charge(verdict.row, ELEVATED, verdict.until)
    assert (again.spent, again.admitted, again.state) == (1, 6, GuardState.OPEN)


@pytest.mark.parametrize(("hours", "expected"), [(2, HoldNow), (24, HoldNow), (24.1, LockNow)])
def test_the_second_lock_in_24_hours_holds(hours: float, expected: type) -> None:
    first = START + timedelta(minutes=10)
    verdict = assess(exhausted_elevated(START), ELEVATED, first)
    assert isinstance(verdict, LockNow)
    second = first + timedelta(hours=hours)
    row = exhausted_elevated(second - timedelta(minutes=10), verdict.row)
    assert type(assess(row, ELEVATED, second)) is expected


# --- high: 3, no refill, no reset on success; HELD by any request after its lock


def test_high_locks_at_the_fourth_request_and_holds_at_the_fifth() -> None:
    row = charge(NEW, HIGH, START, times=3)
    locked = assess(row, HIGH, START)
    assert isinstance(locked, LockNow)
    held = assess(locked.row, HIGH, START + seconds(1))
    assert isinstance(held, HoldNow)
    assert assess(held.row, HIGH, START + timedelta(days=365)) == Held()


def test_high_stays_empty_when_its_lock_ends() -> None:
    locked = assess(charge(NEW, HIGH, START, times=3), HIGH, START)
    assert isinstance(locked, LockNow)
    assert isinstance(assess(locked.row, HIGH, START + timedelta(days=30)), HoldNow)


def test_success_resets_no_budget() -> None:
    row = after_success(charge(NEW, HIGH, START, times=3))
    assert isinstance(assess(row, HIGH, START), LockNow)


# --- the second count, and failures


def test_failures_cool_down_twice_as_long_each_time_up_to_five_minutes() -> None:
    row, waits = NEW, []
    for _ in range(7):
        row = after_failure(row, HIGH, START)
        waits.append(row.cool.total_seconds())
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert assess(row, HIGH, START) == Cooling(until=START + seconds(300), wait=seconds(300), why=Why.FAILURE)
    assert after_failure(after_success(row), HIGH, START).cool == seconds(10)


def test_the_ceiling_refuses_for_good_tells_once_and_holds_nobody() -> None:
    row, now = NEW, START
    for _ in range(HIGH.ceiling):  # each mint fails definitely and is given back
        row = charge(row, HIGH, now)
        row = after_failure(replace(row, spent=row.spent - 1), HIGH, now)
        now += timedelta(minutes=5)
    first = assess(row, HIGH, now)
    assert isinstance(first, Ceiling)
    assert first.row is not None
    assert assess(first.row, HIGH, now + timedelta(days=30)) == Ceiling(row=None)
    assert first.row.state is not GuardState.HELD


def test_a_budget_emptied_by_doubtful_mints_cools_and_locks_nobody() -> None:
    row = after_failure(charge(NEW, HIGH, START, times=3), HIGH, START)
    later = START + timedelta(hours=1)
    verdict = assess(row, HIGH, later)
    assert isinstance(verdict, Cooling)
    assert (verdict.why, verdict.wait) == (Why.BUDGET, seconds(10))
    assert isinstance(assess(replace(row, spent=2), HIGH, later), Admitted)  # one was proven void
    assert isinstance(assess(after_success(row), HIGH, later), LockNow)


def test_a_failure_that_settles_late_opens_no_lock() -> None:
    locked = assess(charge(NEW, HIGH, START, times=3), HIGH, START)
    assert isinstance(locked, LockNow)
    row = after_failure(locked.row, HIGH, START + seconds(5))
    assert (row.state, row.until) == (GuardState.LOCKED, locked.until)
    assert isinstance(assess(row, HIGH, START + seconds(5)), HoldNow)


def test_a_failure_shortens_no_cool_down() -> None:
    row = charge(NEW, ELEVATED, START, times=4, apart=80)  # cools for 40 s
    cooling = assess(row, ELEVATED, START + seconds(240))
    assert isinstance(cooling, Cooling)
    assert after_failure(row, ELEVATED, START + seconds(240)).until == cooling.until


# --- the rolling hour


def hour(row: GuardRow, now: datetime, charges: int, rules: TierRules = HIGH) -> object:
    return assess_hour(row, rules, now, frees_at=None if charges < rules.hourly else now + seconds(7))


def test_an_hour_with_room_admits() -> None:
    assert isinstance(hour(NEW, START, 11), Admitted)


@pytest.mark.parametrize(("rules", "charges"), [(LOW, 240), (ELEVATED, 60)])
def test_a_full_hour_of_a_lower_tier_cools_and_counts_nothing(rules: TierRules, charges: int) -> None:
    assert hour(NEW, START, charges, rules) == Cooling(until=START + seconds(7), wait=seconds(7), why=Why.HOUR)


def exhaust(row: GuardRow, *hours: float) -> GuardRow:
    for at in hours:
        verdict = hour(row, START + timedelta(hours=at), 12)
        assert isinstance(verdict, Cooling)
        row = verdict.row or row
    return row


def test_the_third_exhaustion_of_a_high_hour_in_24_hours_holds() -> None:
    row = exhaust(NEW, 0, 0.2, 0.9, 1, 1.5)  # counted at 0 and 1: at most one an hour
    assert len(row.hour_exhausted_at) == 2
    held = hour(row, START + timedelta(hours=24), 12)
    assert isinstance(held, HoldNow)
    assert hour(held.row, START + timedelta(days=9), 0) == Held()


def test_exhaustions_older_than_24_hours_are_forgotten() -> None:
    row = exhaust(NEW, 0, 1)
    assert isinstance(hour(row, START + timedelta(hours=24.1), 12), Cooling)


def test_an_hour_filled_by_an_outage_is_no_exhaustion() -> None:
    row = exhaust(replace(NEW, failures=1), 0, 1, 2, 3, 4)
    assert row.hour_exhausted_at == ()


# --- time


@pytest.mark.parametrize("back", [seconds(1), timedelta(days=1)])
def test_a_clock_set_back_opens_no_lock_and_refills_nothing(back: timedelta) -> None:
    locked = assess(exhausted_elevated(START), ELEVATED, START + timedelta(minutes=10))
    assert isinstance(locked, LockNow)
    assert isinstance(assess(locked.row, ELEVATED, START - back), Locked)
    empty = charge(NEW, LOW, START, times=10)
    assert isinstance(assess(empty, LOW, START - back), Cooling)
    charge(charge(NEW, LOW, START, times=5), LOW, START - back, times=5)  # what is left is left
