"""Over any sequence of events, with a clock that is also set back: what is admitted stays within bounds (I4)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.guard.tiers import DEFAULT_RULES
from broker.guard.verdicts import Admitted, Held, HoldNow, LockNow
from broker.model import Tier
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

    @property
    def true(self) -> float:
        return self.world.clock.monotonic()

    @rule(seconds=SPANS)
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, HOUR, DAY]))
    def set_clock_back(self, seconds: float) -> None:
        self.world.clock.set_wall(self.world.clock.now() - timedelta(seconds=seconds))

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
            self.mints.append(Mint(run, self.world.last_lease, self.true))
        elif isinstance(verdict, LockNow):
            locks.append(self.true)
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


TestGuarded = Guarded.TestCase
TestGuarded.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
