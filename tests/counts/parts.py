"""The engine over the real store and a provider that costs nothing, or over Vault's provider and a stub."""

from __future__ import annotations

import asyncio
import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

from broker import log
from broker.config import Timings
from broker.errors import BrokerError
from broker.guard.denials import DenialCounter
from broker.http.readiness import Readiness
from broker.identity import FrontDoor
from broker.leases.refusals import Refusals
from broker.model import Evidence, ScopeKind, VaultToken
from broker.providers.base import LeaseRef, Minted, MintOrder, Progress, Provider
from broker.providers.vault.kind import VaultScope
from broker.providers.vault.provider import VaultProvider
from broker.providers.vault.settings import TokenFile, VaultSettings
from broker.secret import Secret
from broker.store.sqlite import open_store
from tests.counts.meter import Meter
from tests.counts.stub import VaultStub
from tests.counts.watched import CountingStore
from tests.fakes.alerting import desk
from tests.fakes.clock import FakeClock
from tests.fakes.world import KEYRING, World, agent
from tests.support import doors
from tests.support.certs import TestCA

ODD = timedelta(microseconds=123_456)  # a time without microseconds is written shorter
MAP = """\
version: 1
environment: dev
trust_domain: dev.local
workloads:
  load: {id: "spiffe://dev.local/workflow/{workflow}/step/load", owners: [group:data]}
scopes:
  plain: {vault: {role: plain}, ttl: 10m, max_ttl: 1h, tier: low}
  other: {vault: {role: plain}, ttl: 10m, tier: low}
grants:
  nightly: {workloads: [load], workflows: [nightly], scopes: [plain], max_step: 2h}
"""


class Nowhere(io.TextIOBase):
    """Keeps nothing: what is kept is counted."""

    def write(self, text: str) -> int:
        return len(text)


class NullProvider:
    """Answers at once, and is counted."""

    name = "vault"

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def mint(self, order: MintOrder) -> Minted:
        self._meter.provider.append("mint")
        token = Secret(f"scv1-k1-{order.ref.lease_id}")
        return Minted(credential=VaultToken(token=token, address="null://"), refs={"accessor": "a" * 24})

    async def revoke(self, ref: LeaseRef) -> Progress:
        self._meter.provider.append("revoke")
        return Progress(evidence=Evidence.SEEN_DEAD)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        self._meter.provider.append("probe")
        return Evidence.SEEN_DEAD

    async def check(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None


class CountedWorld(World):
    """Without `stub` its provider costs nothing."""

    def __init__(self, folder: Path, meter: Meter, clock: FakeClock, stub: VaultStub | None) -> None:
        self.meter = meter
        self.stub = stub
        with meter.tracing():
            store = open_store(folder / "broker.db")
        super().__init__(folder, CountingStore(store, meter), clock=clock, timings=Timings())
        self.map_text = MAP
        self._write_map()
        self.refusals: Refusals
        self.vault: VaultProvider | None = None

    def build(self) -> None:
        super().build()
        self.refusals = Refusals(self.store, self.clock, self.core.metrics, DenialCounter())

    def kinds(self) -> dict[str, ScopeKind]:
        return {"vault": VaultScope()}

    def providers(self) -> dict[str, Provider]:
        if self.stub is None:
            return {"vault": NullProvider(self.meter)}
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text("root-of-the-stub")
        settings = VaultSettings(address=self.stub.address, auth=TokenFile(path=token))
        self.vault = VaultProvider(settings, KEYRING, "counts", self.clock, known=self._children)
        return {"vault": self.vault}

    async def _children(self) -> frozenset[str]:
        return await self.store.read(lambda tx: tx.known_children("vault"))

    async def refused(self, handle: str, scope: str) -> None:
        """An IssueCredential that policy refuses, journalled as the rpc layer does it."""
        try:
            await self.issue(handle, scope)
        except BrokerError as error:
            await self.refusals.record(agent(), "IssueCredential", error)
            return
        raise AssertionError("was not refused")

    def journal_size(self) -> tuple[int, int]:
        """Records, and bytes of their bodies."""
        with closing(sqlite3.connect(self.folder / "broker.db")) as database:
            records, size = database.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM journal").fetchone()
        return records, size

    def log_size(self) -> int:
        """Bytes of the write-ahead log, which SQLite begins anew after a thousand pages."""
        return (self.folder / "broker.db-wal").stat().st_size


@asynccontextmanager
async def counted(
    folder: Path, meter: Meter, clock: FakeClock, *, vault: bool = False, door: FrontDoor | None = None
) -> AsyncIterator[CountedWorld]:
    """Started, and logging as a daemon does."""
    log.configure(stream=Nowhere())  # type: ignore[arg-type]  # all of a stream that a handler asks for
    stub = await VaultStub.start(meter, clock) if vault else None
    made = CountedWorld(folder, meter, clock, stub)
    made.door = door
    await made.start()
    try:
        yield made
    finally:
        await made.engine.stop()
        if made.vault:
            await made.vault.close()
        if stub:
            await stub.close()
        await made.store.close()


@asynccontextmanager
async def daemon(folder: Path, meter: Meter, clock: FakeClock) -> AsyncIterator[CountedWorld]:
    """With whatever else a daemon does by itself, but for its listeners and for files of maps and operators that change."""
    door = doors.door(TestCA(folder, "dev.local").root_path, "dev.local")
    async with counted(folder, meter, clock, vault=True, door=door) as world:
        watched = desk(world, folder, door)
        async with watched.anchoring.kept():
            with Readiness(world.core, world.engine, door).watching():
                alerts = asyncio.create_task(watched.watcher.run())
                try:
                    yield world
                finally:
                    alerts.cancel()
