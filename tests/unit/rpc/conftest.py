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
from google.rpc import error_details_pb2, status_pb2

from broker.config import Limits, Timings
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.identity import Authenticator, FrontDoor, verify
from broker.rpc import server
from broker.rpc.pipeline import Pipeline
from broker.rpc.places import Places
from broker.rpc.servicer import Servicer
from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.fakes.clock import FakeClock
from tests.fakes.world import LOAD, World, new_id, world
from tests.support.certs import Creds, TestCA
from tests.support.doors import door


@dataclass(kw_only=True)
class Edge:
    """The real server over a fake backend, in this process."""

    broker: World
    ca: TestCA
    port: int
    servicer: Servicer
    pipeline: Pipeline
    agent: Creds
    door: FrontDoor
    deny: Path
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def channel(self, creds: Creds | None) -> grpc.aio.Channel:
        """With a client certificate, or without one."""
        root = self.ca.root_pem
        key, cert = (creds.key.read_bytes(), creds.cert.read_bytes()) if creds else (None, None)
        made = grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(root, key, cert))
        self.channels.append(made)
        return made

    def stub(self, creds: Creds | None = None) -> Any:
        return CredentialBrokerStub(self.channel(creds or self.agent))

    async def begin(self, *scopes: str, run: str = "r1") -> Any:
        name = pb.StepName(workflow="nightly", run=run, step="load")
        request = pb.BeginStepRequest(request_id=new_id(), name=name, scopes=scopes or ["plain"])
        return await self.stub().BeginStep(request)


@asynccontextmanager
async def edge_of(folder: Path, *, limits: Limits, limit: RateLimit, sqlite: bool = False) -> AsyncIterator[Edge]:
    ca = TestCA(folder, "dev.local")
    cert, key = ca.server()
    clock = FakeClock(datetime.now(UTC))
    async with world(folder, clock=clock, sqlite=sqlite) as broker:
        deny = folder / "denied.toml"
        deny.touch()
        opened = door(ca.root_path, "dev.local", deny=deny, server=(cert, key))
        pipeline = Pipeline(
            authenticator=Authenticator(opened, clock),
            limiter=RequestLimiter(limit),
            refusals=broker.engine._refusals,
            metrics=broker.core.metrics,
            clock=clock,
            places=Places(room=limits.room, most=limits.max_agent_rpcs),
            max_metadata=limits.max_metadata_bytes,
        )
        servicer = Servicer(broker.engine, broker.policies, Timings(), clock, limits)
        grpc_server, port = server.build(
            listen="127.0.0.1:0",
            setting="listen.grpc",
            credentials=server.credentials(opened, verify.agents),
            limits=limits,
            pipeline=pipeline,
            servicer=servicer,
        )
        await grpc_server.start()
        edge = Edge(
            broker=broker,
            ca=ca,
            port=port,
            servicer=servicer,
            pipeline=pipeline,
            agent=ca.agent(LOAD),
            door=opened,
            deny=deny,
        )
        try:
            yield edge
        finally:
            for channel in edge.channels:
                await channel.close()
            await grpc_server.stop(None)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with edge_of(tmp_path, limits=Limits(), limit=RateLimit()) as made:
        yield made


@dataclass(frozen=True, kw_only=True)
class Told:
    """A refusal as the client got it."""

    code: grpc.StatusCode
    message: str
    reason: str
    metadata: dict[str, str]
    trailers: dict[str, str | bytes]


async def told(call: Any) -> Told:
    """The refusal that this call must end with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        trailers: dict[str, Any] = dict(error.trailing_metadata() or ())
        details = status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
        info = error_details_pb2.ErrorInfo()
        if details.details:
            details.details[0].Unpack(info)
        return Told(
            code=error.code(),
            message=error.details() or "",
            reason=info.reason,
            metadata=dict(info.metadata),
            trailers=trailers,
        )
    raise AssertionError("was not refused")
