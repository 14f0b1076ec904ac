"""Vault is away for ten minutes under honest steps, fifty in the long form: none is locked or held for it, and each gets its credential."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.errors import BrokerError, Reason
from broker.leases.breaker import LAST_PROBE
from broker.model import Agent
from broker.providers.base import Contact, LeaseRef, ProviderError, Settlement
from broker.store.guard import GuardState
from tests.fakes.provider import FakeProvider
from tests.fakes.world import World, agent, new_id, world
from tests.support.examples import examples

STEPS = examples(20, long=50)
OUTAGE = 600  # seconds
AFTER = 400  # seconds: the longest cool-down is over, and the longest look for a late mint
ONE_EACH = """\
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/agent/{name}", owners: [group:data]}
  shared: {id: "spiffe://dev.local/shared", owners: [group:data]}
scopes:
  low: {fake: {role: low}, ttl: 10m, tier: low}
  elevated: {fake: {role: elevated}, ttl: 10m, tier: elevated}
  high: {fake: {role: high}, ttl: 10m, tier: high}
grants:
  all: {workloads: [load, shared], workflows: [nightly], scopes: [low, elevated, high], max_step: 2h}
"""
ALLOWED = {Reason.PROVIDER_FAILED, Reason.COOLING}


class Fleet:
    """Honest steps: each wants one credential, and obeys what it is told."""

    def __init__(self, broker: World, scope: str, *, one_workload: bool) -> None:
        self._broker = broker
        self._scope = scope
        self._one_workload = one_workload
        self.told: Counter[str] = Counter()
        self.served = 0

    async def all(self) -> None:
        async with asyncio.TaskGroup() as steps:
            for number in range(STEPS):
                steps.create_task(self._step(number))

    def _who(self, number: int) -> Agent:
        return agent("spiffe://dev.local/shared" if self._one_workload else f"spiffe://dev.local/agent/a{number}")

    async def _step(self, number: int) -> None:
        broker, who = self._broker, self._who(number)
        opened = await broker.begin([self._scope], who=who, run=f"r{number}")
        beating = asyncio.create_task(self._beat(who, opened.handle))
        try:
            while not await self._ask(who, opened.handle):
                pass
        finally:
            beating.cancel()
        await broker.end(opened.handle, who=who)

    async def _ask(self, who: Agent, handle: str) -> bool:
        broker = self._broker
        try:
            await broker.issue(handle, self._scope, who=who, request_id=new_id())
        except BrokerError as error:
            self.told[error.reason.value] += 1
            if error.retry_after is None or error.reason not in ALLOWED:
                raise
            await broker.clock.sleep(error.retry_after.total_seconds())
            return False
        self.served += 1
        return True

    async def _beat(self, who: Agent, handle: str) -> None:
        while True:
            await self._broker.clock.sleep(10)
            await self._broker.engine.heartbeat(who, handle, [])


def _away(provider: FakeProvider, fails: str) -> None:
    """Nothing is heard of it, whatever it is asked: until `fail` is taken away."""
    provider.fail = fails
    settle = provider.settle

    async def unheard(ref: LeaseRef, *, final: bool) -> Settlement:
        if provider.fail:
            raise ProviderError("unreachable", Contact.NONE)
        return await settle(ref, final=final)

    setattr(provider, "settle", unheard)  # noqa: B010 - of this one


@asynccontextmanager
async def outage(folder: Path, scope: str, *, one_workload: bool, fails: str) -> AsyncIterator[tuple[World, Fleet]]:
    """From the first request to the end of the fleet, or of the time that it has."""
    async with world(folder) as broker:
        await broker.load_map(ONE_EACH)
        _away(broker.provider, fails)
        fleet = Fleet(broker, scope, one_workload=one_workload)
        steps = asyncio.create_task(fleet.all())
        await broker.fake_clock.run(OUTAGE)
        assert fleet.served == 0
        broker.provider.fail = ""
        await broker.fake_clock.run(AFTER)
        if steps.done():
            await steps
        try:
            yield broker, fleet
        finally:
            steps.cancel()


@pytest.mark.parametrize("fails", ["refuse", "lose-request"])
@pytest.mark.parametrize(
    ("scope", "one_workload"), [("low", True), ("elevated", True), ("elevated", False), ("high", False)]
)
async def test_an_outage_locks_and_holds_nobody(tmp_path: Path, scope: str, one_workload: bool, fails: str) -> None:  # noqa: FBT001 - a fixture's
    async with outage(tmp_path, scope, one_workload=one_workload, fails=fails) as (broker, fleet):
        assert fleet.served == STEPS, fleet.told
        keys = {lease.guard_key for lease in await broker.leases()}
        rows = await broker.store.read(lambda tx: [tx.guard_row(key) for key in keys])
        assert not {GuardState.LOCKED, GuardState.HELD} & {row.state for row in rows if row}
        assert await broker.journal("GUARD_LOCKED", "GUARD_HELD", "GUARD_CEILING") == []
        assert len(broker.backend.mints) == STEPS
        if fails == "lose-request":  # all of them once; then one at a time finds out whether it is back
            assert len(await broker.journal("LEASE_IN_DOUBT")) <= STEPS + OUTAGE / LAST_PROBE
