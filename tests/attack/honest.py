"""Honest agents that go on with their work whatever others do, and take the time of each call."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.attack.site import SCOPE, Victim
from tests.support.certs import Creds

CALL = 15.0  # seconds, as the SDK's
AGENTS = 4
PAUSE = 0.05  # seconds between an agent's calls: 20 per second, below its rate
ROUNDS = 10  # calls between two whole steps
NEW_EVERY = 0.4  # seconds between two new connections


@dataclass
class Calls:
    """What honest agents met."""

    took: list[float] = field(default_factory=list)  # seconds of each call on a connection that was there
    new: list[float] = field(default_factory=list)  # seconds of connecting anew and the first call
    failed: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def made(self) -> int:
        return len(self.took) + len(self.new) + self.failed.total()

    @property
    def success(self) -> float:
        """Share of all calls, new connections' included."""
        return 1 - self.failed.total() / self.made if self.made else 0.0

    async def time(self, call: Awaitable[Any], into: list[float]) -> Any:
        """The answer, or None for a failure, which is counted."""
        start = time.perf_counter()
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.failed[f"{error.code().name}: {error.details()}"] += 1
            return None
        into.append(time.perf_counter() - start)
        return answer


def percentile(values: list[float], share: float) -> float:
    """Nearest rank, in ms; 0 of nothing."""
    return sorted(values)[ceil(share * len(values)) - 1] * 1000 if values else 0.0


@contextlib.asynccontextmanager
async def stub_of(victim: Victim, creds: Creds) -> AsyncIterator[Any]:
    """On a connection of its own."""
    files = (path.read_bytes() for path in (creds.ca, creds.key, creds.cert))
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    credentials = grpc.ssl_channel_credentials(*files)
    async with grpc.aio.secure_channel(victim.deployment.addr, credentials, options=options) as channel:
        yield CredentialBrokerStub(channel)


class Honest:
    """A few agents of different workflows. `calls` is whose turn it is to be filled."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim
        self._creds = [victim.deployment.agent(f"workflow/honest{number}/step/load") for number in range(AGENTS + 1)]
        self.calls = Calls()
        self.steps = 0  # all of them, whose turn it ever was

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """All the time. A failure that is no answer of the daemon's is raised at the end."""
        tasks = [asyncio.create_task(self._agent(number)) for number in range(AGENTS)]
        tasks.append(asyncio.create_task(self._newcomer(self._creds[AGENTS])))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def _agent(self, number: int) -> None:
        async with stub_of(self._victim, self._creds[number]) as stub:
            while True:
                handle = await self._step(stub, f"honest{number}")
                for turn in range(ROUNDS):
                    await self._ask(stub, f"honest{number}", turn, handle)
                    await asyncio.sleep(PAUSE)
                if handle:
                    await self._end(stub, handle)

    async def _step(self, stub: Any, workflow: str) -> str:
        name = pb.StepName(workflow=workflow, run=str(uuid.uuid4()), step="load")
        opened = await self._timed(
            stub.BeginStep(
                pb.BeginStepRequest(request_id=str(uuid.uuid4()), name=name, scopes=[SCOPE]),
                timeout=CALL,
                wait_for_ready=True,
            )
        )
        if opened is None:
            await asyncio.sleep(PAUSE)
            return ""
        request = pb.IssueCredentialRequest(request_id=str(uuid.uuid4()), step_handle=opened.step_handle, scope=SCOPE)
        await self._timed(stub.IssueCredential(request, timeout=CALL, wait_for_ready=True))
        return str(opened.step_handle)

    async def _ask(self, stub: Any, workflow: str, turn: int, handle: str) -> None:
        more = {"timeout": CALL, "wait_for_ready": True}
        if turn % 3 == 0 and handle:
            await self._timed(stub.Heartbeat(pb.HeartbeatRequest(step_handle=handle), **more))
        elif turn % 3 == 1:
            name = pb.StepName(workflow=workflow, run="r", step="load")
            await self._timed(stub.CheckAccess(pb.CheckAccessRequest(name=name, scopes=[SCOPE]), **more))
        else:
            await self._timed(stub.WhoAmI(pb.WhoAmIRequest(), **more))

    async def _end(self, stub: Any, handle: str) -> None:
        wait = Duration(seconds=2)
        request = pb.EndStepRequest(request_id=str(uuid.uuid4()), step_handle=handle, wait=wait)
        await self._timed(stub.EndStep(request, timeout=CALL, wait_for_ready=True))
        self.steps += 1

    async def _newcomer(self, creds: Creds) -> None:
        while True:
            calls = self.calls
            async with stub_of(self._victim, creds) as stub:
                await calls.time(stub.WhoAmI(pb.WhoAmIRequest(), timeout=CALL, wait_for_ready=True), calls.new)
            await asyncio.sleep(NEW_EVERY)

    async def _timed(self, call: Awaitable[Any]) -> Any:
        calls = self.calls
        return await calls.time(call, calls.took)
