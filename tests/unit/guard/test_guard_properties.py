"""Over any sequence of events, with a clock that is set and a machine that restarts: what is admitted stays within bounds (I4)."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from broker.clock import Moment
from broker.guard.tiers import DEFAULT_RULES
from broker.guard.verdicts import Admitted, Cooling, Held, HoldNow, Locked, LockNow, Why
from broker.model import Tier
from broker.store.base import Tx
from tests.fakes.clock import START
from tests.unit.guard.world import World, asking

HOUR, DAY = 3600.0, 86400.0
SPANS = st.sampled_from([0.0, 0.5, 1.0, 10.0, 59.0, 60.0, 300.0, 1800.0, 3599.0, 3600.0, 3601.0, DAY])
RUNS = st.sampled_from(["r1", "r2", "r3", "r4"])


@dataclass
class Mint:
    run: str
    lease: str
    at: float  # true time, which no clock setting moves
    open: bool = True  # not settled
    returned: bool = False


class Guarded(RuleBasedStateMachine):
    @initialize(tier=st.sampled_from(Tier), hourly=st.sampled_from([4, 12, 240]))
    def start(self, tier: Tier, hourly: int) -> None:
        self.tier = tier
        self.tier_rules = replace(DEFAULT_RULES[tier], hourly=hourly)
        self.world = World({tier: self.tier_rules})
        self.mints: list[Mint] = []
        self.locked_at: dict[str, list[float]] = {}
        self.held: set[str] = set()
        self.not_before: dict[str, float] = {}  # ends of cool-downs that nothing shortens, in true time

    @property
    def true(self) -> float:
        return self.world.clock.monotonic()

    @rule(seconds=SPANS)
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, HOUR, DAY, 400 * DAY]), sign=st.sampled_from([-1, 1]))
    def set_clock(self, seconds: float, sign: int) -> None:
        self.world.clock.set_wall(self.world.clock.now() + timedelta(seconds=sign * seconds))

    @rule(seconds=SPANS)
    def reboot(self, seconds: float) -> None:
        self.world.renew()
        self.world.clock.advance(seconds)  # off
        self.world.clock.reboot()
        self.world.renew()

    @rule(run=RUNS, times=st.integers(1, 12))
    def ask(self, run: str, times: int) -> None:
        for _ in range(times):
            self._ask(run)

    def _ask(self, run: str) -> None:
        ask = asking(self.tier, run=run)
        locks = self.locked_at.setdefault(run, [])
        verdict = self.world.ask(ask)
        if isinstance(verdict, Admitted):
            assert run not in self.held
            assert all(self.true >= at + HOUR for at in locks)  # no lock reopens early
            assert self.true >= self.not_before.get(run, 0.0)
            self.mints.append(Mint(run, self.world.last_lease, self.true))
        elif isinstance(verdict, LockNow):
            locks.append(self.true)
        elif isinstance(verdict, Locked):
            assert self.true < locks[-1] + HOUR  # nor late
        elif isinstance(verdict, Cooling) and verdict.why in (Why.ATTEMPT, Why.FAILURE):
            self.not_before[run] = max(self.true + verdict.wait.total_seconds(), self.not_before.get(run, 0.0))
        elif isinstance(verdict, HoldNow):
            self.held |= {run} if verdict.row.key == ask.key else {"r1", "r2", "r3", "r4"}
        elif run in self.held:
            assert isinstance(verdict, Held)

    @rule(which=st.integers(0, 50), outcome=st.sampled_from(["succeeds", "in doubt", "void", "late void"]))
    def settle(self, which: int, outcome: str) -> None:
        mints = [mint for mint in self.mints if (mint.open or outcome == "late void") and not mint.returned]
        if not mints:
            return
        mint = mints[which % len(mints)]
        mint.open = False
        key = asking(self.tier, run=mint.run).key
        if outcome == "succeeds":
            self.world.succeed(key)
        if outcome in ("void", "late void"):
            mint.returned = self.world.void(mint.lease, key)
            assert mint.returned
        if outcome in ("in doubt", "void"):
            self.world.fail(key)

    @invariant()
    def the_budget_holds(self) -> None:
        for run in {mint.run for mint in self.mints}:
            mints = [mint for mint in self.mints if mint.run == run]
            may_exist = sum(not mint.returned for mint in mints)
            refilled = 0
            if self.tier_rules.refill is not None:
                refilled = int((self.true - mints[0].at) // self.tier_rules.refill.total_seconds())
            restored = len(self.locked_at[run]) if self.tier is Tier.ELEVATED else 0
            assert may_exist <= self.tier_rules.budget * (1 + restored) + refilled
            assert len(mints) <= self.tier_rules.ceiling

    @invariant()
    def every_rolling_hour_holds(self) -> None:
        times = [mint.at for mint in self.mints if not mint.returned]
        for end in times:
            assert sum(end - HOUR < at <= end for at in times) <= self.tier_rules.hourly


@dataclass
class Backup:
    state: Any
    known: dict[str, Any]  # of what was true when it was made
    boot: str
    ahead: timedelta


class Restored(Guarded):
    """A database that is put back from a backup of this boot or of an older one, under a wall clock that is right or was set.

    What it has forgotten nobody can count: `recover` finds it, and it is not counted here either.
    """

    backup: Backup | None = None

    @property
    def ahead(self) -> timedelta:
        """The wall clock, of true time."""
        return self.world.clock.now() - START - timedelta(seconds=self.true)

    @rule()
    def back_up(self) -> None:
        self.world.renew()
        known = {name: deepcopy(getattr(self, name)) for name in ("mints", "locked_at", "held", "not_before")}
        state = self.world._state.copy()
        self.backup = Backup(state, known, self.world.clock.moment().boot_id, self.ahead)

    @precondition(lambda self: self.backup is not None)
    @rule()
    def restore(self) -> None:
        kept, clock = self.backup, self.world.clock
        assert kept is not None
        if clock.moment().boot_id != kept.boot and self.ahead > kept.ahead:
            clock.set_wall(clock.now() - (self.ahead - kept.ahead))  # else it is believed: see test_guard
        self.world._state = kept.state.copy()
        vars(self).update(deepcopy(kept.known))
        self.world.renew()  # the epoch that serves from it


def by_the_wall(_tx: Tx, now: Moment) -> datetime:
    return now.wall


def a_clock_set_forward_is_believed(tx: Tx, now: Moment) -> datetime:
    kept = tx.guard_clock()
    return now.wall if kept is None else max(now.wall, kept.at)


@pytest.mark.parametrize("mutant", [by_the_wall, a_clock_set_forward_is_believed])
def test_mutant_that_goes_by_the_wall_clock_is_found(
    monkeypatch: pytest.MonkeyPatch, mutant: Callable[[Tx, Moment], datetime]
) -> None:
    monkeypatch.setattr("broker.guard.guard.guard_time", mutant)
    finds(Guarded)


@pytest.mark.parametrize("kept", [True, False])
def test_mutant_that_begins_its_clock_anew_after_a_restore_is_found(*, kept: bool) -> None:
    machine = Restored()
    machine.start(Tier.LOW, 4)
    machine.ask("r1", 4)
    machine.back_up()
    machine.set_clock(DAY, 1)
    assert machine.backup is not None
    if not kept:
        machine.backup.state.guard_clock = []
    machine.restore()
    machine.ask("r1", 1)
    if kept:
        machine.every_rolling_hour_holds()
    else:
        with pytest.raises(AssertionError):
            machine.every_rolling_hour_holds()


def finds(machine: type[RuleBasedStateMachine]) -> None:
    quick = settings(
        max_examples=500,
        stateful_step_count=40,
        deadline=None,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=quick)


TestGuarded = Guarded.TestCase
TestGuarded.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRestored = Restored.TestCase
TestRestored.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
