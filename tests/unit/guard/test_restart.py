"""Exact over a restart, however many ask at once (I4)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from broker.guard.guard import Guard, GuardAsk
from broker.guard.verdicts import Admitted, GuardVerdict
from broker.model import Tier
from broker.store.base import Store
from broker.store.sqlite import open_store
from tests.fakes.clock import FakeClock
from tests.unit.guard.world import asking


async def admitted(store: Store, asks: list[GuardAsk], clock: FakeClock, name: str) -> int:
    """All at once."""
    guard = Guard()

    def one(number: int, ask: GuardAsk) -> asyncio.Future[GuardVerdict]:
        work = store.write(lambda tx: guard.admit(tx, ask, lease_id=f"{name}{number}", now=clock.moment()))
        return asyncio.ensure_future(work)

    verdicts = await asyncio.gather(*(one(number, ask) for number, ask in enumerate(asks)))
    return sum(isinstance(verdict, Admitted) for verdict in verdicts)


async def test_budget_hour_and_shared_limit_are_exact_over_a_restart_and_under_concurrency(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "stepcred.db"
    step = [asking(Tier.HIGH, workload="step") for _ in range(20)]
    runs = [asking(Tier.HIGH, workload="runs", run=f"r{n}") for n in range(40)]
    shared = [asking(Tier.LOW, workload=f"w{n % 5}", run=f"r{n}", shared=16) for n in range(60)]
    found = []
    for life in range(3):
        store = open_store(path)
        if not life:
            await store.write(lambda tx: tx.start_epoch(replica="a", boot_id="b", expires_boot=9.0, at=clock.now()))
        found.append(
            [await admitted(store, asks, clock, f"{life}-{n}-") for n, asks in enumerate((step, runs, shared))]
        )
        await store.close()
        clock.advance(60)
    assert found == [[3, 12, 16], [0, 0, 0], [0, 0, 0]]
