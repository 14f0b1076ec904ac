"""What a new map gives no more dies: at once, or after the grace of its tier; what it still gives stays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.config import Grace
from broker.errors import Reason, StoreError
from broker.leases import policy_sweep
from broker.leases.committing import Commit
from broker.model import EndReason, Evidence, LeaseState
from broker.store.base import Tx
from tests.fakes.world import MAP, World, agent, refusal

NOTHING = MAP.replace("scopes: [plain, elevated, danger, timed]", "scopes: [timed]")
DENIED = MAP + "denies:\n  stop: {scopes: [plain]}\n"
GRACE = Grace()


async def load(broker: World, text: str) -> None:
    put(broker.map_file, text)
    assert await broker.policies.reload()
    await turns()


def put(path: Path, text: str) -> None:
    path.write_text(text)


async def turns(count: int = 60) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def passes(broker: World, handle: str, seconds: float, held: list[str]) -> None:
    """Time, for a step whose agent beats."""
    while seconds > 0:
        part = min(seconds, 20.0)
        await broker.engine.heartbeat(agent(), handle, held)
        await broker.fake_clock.run(part)
        await turns()
        seconds -= part


async def state_of(broker: World, lease_id: str) -> tuple[LeaseState, EndReason | None]:
    row = await broker.lease(lease_id)
    return row.state, row.end_reason


STAYS = (LeaseState.ACTIVE, None)
GONE = (LeaseState.REVOKED, EndReason.POLICY_CHANGED)


async def test_each_tier_has_its_grace(broker: World) -> None:
    opened = await broker.begin(["plain", "elevated", "danger", "timed"])
    low, elevated, high, kept = [
        (await broker.issue(opened.handle, scope)).lease.id for scope in ("plain", "elevated", "danger", "timed")
    ]
    held = [low, elevated, high, kept]
    await passes(broker, opened.handle, 1, held)
    await load(broker, NOTHING)
    await broker.until(lambda: is_gone(broker, high))
    assert await state_of(broker, low) == await state_of(broker, elevated) == STAYS
    await passes(broker, opened.handle, GRACE.elevated.total_seconds() - 2, held)
    assert await state_of(broker, elevated) == STAYS
    await passes(broker, opened.handle, 3, held)
    await broker.until(lambda: is_gone(broker, elevated))
    assert await state_of(broker, low) == STAYS
    await passes(broker, opened.handle, (GRACE.low - GRACE.elevated).total_seconds(), held)
    await broker.until(lambda: is_gone(broker, low))
    assert await state_of(broker, kept) == STAYS
    assert broker.backend.alive == {kept}


async def is_gone(broker: World, lease_id: str) -> bool:
    broker.core.lane.set()
    await turns(5)
    return await state_of(broker, lease_id) == GONE


async def test_what_a_later_map_gives_again_within_the_grace_stays(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    await load(broker, NOTHING)
    await passes(broker, opened.handle, 200, [lease])
    await load(broker, MAP)
    await passes(broker, opened.handle, 200, [lease])
    assert await state_of(broker, lease) == STAYS
    await load(broker, NOTHING)  # and its grace is a new one
    await passes(broker, opened.handle, 100, [lease])
    assert await state_of(broker, lease) == STAYS


async def test_a_further_map_without_the_grant_begins_no_new_grace(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    await load(broker, NOTHING)
    await passes(broker, opened.handle, 200, [lease])
    await load(broker, NOTHING + "# again\n")
    await passes(broker, opened.handle, 101, [lease])
    await broker.until(lambda: is_gone(broker, lease))


async def test_a_map_of_the_last_moment_saves_what_it_gives(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopted while those whose grace is over are ended, some at a time."""
    monkeypatch.setattr(policy_sweep, "PAGE", 1)
    opened = await broker.begin()
    first, second = [(await broker.issue(opened.handle)).lease.id for _ in range(2)]
    withdraw = policy_sweep.PolicySweep._withdraw

    async def then_given(self: policy_sweep.PolicySweep, lease_ids: Any, policy: Any) -> bool:
        done = await withdraw(self, lease_ids, policy)
        put(broker.map_file, MAP)
        await broker.policies.reload()
        return done

    await load(broker, NOTHING)
    monkeypatch.setattr(policy_sweep.PolicySweep, "_withdraw", then_given)
    await passes(broker, opened.handle, GRACE.low.total_seconds() + 2, [first, second])
    await broker.until(lambda: is_gone(broker, first))
    await passes(broker, opened.handle, 30, [second])
    assert await state_of(broker, second) == STAYS


async def test_a_deny_rule_waits_for_no_grace(broker: World) -> None:
    opened = await broker.begin(["plain", "elevated"])
    denied, other = [(await broker.issue(opened.handle, scope)).lease.id for scope in ("plain", "elevated")]
    await load(broker, DENIED)
    await broker.until(lambda: is_gone(broker, denied))
    assert await state_of(broker, other) == STAYS


@pytest.mark.parametrize(
    "change",
    [
        ("scopes: [plain, elevated, danger, timed]", "scopes: [elevated, danger, timed]"),
        ("load: {id: ", 'load: {id: "spiffe://dev.local/elsewhere"}\n  was: {id: '),
        ("spiffe://dev.local/workflow/{workflow}/step/load", "spiffe://dev.local/elsewhere"),
        ("spiffe://dev.local/workflow/{workflow}/step/load", "spiffe://dev.local/{step}/nightly/step/load"),
    ],
    ids=["no grant", "another workload", "no workload", "another claim"],
)
async def test_a_deny_rule_waits_for_no_grace_when_the_grant_goes_with_it(
    broker: World, change: tuple[str, str]
) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    assert change[0] in DENIED
    await load(broker, DENIED.replace(*change, 1))
    await broker.until(lambda: is_gone(broker, lease))


async def test_no_deny_rule_speaks_of_a_scope_that_went(broker: World) -> None:
    """It has the grace of any other."""
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    await load(broker, DENIED.replace("  plain: {", "  renamed: {").replace("[plain", "[renamed"))
    await turns()
    assert await state_of(broker, lease) == STAYS
    await passes(broker, opened.handle, GRACE.low.total_seconds() + 2, [lease])
    await broker.until(lambda: is_gone(broker, lease))


@pytest.mark.parametrize(
    "change",
    [
        ("plain: {fake: {role: plain}, ttl: 10m, max_ttl: 1h, tier: low}", "plain: {fake: {role: x}, tier: low}"),
        ("ttl: 10m, max_ttl: 1h, tier: low", "ttl: 10m, max_ttl: 1h, tier: high"),
        ("ttl: 10m, max_ttl: 1h, tier: low", "ttl: 5m, tier: low"),
        ("plain: {fake: {role: plain}", "plain: {timed: {role: plain}"),
        ("load: {id: ", 'load: {id: "spiffe://dev.local/elsewhere"}\n  was: {id: '),
        ("workflows: [nightly], scopes: [plain, elevated", "workflows: [hourly], scopes: [plain, elevated"),
    ],
    ids=["params", "tier", "ttl", "provider", "workload", "workflow"],
)
async def test_whatever_would_not_be_minted_so_today_goes(broker: World, change: tuple[str, str]) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    assert change[0] in MAP
    await load(broker, MAP.replace(*change, 1))
    await passes(broker, opened.handle, GRACE.low.total_seconds() + 2, [lease])
    await broker.until(lambda: is_gone(broker, lease))


async def test_a_longer_ttl_and_new_names_end_nothing(broker: World) -> None:
    opened = await broker.begin(["plain", "danger"])
    leases = [(await broker.issue(opened.handle, scope)).lease.id for scope in ("plain", "danger")]
    await load(broker, MAP.replace("ttl: 10m", "ttl: 20m").replace("nightly: {", "daily: {"))
    await passes(broker, opened.handle, 400, leases)
    assert [await state_of(broker, lease) for lease in leases] == [STAYS, STAYS]


async def test_a_grant_that_went_while_the_broker_was_down_is_noticed_at_start(broker: World) -> None:
    opened = await broker.begin(["plain", "danger"])
    low, high = [(await broker.issue(opened.handle, scope)).lease.id for scope in ("plain", "danger")]
    await broker.engine.heartbeat(agent(), opened.handle, [low, high])
    await broker.crash()
    put(broker.map_file, NOTHING)
    await broker.start()
    await broker.until(lambda: is_gone(broker, high))
    assert await state_of(broker, low) == STAYS
    await passes(broker, opened.handle, GRACE.low.total_seconds() + 2, [low])
    await broker.until(lambda: is_gone(broker, low))


async def test_a_crash_in_the_grace_begins_it_anew(broker: World) -> None:
    opened = await broker.begin()
    lease = (await broker.issue(opened.handle)).lease.id
    await load(broker, NOTHING)
    await passes(broker, opened.handle, 200, [lease])
    await broker.crash()
    await broker.start()
    await passes(broker, opened.handle, 280, [lease])
    assert await state_of(broker, lease) == STAYS
    await passes(broker, opened.handle, 22, [lease])
    await broker.until(lambda: is_gone(broker, lease))


# --- what is being minted


async def in_flight(broker: World, scope: str) -> asyncio.Task[Any]:
    """A mint that has landed and is not yet answered."""
    opened = await broker.begin([scope])
    broker.provider.after_landing.clear()
    caller = asyncio.create_task(broker.issue(opened.handle, scope))
    await broker.provider.landed.wait()
    return caller


@pytest.mark.parametrize("scope", ["plain", "danger"])
async def test_a_mint_in_flight_whose_grant_goes_is_doomed_at_once_and_never_delivered(
    broker: World, scope: str
) -> None:
    caller = await in_flight(broker, scope)
    await load(broker, NOTHING)
    await broker.until(lambda: is_doomed(broker))
    put(broker.map_file, MAP)  # nor when it is given again in time: the wish to end it stands
    await broker.policies.reload()
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)
    [row] = await broker.leases()
    assert (row.state, row.end_reason, row.evidence) == (
        LeaseState.REVOKED,
        EndReason.POLICY_CHANGED,
        Evidence.SEEN_DEAD,
    )


async def is_doomed(broker: World) -> bool:
    [row] = await broker.leases()
    return row.doomed_at is not None


async def test_the_commit_alone_delivers_nothing_whose_grant_went(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the sweep has not come round yet."""
    monkeypatch.setattr(policy_sweep.PolicySweep, "step", idle)
    caller = await in_flight(broker, "plain")
    await load(broker, NOTHING)
    assert not await is_doomed(broker)
    broker.provider.after_landing.set()
    assert (await refusal(caller)).reason is Reason.ACCESS_DENIED
    await broker.until(broker.nothing_alive)


async def test_mutant_without_a_second_decision_at_commit_it_would_be_delivered(
    broker: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_sweep.PolicySweep, "step", idle)
    monkeypatch.setattr(Commit, "_must_not_live", lambda *_, **__: None)
    caller = await in_flight(broker, "plain")
    await load(broker, NOTHING)
    broker.provider.after_landing.set()
    assert (await caller).lease.id in broker.backend.alive


async def idle(sweep: policy_sweep.PolicySweep) -> None:
    sweep._core.policies.adopted.clear()


async def test_a_mint_in_doubt_is_doomed_at_once_too(broker: World) -> None:
    opened = await broker.begin()
    broker.provider.fail = "lose-answer"
    await refusal(broker.issue(opened.handle))
    await load(broker, NOTHING)
    await broker.until(lambda: is_doomed(broker))


# --- many, and bad luck


async def test_high_goes_first_and_pages_are_small(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_sweep, "PAGE", 2)
    broker.core.policies.adopted.clear()
    lows: list[str] = []
    for run in range(3):
        opened = await broker.begin(["plain", "danger"], run=f"r{run}")
        lows += [(await broker.issue(opened.handle)).lease.id for _ in range(2)]
    high = (await broker.issue(opened.handle, "danger")).lease.id
    writes: list[list[str]] = []
    withdraw = policy_sweep.PolicySweep._withdraw

    async def seen(self: policy_sweep.PolicySweep, lease_ids: Any, policy: Any) -> bool:
        writes.append(lease_ids)
        return await withdraw(self, lease_ids, policy)

    monkeypatch.setattr(policy_sweep.PolicySweep, "_withdraw", seen)
    object.__setattr__(broker.core, "grace", Grace(low=timedelta(0)))
    await load(broker, NOTHING)
    await broker.until(broker.nothing_alive)
    assert writes[0] == [high]
    assert [lease for page in writes[1:] for lease in page] == lows
    assert max(map(len, writes)) == 2


async def test_a_map_that_comes_in_between_decides(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look and the write another map is in force: by its word, not by the older one's."""
    opened = await broker.begin(["danger"])
    lease = (await broker.issue(opened.handle, "danger")).lease.id
    read = broker.store.read

    async def late(operation: Callable[[Tx], Any], **how: Any) -> Any:
        found = await read(operation, **how)
        if "_ask_page" in operation.__qualname__ and found[0]:
            put(broker.map_file, MAP)
            await broker.policies.reload()
        return found

    monkeypatch.setattr(broker.store, "read", late)
    await load(broker, NOTHING)
    await broker.until(lambda: is_generation(broker, 3))
    await passes(broker, opened.handle, 5, [lease])
    assert await state_of(broker, lease) == STAYS


async def is_generation(broker: World, generation: int) -> bool:
    return broker.policies.generation == generation


async def test_a_disk_that_says_no_is_asked_again(broker: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = await broker.begin(["danger"])
    lease = (await broker.issue(opened.handle, "danger")).lease.id
    write, refused = broker.store.write, asyncio.Event()

    async def full(operation: Callable[[Tx], Any], **how: Any) -> Any:
        if "_withdraw" in operation.__qualname__ and not refused.is_set():
            refused.set()
            raise StoreError("the disk is full")
        return await write(operation, **how)

    monkeypatch.setattr(broker.store, "write", full)
    await load(broker, NOTHING)
    await refused.wait()
    assert await state_of(broker, lease) == STAYS
    await passes(broker, opened.handle, 3, [lease])
    await broker.until(lambda: is_gone(broker, lease))
