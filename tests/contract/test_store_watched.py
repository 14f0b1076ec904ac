"""What a watcher asks of every store."""

from __future__ import annotations

from datetime import timedelta

from broker.model import EndReason, LeaseState
from broker.store.approvals import ApprovalState
from broker.store.base import Store, Tx
from broker.store.watched import Busy, Usual
from tests.fakes.domain import NOW, after, lease, step
from tests.unit.operators.people import approval

HOUR = 3600


def charge(tx: Tx, number: int, *, hour_key: str, at: float, key: str = "budget") -> None:
    tx.add_charge(lease_id=f"{hour_key}-{number}", key=key, hour_key=hour_key, at=after(at))


async def test_stuck_leases_are_those_that_alarmed_and_old_doubts(store: Store) -> None:
    def operation(tx: Tx) -> None:
        tx.insert_step(step())
        for name, provider in (("a", "vault"), ("b", "vault"), ("c", "aws"), ("d", "vault"), ("e", "vault")):
            tx.insert_lease(lease(name, provider=provider, intent_at=NOW if name != "d" else after(100)))
        for name in ("a", "c", "e"):
            tx.to_revoking(name, at=NOW, reason=EndReason.STEP_ENDED)
        for name in ("b", "d"):
            tx.to_in_doubt(name, at=NOW, problem="no answer")
        for name in ("a", "c"):
            tx.defer(name, next_try_at=NOW, problem="no answer", refs={"alarmed": True})

    await store.write(operation)
    found = await store.read(lambda tx: dict(tx.stuck_leases(after(50))))
    assert found == {
        ("vault", LeaseState.REVOKING): 1,
        ("aws", LeaseState.REVOKING): 1,
        ("vault", LeaseState.IN_DOUBT): 1,
    }
    await store.write(lambda tx: tx.defer("d", next_try_at=NOW, problem="still none", refs={"alarmed": True}))
    found = await store.read(lambda tx: dict(tx.stuck_leases(after(-1))))
    assert found[("vault", LeaseState.IN_DOUBT)] == 1


async def test_approvals_that_wait_come_the_longest_first_and_so_do_those_of_a_clock_that_was_set_back(
    store: Store,
) -> None:
    asked = {"new": 30, "old": 1, "older": 0, "used": 0, "ahead": 99}

    def operation(tx: Tx) -> None:
        for name, at in asked.items():
            state = ApprovalState.DENIED if name == "used" else ApprovalState.PENDING
            tx.insert_approval(approval(id=name, scope=name, requested_at=after(at), state=state))

    async def waiting(limit: int) -> list[str]:
        rows = await store.read(lambda tx: tx.waiting_approvals(before=after(1), now=after(60), limit=limit))
        return [row.id for row in rows]

    await store.write(operation)
    assert await waiting(9) == ["older", "old", "ahead"]
    assert await waiting(1) == ["older"]


async def test_busy_keys_are_counted_since_a_time_and_without_what_was_given_back(store: Store) -> None:
    def operation(tx: Tx) -> None:
        for number in range(5):
            charge(tx, number, hour_key="h1", at=number, key=f"run-{number}")
            charge(tx, number, hour_key="h2", at=number - 3)
        charge(tx, 0, hour_key="h0", at=0)
        tx.return_charge("h1-0")

    await store.write(operation)
    assert list(await store.read(lambda tx: tx.busy_keys(NOW, at_least=2))) == [
        Busy(hour_key="h1", guard_key="run-1", charges=4),
        Busy(hour_key="h2", guard_key="budget", charges=2),
    ]
    assert [one.hour_key for one in await store.read(lambda tx: tx.busy_keys(NOW, at_least=1))] == ["h0", "h1", "h2"]
    assert list(await store.read(lambda tx: tx.busy_keys(after(HOUR), at_least=1))) == []


async def test_old_charges_are_forgotten_the_oldest_first_and_so_many_at_a_time(store: Store) -> None:
    def operation(tx: Tx) -> None:
        for number in range(5):
            charge(tx, number, hour_key="h", at=number)
        tx.return_charge("h-1")

    async def forget(before: float, limit: int) -> int:
        return await store.write(lambda tx: tx.forget_charges(after(before), limit))

    await store.write(operation)
    assert await forget(0, 9) == 0
    assert await forget(3, 2) == 2
    assert await store.read(lambda tx: tx.count_charges("h", NOW)) == 3
    assert await forget(4, 9) == 2
    assert await store.read(lambda tx: tx.count_charges("h", NOW)) == 1


async def test_what_is_usual_counts_hours_with_a_charge_in_them(store: Store) -> None:
    def operation(tx: Tx) -> None:
        for number, at in enumerate((0, 60, HOUR, 3 * HOUR, 3 * HOUR + 1, 9 * HOUR)):
            charge(tx, number, hour_key="h", at=at)
        charge(tx, 99, hour_key="h", at=2 * HOUR)
        tx.return_charge("h-99")

    await store.write(operation)
    week = timedelta(days=7)
    assert await store.read(lambda tx: tx.usual_charges("h", since=NOW - week, until=after(9 * HOUR))) == Usual(
        charges=5, active_hours=3
    )
    assert await store.read(lambda tx: tx.usual_charges("h", since=after(60), until=after(HOUR + 1))) == Usual(
        charges=2, active_hours=2
    )
    assert await store.read(lambda tx: tx.usual_charges("none", since=NOW, until=after(9))) == Usual(
        charges=0, active_hours=0
    )
