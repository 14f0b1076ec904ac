"""A guard over an in-memory database, with a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import TypeVar

from broker.guard.guard import Guard, GuardAsk
from broker.guard.keys import about, guard_key, hour_key
from broker.guard.shared import Shared
from broker.guard.tiers import DEFAULT_RULES, HOUR, TierRules
from broker.guard.timing import guard_time, keep_time
from broker.guard.verdicts import GuardVerdict
from broker.model import Lease, LeaseState, Revocability, Tier
from broker.store.base import Tx
from broker.store.guard import GuardRow
from tests.fakes.clock import FakeClock
from tests.fakes.memory_store import MemoryStore, MemoryTx

T = TypeVar("T")


def asking(
    tier: Tier = Tier.HIGH,
    *,
    run: str = "r1",
    step: str = "load",
    workflow: str = "etl",
    workload: str = "load",
    captures: Mapping[str, str] | None = None,
    shared: int = 0,
) -> GuardAsk:
    bound, scope = captures or {}, f"{tier.value}-scope"
    return GuardAsk(
        key=guard_key(workload=workload, captures=bound, workflow=workflow, run=run, step=step, scope=scope),
        hour_key=hour_key(workload=workload, captures=bound, scope=scope),
        tier=tier,
        shared=Shared(scope=scope, hourly=shared) if shared else None,
        about=about(workload=workload, captures=bound, workflow=workflow, run=run, step=step, scope=scope),
    )


def lease_of(lease_id: str, key: str, at: datetime) -> Lease:
    return Lease(
        id=lease_id,
        step_id="step",
        agent="spiffe://test.local/load",
        request_id=lease_id,
        scope="scope",
        provider="vault",
        params={},
        tier=Tier.HIGH,
        revocability=Revocability.EXACT,
        state=LeaseState.INTENT,
        epoch=1,
        policy_generation=1,
        nonce=b"",
        kid="k",
        guard_key=key,
        intent_at=at,
        expires_at=at + timedelta(minutes=10),
    )


class World:
    """Each call is one committed transaction, as the lease engine makes them."""

    def __init__(self, rules: Mapping[Tier, TierRules] = DEFAULT_RULES, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.guard = Guard(rules.__getitem__)
        self._state = MemoryStore()._state
        self._ids = count()
        self.last_lease = ""

    def write(self, operation: Callable[[Tx], T]) -> T:
        return operation(MemoryTx(self._state, writable=True))

    def ask(self, ask: GuardAsk) -> GuardVerdict:
        self.last_lease = f"lease-{next(self._ids)}"
        return self.write(lambda tx: self.guard.admit(tx, ask, lease_id=self.last_lease, now=self.clock.moment()))

    def look(self, ask: GuardAsk) -> GuardVerdict:
        return self.guard.look(MemoryTx(self._state, writable=False), ask, self.clock.moment())

    def fail(self, key: str) -> datetime | None:
        return self.write(lambda tx: self.guard.mint_failed(tx, key, now=self.clock.moment()))

    def succeed(self, key: str) -> None:
        self.write(lambda tx: self.guard.mint_succeeded(tx, key))

    def void(self, lease_id: str, key: str) -> bool:
        lease = lease_of(lease_id, key, self.clock.now())
        return self.write(lambda tx: self.guard.give_back(tx, lease))

    def reset(self, key: str, by: str = "ann") -> GuardRow | None:
        return self.write(lambda tx: self.guard.reset(tx, key, by=by, at=self.clock.now()))

    def renew(self) -> None:
        """As each epoch does at its beginning and every few seconds."""
        self.write(lambda tx: keep_time(tx, self.clock.moment()))

    def forget_hours_past(self) -> None:
        """Charges that no limit looks at any more: only to make a long run cheap."""
        since = guard_time(MemoryTx(self._state, writable=False), self.clock.moment()) - HOUR
        self._state.charges = {name: one for name, one in self._state.charges.items() if one.at >= since}

    def row(self, key: str) -> GuardRow | None:
        return self.write(lambda tx: tx.guard_row(key))
