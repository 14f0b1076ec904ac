"""A broker without its network: the real engine, policy, guard and store over a fake backend and clock."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.clock import Clock
from broker.config import Guard as GuardSettings
from broker.config import Timings
from broker.errors import BrokerError
from broker.guard.denials import DenialCounter
from broker.guard.guard import Guard
from broker.guard.tiers import rules_of
from broker.identity import FrontDoor
from broker.keyring import Keyring
from broker.leases.beginning import Opened
from broker.leases.committing import Delivered
from broker.leases.core import Core, nobody
from broker.leases.engine import Ended, Engine
from broker.leases.epoch import EpochKeeper
from broker.leases.issuing import asking
from broker.leases.opening import opening
from broker.leases.orders import Order
from broker.leases.refusals import Refusals
from broker.metrics import Metrics
from broker.model import Agent, Lease, LeaseState, Revocability, ScopeKind, Step
from broker.policy.live.holder import Policies
from broker.providers.base import Provider
from broker.store.base import Store, tail
from broker.store.halts import EVERYTHING, Freeze
from broker.store.sqlite import open_store
from tests.fakes.clock import START, FakeClock
from tests.fakes.launchers import SCHEDULER, with_launchers
from tests.fakes.memory_store import MemoryStore
from tests.fakes.provider import Backend, FakeKind, FakeProvider

MAP = """\
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
  other: {id: "spiffe://dev.local/workflow/{workflow}/step/other", owners: [group:data]}
scopes:
  plain: {fake: {role: plain}, ttl: 10m, max_ttl: 1h, tier: low}
  elevated: {fake: {role: plain}, ttl: 10m, tier: elevated}
  danger: {fake: {role: danger}, ttl: 10m, tier: high}
  timed: {timed: {role: timed}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [plain, elevated, danger, timed], max_step: 2h}
  others: {workloads: [other], workflows: [nightly], scopes: [plain], max_step: 2h, concurrent: supersede}
"""

LOAD = "spiffe://dev.local/workflow/nightly/step/load"
OTHER = "spiffe://dev.local/workflow/nightly/step/other"
KEYRING = Keyring({"k1": bytes(range(32))}, "k1")


def agent(spiffe_id: str = LOAD, *, address: str = "") -> Agent:
    return Agent(
        spiffe_id=spiffe_id,
        trust_domain="dev.local",
        cert_sha256="c" * 64,
        not_after=START,
        peer="ipv4:1",
        address=address,
    )


def everything(reason: str = "drill") -> Freeze:
    return Freeze(id=EVERYTHING, by="ann", reason=reason, at=START)


ANN = Order(by="ann", reason="drill")


def new_id() -> str:
    return str(uuid.uuid4())


class World:
    """One broker process after the other over the same database, backend and clock."""

    def __init__(
        self, folder: Path, store: Store, *, clock: Clock, timings: Timings, launchers: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.store = store
        self.clock = clock
        self.timings = timings
        self.backend = Backend()
        self.map_file = folder / "scopes.yaml"
        self.engine: Engine
        self.core: Core
        self.policies: Policies
        self.map_text = MAP
        self.launchers = tuple(launchers)
        self.door: FrontDoor | None = None
        self._maps = 0
        self._write_map()
        self.provider: FakeProvider

    @property
    def fake_clock(self) -> FakeClock:
        assert isinstance(self.clock, FakeClock)
        return self.clock

    async def start(self) -> None:
        """A fresh process: nothing in memory, everything in the store."""
        self.build()
        await self.engine.start()
        await self.policies.load_initial(self.store, self.clock)

    def build(self) -> None:
        """Its parts, not yet running."""
        metrics = Metrics()
        self.policies = Policies(
            self.map_file, self.kinds(), environment="dev", trust_domain="dev.local", settle=0, metrics=metrics
        )
        providers = self.providers()
        self.core = Core(
            store=self.store,
            clock=self.clock,
            timings=self.timings,
            keyring=KEYRING,
            policies=self.policies,
            guard=Guard(rules_of(GuardSettings(), self.policies.limits)),
            providers=providers,
            epoch=EpochKeeper(self.store, self.clock, self.timings, replica="test"),
            metrics=metrics,
            denies=self.door.denies if self.door else nobody,
        )
        self.engine = Engine(self.core, Refusals(self.store, self.clock, metrics, DenialCounter()), self.door)

    def kinds(self) -> dict[str, ScopeKind]:
        """Blocks that its map may hold."""
        return {kind.name: kind for kind in (FakeKind("fake"), FakeKind("timed", Revocability.EXPIRY_ONLY))}

    def providers(self) -> dict[str, Provider]:
        """One per kind of scope."""
        self.provider = FakeProvider(self.backend)
        return {"fake": self.provider, "timed": FakeProvider(self.backend, name="timed")}

    async def crash(self) -> None:
        """SIGKILL, as far as one process can show it: no task of the engine runs again, nothing is written."""
        mine = asyncio.current_task()
        kill = [task for task in asyncio.all_tasks() if task is not mine and not task.get_name().startswith("test")]
        for task in kill:
            task.cancel()
        with contextlib.suppress(BaseExceptionGroup):
            await asyncio.gather(*kill, return_exceptions=True)

    async def begin(
        self,
        scopes: Sequence[str] = ("plain",),
        *,
        who: Agent | None = None,
        workflow: str = "nightly",
        run: str = "r1",
        step: str = "load",
        request_id: str = "",
    ) -> Opened:
        who = who or agent()
        asked = opening(
            agent=who,
            request_id=request_id or new_id(),
            workflow=workflow,
            run=run,
            step=step,
            scopes=scopes,
            seconds=None,
        )
        return await self.engine.begin_step(who, asked)

    async def set_launchers(self, *launchers: str) -> None:
        """The map with these, in force; a newer one, even if nothing has changed in it."""
        self.launchers = launchers
        await self.load_map(self.map_text)

    async def load_map(self, text: str) -> None:
        """This map, with the launchers of today, in force."""
        self.map_text = text
        self._write_map()
        assert await self.policies.reload(), self.policies.last_problem

    def _write_map(self) -> None:
        self._maps += 1
        self.map_file.write_text(f"# {self._maps}\n{with_launchers(self.map_text, *self.launchers)}")

    async def launch(
        self,
        scopes: Sequence[str] = ("plain",),
        *,
        who: str = SCHEDULER,
        workload: str = LOAD,
        digest: str = "",
        run: str = "r1",
        request_id: str = "",
    ) -> Opened:
        caller = agent(who, address="10.1.7.7")
        asked = opening(
            agent=caller,
            request_id=request_id or new_id(),
            workflow="nightly",
            run=run,
            step="load",
            scopes=scopes,
            seconds=None,
            on_behalf_of=workload,
            definition_digest=digest,
        )
        return await self.engine.begin_step(caller, asked)

    async def issue(
        self, handle: str, scope: str = "plain", *, who: Agent | None = None, request_id: str = "", replaces: str = ""
    ) -> Delivered:
        asked = asking(request_id=request_id or new_id(), scope=scope, replaces=replaces, public_input="")
        return await self.engine.issue(who or agent(), handle, asked)

    async def end(self, handle: str, *, wait: float = 5.0, who: Agent | None = None) -> Ended:
        return await self.engine.end_step(who or agent(), request_id=new_id(), handle=handle, wait_seconds=wait)

    async def freeze(self, *, frozen: bool) -> None:
        if frozen:
            await self.engine.orders.freeze(everything(), ANN)
        else:
            await self.engine.orders.unfreeze(EVERYTHING, ANN)

    async def lease(self, lease_id: str) -> Lease:
        row = await self.store.read(lambda tx: tx.lease(lease_id))
        assert row is not None
        return row

    async def leases(self, *states: LeaseState) -> list[Lease]:
        return await self.store.read(lambda tx: tx.leases_in(*(states or tuple(LeaseState))))

    async def step_row(self, opened: Opened) -> Step:
        row = await self.store.read(lambda tx: tx.step(opened.step.id))
        assert row is not None
        return row

    async def journal(self, *kinds: str) -> list[dict[str, Any]]:
        """The records, of these kinds only."""
        records = [json.loads(entry.body) for entry in await self.store.read(lambda tx: list(tail(tx)))]
        return [record for record in records if not kinds or record["kind"] in kinds]

    async def journal_kinds(self) -> list[str]:
        return [record["kind"] for record in await self.journal()]

    async def until(self, check: Callable[[], Awaitable[bool]], *, within: float = 5.0) -> None:
        """Poll in real time; the lane and the reaper run meanwhile."""
        deadline = asyncio.get_running_loop().time() + within
        while not await check():
            assert asyncio.get_running_loop().time() < deadline, f"not within {within:g} s"
            await asyncio.sleep(0.01)

    async def nothing_alive(self) -> bool:
        self.core.lane.set()
        return not self.backend.alive


async def refusal(work: Awaitable[object]) -> BrokerError:
    """The error that this must end with."""
    try:
        await work
    except BrokerError as error:
        return error
    raise AssertionError("was not refused")


@asynccontextmanager
async def world(
    folder: Path,
    *,
    sqlite: bool = False,
    clock: Clock | None = None,
    timings: Timings | None = None,
    door: FrontDoor | None = None,
    launchers: Sequence[str] = (),
) -> AsyncIterator[World]:
    """A started world; ended without a drain."""
    store: Store = open_store(folder / "broker.db") if sqlite else MemoryStore()
    made = World(folder, store, clock=clock or FakeClock(), timings=timings or Timings(), launchers=launchers)
    made.door = door
    await made.start()
    try:
        yield made
    finally:
        await made.engine.stop()
        await store.close()
