"""One agent that wants every place: hundreds of calls at once whose mints take seconds."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from typing import Any

import grpc.aio

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.attack.target import Target

CALLS = 400  # at once: more than there are places
PEERS = 16
SCOPE = "slow"


async def attack(target: Target) -> Counter[str]:
    told: Counter[str] = Counter()
    credentials = target.channel_credentials()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]

    async def greedy(stub: Any, handle: str) -> None:
        while True:
            request = pb.IssueCredentialRequest(request_id=str(uuid.uuid4()), step_handle=handle, scope=SCOPE)
            try:
                await stub.IssueCredential(request, timeout=12)
                told["minted"] += 1
            except grpc.aio.AioRpcError as error:
                told[error.code().name] += 1
                await asyncio.sleep(0.2)

    async with contextlib.AsyncExitStack() as stack:
        stubs: list[Any] = []
        for _ in range(PEERS):
            channel = grpc.aio.secure_channel(f"localhost:{target.port}", credentials, options=options)
            stubs.append(CredentialBrokerStub(await stack.enter_async_context(channel)))
        name = pb.StepName(workflow="hoard", run=str(uuid.uuid4()), step="load")
        opened = await stubs[0].BeginStep(
            pb.BeginStepRequest(request_id=str(uuid.uuid4()), name=name, scopes=[SCOPE]), timeout=10
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(target.seconds):
                await asyncio.gather(*(greedy(stubs[one % PEERS], opened.step_handle) for one in range(CALLS)))
    return told
