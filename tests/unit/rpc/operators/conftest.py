"""The real operators' server over a fake backend: three operators, one whom nobody knows, and agents beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from broker.config import Limits
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.identity import Authenticator, FrontDoor, verify
from broker.operators.model import Operator, Role
from broker.operators.registry import Registry
from broker.rpc import server
from broker.rpc.admission import as_operator
from broker.rpc.methods import OPERATOR
from broker.rpc.operators.parts import Parts
from broker.rpc.operators.servicer import OperatorServicer
from broker.rpc.pipeline import Pipeline
from broker.rpc.places import Places
from stepcred.v1.operator_pb2_grpc import BrokerOperatorStub
from tests.fakes.clock import FakeClock
from tests.fakes.desk import FakeDesk
from tests.fakes.world import World, world
from tests.support.certs import Creds, TestCA
from tests.support.doors import door

DOMAIN = "dev.local"


def spiffe(name: str) -> str:
    return f"spiffe://{DOMAIN}/operator/{name}"


class People(Registry):
    """An operators file that a test writes."""

    def __init__(self, broker: World) -> None:
        super().__init__(None, broker.store, broker.clock, broker.core.enter)
        self.known: dict[str, Operator] = {}

    def add(self, name: str, *roles: Role, **more: Any) -> None:
        self.known[spiffe(name)] = Operator(name=name, ids=(spiffe(name),), roles=frozenset(roles), **more)

    def of(self, spiffe_id: str) -> Operator | None:
        return self.known.get(spiffe_id)

    def owner_of_key(self, key: str) -> Operator | None:
        return next((one for one in self.known.values() if key in one.keys), None)


@dataclass(kw_only=True)
class House:
    """An operators' listener in this process."""

    broker: World
    ca: TestCA
    port: int
    pipeline: Pipeline
    servicer: OperatorServicer
    people: People
    desk: FakeDesk
    door: FrontDoor
    made: dict[str, Creds] = field(default_factory=dict)
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def channel(self, name: str) -> grpc.aio.Channel:
        creds = self.made.get(name) or self.ca.operator(spiffe(name))
        self.made[name] = creds
        given = grpc.ssl_channel_credentials(self.ca.root_pem, creds.key.read_bytes(), creds.cert.read_bytes())
        self.channels.append(grpc.aio.secure_channel(f"localhost:{self.port}", given))
        return self.channels[-1]

    def stub(self, name: str) -> Any:
        return BrokerOperatorStub(self.channel(name))


@asynccontextmanager
async def house_of(folder: Path, *, sqlite: bool = False, limit: RateLimit | None = None) -> AsyncIterator[House]:
    ca = TestCA(folder, DOMAIN)
    clock = FakeClock(datetime.now(UTC))
    limits = Limits()
    async with world(folder, clock=clock, sqlite=sqlite) as broker:
        opened = door(ca.root_path, DOMAIN, server=ca.server(), operators=ca.operator_root_path)
        people, desk = People(broker), FakeDesk(broker)
        parts = Parts(core=broker.core, door=opened, registry=people, desk=desk, environment="dev", sinks=("hook",))
        pipeline = Pipeline(
            OPERATOR,
            authenticator=Authenticator(opened, clock, side=verify.operators),
            limiter=RequestLimiter(limit or RateLimit()),
            refusals=broker.engine._refusals,
            metrics=broker.core.metrics,
            clock=clock,
            places=Places(room=limits.room, most=limits.max_agent_rpcs),
            max_metadata=limits.max_metadata_bytes,
            admit=as_operator(people),
        )
        servicer = OperatorServicer(parts)
        grpc_server, port = server.build(
            listen="127.0.0.1:0",
            setting="operators.listen",
            credentials=server.credentials(opened, verify.operators),
            limits=limits,
            pipeline=pipeline,
            servicer=servicer,
        )
        await grpc_server.start()
        people.add("ann", Role.RESPONDER, groups=frozenset({"data"}), keys=frozenset({"ann-2026"}))
        people.add("bob", Role.APPROVER)
        people.add("vic")
        house = House(
            broker=broker,
            ca=ca,
            port=port,
            pipeline=pipeline,
            servicer=servicer,
            people=people,
            desk=desk,
            door=opened,
        )
        try:
            yield house
        finally:
            for channel in house.channels:
                await channel.close()
            await grpc_server.stop(None)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with house_of(tmp_path) as made:
        yield made


@pytest.fixture(params=["memory", "sqlite"])
async def stored(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    """Over either store."""
    async with house_of(tmp_path, sqlite=request.param == "sqlite") as made:
        yield made
