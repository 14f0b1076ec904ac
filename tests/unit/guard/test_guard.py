from dataclasses import replace
from datetime import timedelta

import pytest

from broker.errors import StoreError
from broker.guard.guard import Guard
from broker.guard.tiers import DEFAULT_RULES
from broker.guard.timing import guard_time, keep_time
from broker.guard.verdicts import Admitted, Cooling, Held, HoldNow, Locked, LockNow, Why
from broker.model import Tier
from broker.store.base import Tx
from broker.store.guard import GuardState
from tests.fakes.clock import START, FakeClock
from tests.fakes.memory_store import MemoryStore
from tests.unit.guard.world import World, asking

HOUR = 3600.0
DAY = 24 * HOUR


def admitted(world: World, times: int, tier: Tier = Tier.HIGH) -> None:
    """Each in a run of its own."""
    for n in range(times):
        assert isinstance(world.ask(asking(tier, run=f"run-{world.clock.monotonic()}-{n}")), Admitted)


def test_i4_a_runaway_step_gets_its_budget_once_and_is_then_locked_and_held() -> None:
    world, ask = World(), asking(Tier.HIGH)
    verdicts = [type(world.ask(ask)) for _ in range(10_000)]
    assert verdicts[:5] == [Admitted, Admitted, Admitted, LockNow, HoldNow]
    assert set(verdicts[5:]) == {Held}


def test_a_runaway_elevated_step_is_held_at_its_second_lock() -> None:
    world, ask, seen = World(), asking(Tier.ELEVATED), []
    for _ in range(4 * 3600):  # asks every second for four hours
        seen.append(type(world.ask(ask)))
        world.clock.advance(1)
    assert (seen.count(Admitted), seen.count(LockNow), seen.count(HoldNow)) == (10, 1, 1)
    assert Locked in seen


def test_new_run_ids_get_at_most_the_hourly_limit_and_are_held_within_36() -> None:
    world, when, verdicts = World(), [], []
    for minute in range(7 * 24 * 60):  # a week
        for burst in range(2):
            verdict = world.ask(asking(Tier.HIGH, run=f"run-{minute}-{burst}"))
            verdicts.append(type(verdict))
            if isinstance(verdict, Admitted):
                when.append(minute)
        world.clock.advance(60)
    assert len(when) <= 36
    assert max(sum(start <= at < start + 60 for at in when) for start in when) <= 12
    assert verdicts.count(HoldNow) == 1
    assert set(verdicts[verdicts.index(HoldNow) + 1 :]) == {Held}


def test_other_names_for_the_step_share_the_hour_and_another_workload_does_not() -> None:
    world = World()
    for n in range(12):
        assert isinstance(world.ask(asking(workflow=f"w{n}", step=f"s{n}", captures={"run": f"r{n}"})), Admitted)
    assert isinstance(world.ask(asking(workflow="w", step="s")), Cooling)
    assert isinstance(world.ask(asking(workload="other")), Admitted)
    assert isinstance(world.ask(asking(captures={"team": "b"})), Admitted)


def test_the_hour_says_when_it_lets_one_through_and_keeps_its_word() -> None:
    world = World()
    admitted(world, 2)
    world.clock.advance(600)
    admitted(world, 10)
    verdict = world.ask(asking(run="one more"))
    assert isinstance(verdict, Cooling)
    assert (verdict.why, verdict.wait.total_seconds()) == (Why.HOUR, 3001)
    world.clock.advance(3000)  # exactly an hour: what happened then still counts
    assert isinstance(world.look(asking(run="one more")), Cooling)
    world.clock.advance(1)
    admitted(world, 2)
    assert isinstance(world.ask(asking(run="again")), Cooling)


def test_a_charge_is_given_back_once_and_only_what_was_charged() -> None:
    world, ask = World(), asking(Tier.HIGH)
    leases = []
    for _ in range(3):
        world.ask(ask)
        leases.append(world.last_lease)
    assert world.void("a successor's lease", ask.key) is False
    assert world.void(leases[0], ask.key) is True
    assert world.void(leases[0], ask.key) is False
    assert isinstance(world.ask(ask), Admitted)
    assert isinstance(world.ask(ask), LockNow)


def test_what_a_lock_restored_cannot_be_given_back_as_well() -> None:
    world, ask, leases = World(), asking(Tier.ELEVATED), []
    for _ in range(6):
        world.ask(ask)
        leases.append(world.last_lease)
        world.clock.advance(90)
    world.clock.advance(HOUR)
    assert isinstance(world.ask(ask), Admitted)
    assert [world.void(lease, ask.key) for lease in leases] == [True] * 5 + [False]
    verdicts = []
    for _ in range(6):
        verdicts.append(type(world.ask(ask)))
        world.clock.advance(90)
    assert verdicts == [Admitted] * 5 + [HoldNow]


def test_a_held_workload_is_refused_before_its_steps_are_touched() -> None:
    world, ask = World(), asking(run="quiet")
    for _ in range(3):
        world.ask(ask)
    for n in range(3):
        admitted(world, 12 if n else 9)
        world.ask(asking(run="one more"))
        world.clock.advance(HOUR + 1)
    assert isinstance(world.ask(ask), Held)  # by its own budget alone it would lock
    row = world.row(ask.key)
    assert row is not None
    assert row.state is GuardState.OPEN


def test_what_is_given_back_leaves_the_hour_too() -> None:
    world = World()
    admitted(world, 11)
    last = asking(run="last")
    world.ask(last)
    assert isinstance(world.look(asking(run="next")), Cooling)
    world.void(world.last_lease, last.key)
    assert isinstance(world.ask(asking(run="next")), Admitted)


def test_giving_back_opens_no_lock() -> None:
    world, ask = World(), asking(Tier.HIGH)
    world.ask(ask)
    lease = world.last_lease
    for _ in range(3):
        world.ask(ask)
    world.void(lease, ask.key)
    assert isinstance(world.ask(ask), HoldNow)


def test_a_long_provider_outage_locks_and_holds_nobody() -> None:
    world = World()
    asks = [asking(Tier.HIGH, run=f"r{n}") for n in range(50)]
    doubtful, seen = [], set()
    for _ in range(5 * 60):  # five hours; each minute all 50 ask, and each mint's outcome stays unknown
        for ask in asks:
            verdict = world.ask(ask)
            seen.add(type(verdict))
            if isinstance(verdict, Admitted):
                doubtful.append((world.last_lease, ask.key))
                world.fail(ask.key)
        world.clock.advance(60)
    assert seen == {Admitted, Cooling}
    for lease, key in doubtful:  # the provider is back: nothing had been made
        world.void(lease, key)
    world.clock.advance(300)
    recovered = [world.ask(ask) for ask in asks[:12]]
    assert {type(verdict) for verdict in recovered} == {Admitted}


def test_a_failed_mint_says_when_to_come_back() -> None:
    world, ask = World(), asking(Tier.LOW)
    world.ask(ask)
    assert world.fail(ask.key) == world.clock.now() + timedelta(seconds=10)
    assert isinstance(world.ask(ask), Cooling)
    world.clock.advance(10)
    assert isinstance(world.ask(ask), Admitted)
    assert world.fail(ask.key) == world.clock.now() + timedelta(seconds=20)
    world.succeed(ask.key)
    assert world.fail(ask.key) == world.clock.now() + timedelta(seconds=20)  # the earlier one still runs
    world.clock.advance(20)
    world.succeed(ask.key)
    assert world.fail(ask.key) == world.clock.now() + timedelta(seconds=10)


def test_a_failure_on_a_locked_key_has_no_time_to_come_back() -> None:
    world, ask = World(), asking(Tier.HIGH)
    for _ in range(4):
        world.ask(ask)
    assert world.fail(ask.key) is None


def test_looking_writes_nothing_and_agrees_with_asking() -> None:
    world, ask = World(), asking(Tier.HIGH)
    for _ in range(5):
        before = world.row(ask.key), world.row(ask.hour_key)
        seen = world.look(ask)
        assert (world.row(ask.key), world.row(ask.hour_key)) == before
        assert type(world.ask(ask)) is type(seen)


def test_a_refusal_that_changes_nothing_writes_nothing() -> None:
    world = World()
    admitted(world, 12, Tier.HIGH)
    ask = asking(run="late")
    world.ask(ask)  # counts the exhaustion
    before = world.row(ask.key), world.row(ask.hour_key)
    world.clock.advance(1)
    world.ask(ask)
    assert (world.row(ask.key), world.row(ask.hour_key)) == before
    assert before[0] is None  # a storm of names leaves no rows behind


@pytest.mark.parametrize("which", ["budget", "hour"])
def test_an_operator_resets_a_held_key(which: str) -> None:
    world, ask = World(), asking(Tier.HIGH)
    if which == "budget":
        key = ask.key
        for _ in range(5):
            world.ask(ask)
    else:
        key = ask.hour_key
        for _ in range(3):
            admitted(world, 12)
            world.ask(asking(run="one more"))
            world.clock.advance(HOUR + 1)
    assert isinstance(world.ask(ask), Held)
    assert world.reset(key) is not None
    assert isinstance(world.ask(ask), Admitted)
    assert world.reset("unknown") is None


def test_a_reset_multiplies_no_hour() -> None:
    world = World()
    admitted(world, 12)
    ask = asking(run="one more")
    world.ask(ask)
    world.reset(ask.hour_key)
    assert isinstance(world.ask(ask), Cooling)


def test_a_clock_set_back_and_right_again_widens_no_hour() -> None:
    world = World()
    admitted(world, 1)
    world.clock.set_wall(START - timedelta(hours=2))
    admitted(world, 11)  # without guard time these would be dated two hours ago
    world.clock.set_wall(START + timedelta(seconds=1))
    assert isinstance(world.ask(asking(run="one more")), Cooling)


@pytest.mark.parametrize("days", [-1, 1, 400])
def test_a_moved_clock_neither_opens_nor_prolongs_a_lock(days: int) -> None:
    world, ask = World(), asking(Tier.ELEVATED)
    for _ in range(5):
        assert isinstance(world.ask(ask), Admitted)
        world.clock.advance(90)
    assert isinstance(world.ask(ask), LockNow)
    world.clock.set_wall(world.clock.now() + timedelta(days=days))
    world.clock.advance(HOUR - 1)
    locked = world.ask(ask)
    assert isinstance(locked, Locked)
    assert locked.until == world.clock.now() + timedelta(seconds=1)  # told by the clock on the wall
    world.clock.advance(1)
    assert isinstance(world.ask(ask), Admitted)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_moved_clock_ends_no_cool_down(days: int) -> None:
    world, ask = World(), asking(Tier.LOW)
    world.ask(ask)
    world.fail(ask.key)
    world.clock.set_wall(world.clock.now() + timedelta(days=days))
    world.clock.advance(9)
    cooling = world.ask(ask)
    assert isinstance(cooling, Cooling)
    assert (cooling.wait, cooling.until) == (timedelta(seconds=1), world.clock.now() + timedelta(seconds=1))
    world.clock.advance(1)
    assert isinstance(world.ask(ask), Admitted)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_moved_clock_frees_no_hour_and_refills_nothing(days: int) -> None:
    world = World()
    admitted(world, 12)
    for _ in range(10):
        world.ask(asking(Tier.LOW))
    world.clock.set_wall(world.clock.now() + timedelta(days=days))
    assert isinstance(world.ask(asking(run="one more")), Cooling)
    assert isinstance(world.ask(asking(Tier.LOW)), Cooling)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_moved_clock_forgets_no_lock_of_the_day_before(days: int) -> None:
    world, ask, seen = World(), asking(Tier.ELEVATED), []
    for _ in range(2):
        for _ in range(6):
            seen.append(type(world.ask(ask)))
            world.clock.advance(90)
        world.clock.advance(HOUR)
        world.clock.set_wall(world.clock.now() + timedelta(days=days))
    assert (seen.count(LockNow), seen.count(HoldNow)) == (1, 1)


def test_over_a_reboot_the_wall_clock_counts_and_never_backwards() -> None:
    world = World()
    admitted(world, 12)
    world.clock.set_wall(world.clock.now() - timedelta(days=1))
    world.clock.reboot()
    assert isinstance(world.ask(asking(run="one more")), Cooling)
    world.clock.advance(HOUR + 1)
    admitted(world, 12)
    world.clock.reboot()
    world.clock.advance(HOUR)  # the machine was off
    assert isinstance(world.look(asking(run="one more")), Cooling)
    world.clock.advance(1)
    admitted(world, 1)


@pytest.mark.parametrize("renewed", [True, False])
def test_each_epoch_keeps_the_time_so_that_no_clock_set_before_or_after_a_reboot_is_believed(*, renewed: bool) -> None:
    """`renewed=False` is the mutant."""
    world = World()
    admitted(world, 12)
    for _ in range(2):
        world.clock.set_wall(world.clock.now() + timedelta(days=1))
        if renewed:
            world.renew()
        world.clock.reboot()
        if renewed:
            world.renew()
    world.clock.set_wall(world.clock.now() + timedelta(days=1))
    assert isinstance(world.ask(asking(run="one more")), Cooling if renewed else Admitted)


@pytest.mark.parametrize("tier", Tier)
def test_a_clock_set_forward_while_the_machine_is_off_is_believed_and_gives_one_hour_more(tier: Tier) -> None:
    """The weak point: nothing tells a year that has passed from one that was set. Never more than one of each, and no hold ends."""
    rules = DEFAULT_RULES[tier]
    world, minted = World(), 0
    one = asking(tier, run="one step")
    of_one = 0
    for leaps in range(4):
        of_one += sum(isinstance(world.ask(one), Admitted) for _ in range(50))
        minted = of_one + sum(isinstance(world.ask(asking(tier, run=f"r{leaps}-{n}")), Admitted) for n in range(300))
        assert minted - of_one <= rules.hourly
        assert of_one <= (rules.budget if tier is Tier.HIGH else rules.budget * (leaps + 1))
        world.renew()
        world.clock.set_wall(world.clock.now() + timedelta(days=400))
        world.clock.reboot()
        world.renew()
        world.clock.set_wall(world.clock.now() + timedelta(days=400))  # while it runs: not believed
    if tier is Tier.HIGH:
        assert isinstance(world.ask(one), Held)


def test_an_older_moment_makes_guard_time_no_faster() -> None:
    world = World()
    early = world.clock.moment()
    world.clock.advance(60)
    late = world.clock.moment()
    for _ in range(100):
        world.write(lambda tx: keep_time(tx, late))
        world.write(lambda tx: keep_time(tx, early))
    assert world.write(lambda tx: guard_time(tx, late)) == late.wall


def test_the_tier_of_today_decides() -> None:
    world, ask = World(), asking(Tier.LOW)
    for _ in range(4):
        world.ask(ask)
    raised = replace(ask, tier=Tier.HIGH)
    assert isinstance(world.ask(raised), LockNow)
    row = world.row(ask.key)
    assert row is not None
    assert (row.tier, row.state) == ("high", GuardState.LOCKED)


async def test_a_refusing_transaction_commits_and_a_failing_one_leaves_no_charge() -> None:
    store, guard, clock, ask = MemoryStore(), Guard(), FakeClock(), asking(Tier.HIGH)

    def break_off(tx: Tx) -> None:
        guard.admit(tx, ask, lease_id="a", now=clock.moment())
        raise StoreError("disk full")

    with pytest.raises(StoreError):
        await store.write(break_off)
    assert await store.read(lambda tx: tx.guard_row(ask.key)) is None
    for n in range(4):
        await store.write(lambda tx, n=n: guard.admit(tx, ask, lease_id=f"l{n}", now=clock.moment()))  # type: ignore[misc]  # a bound default
    row = await store.read(lambda tx: tx.guard_row(ask.key))
    assert row is not None
    assert (row.state, row.spent) == (GuardState.LOCKED, 3)
    assert await store.read(lambda tx: tx.count_charges(ask.hour_key, START)) == 3


def test_configured_rules_are_the_ones_that_count() -> None:
    rules = {Tier.HIGH: replace(DEFAULT_RULES[Tier.HIGH], budget=1)}
    world, ask = World(rules), asking(Tier.HIGH)
    assert [type(world.ask(ask)) for _ in range(2)] == [Admitted, LockNow]
