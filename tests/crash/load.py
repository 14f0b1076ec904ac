"""Concurrent steps that survive the daemon's deaths, as a client with its request ids would."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.crash.site import AGENT, Site
from tests.support.certs import Creds

CALL = 6.0  # seconds for one call
FINISH = 15.0  # seconds for every worker's last step
ABANDONED = 0.15  # share of steps that nobody ends: they fall silent
# What may be answered to a client that goes on after the daemon's death, or asks twice.
EXPECTED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,  # the mint failed, or its answer is lost
    grpc.StatusCode.FAILED_PRECONDITION,  # the step or lease has ended meanwhile
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # the guard cools a step whose mints fail
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
}


@dataclass
class Deliveries:
    """Request id → the credentials that were answered to it, by what they are."""

    of: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    logins: set[str] = field(default_factory=set)

    def record(self, request_id: str, answer: Any) -> None:
        self.of[request_id].add(f"{answer.lease.lease_id} {answer.credential}")
        self.logins.add(answer.credential.username_password.username)

    def twice(self) -> set[str]:
        """Request ids that got two different credentials."""
        return {f"request {request_id}" for request_id, seen in self.of.items() if len(seen) > 1}


@dataclass
class Step:
    """One step from its first request to its end."""

    run: str = field(default_factory=lambda: str(uuid.uuid4()))
    begin_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    end_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    handle: str = ""
    asked: dict[str, str] = field(default_factory=dict)  # request id → scope; no answer yet
    issued: bool = False


async def begin(stub: Any, step: Step, workflow: str, scopes: tuple[str, ...]) -> None:
    """Unless it has begun."""
    if step.handle:
        return
    request = pb.BeginStepRequest(
        request_id=step.begin_id, name=pb.StepName(workflow=workflow, run=step.run, step="load"), scopes=scopes
    )
    step.handle = (await stub.BeginStep(request, timeout=CALL)).step_handle


async def ask_again(step: Step, ask: Callable[[str, str], Awaitable[Any]]) -> None:
    """What was asked before the daemon's death: the same credential, or the word that it is lost. Never another one."""
    for request_id, scope in list(step.asked.items()):
        try:
            await ask(request_id, scope)
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION):
                raise
        step.asked.pop(request_id, None)


class Worker:
    """One step after the other. A step that the daemon's death interrupts is taken up again with its request ids."""

    def __init__(self, scopes: tuple[str, ...], deliveries: Deliveries, seed: int) -> None:
        self._scopes = scopes
        self._deliveries = deliveries
        self._random = random.Random(seed)
        self._step = Step()
        self.rounds = 0

    async def run(self, stub: Any, *, once: bool = False) -> None:
        """Until cancelled; `once`: until the step at hand has ended."""
        while True:
            try:
                await self._round(stub)
                self.rounds += 1
                if once:
                    return
            except grpc.aio.AioRpcError as error:
                self._refused(error)
                await asyncio.sleep(0.05)

    def _refused(self, error: grpc.aio.AioRpcError) -> None:
        if error.code() not in EXPECTED:
            raise error
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            self._step = Step()  # it has ended: by its own, maybe unanswered, EndStep or by silence
        elif error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._step.issued = True  # too many of its mints failed: no more of them

    async def _round(self, stub: Any) -> None:
        step = self._step
        await begin(stub, step, "nightly", self._scopes)
        await ask_again(step, partial(self._ask, stub, step))
        if not step.issued:
            await self._issue(stub, step)
            step.issued = True
        if self._random.random() >= ABANDONED:
            await stub.EndStep(
                pb.EndStepRequest(request_id=step.end_id, step_handle=step.handle, wait=Duration(seconds=2)),
                timeout=CALL,
            )
        self._step = Step()

    async def _issue(self, stub: Any, step: Step) -> None:
        """Both scopes at once, now and then one request twice at once; then claim, revoke, or neither."""
        for scope in self._scopes:
            step.asked[str(uuid.uuid4())] = scope
        asked = [*step.asked.items()]
        if self._random.random() < 0.3:
            asked.append(asked[0])
        answers = await gather_all([self._ask(stub, step, request_id, scope) for request_id, scope in asked])
        held = [answer.lease.lease_id for answer in answers]
        what_next = self._random.random()
        if what_next < 0.5:
            await stub.Heartbeat(pb.HeartbeatRequest(step_handle=step.handle, held_lease_ids=held), timeout=CALL)
        elif what_next < 0.7:
            await stub.RevokeLease(
                pb.RevokeLeaseRequest(request_id=str(uuid.uuid4()), step_handle=step.handle, lease_id=held[0]),
                timeout=CALL,
            )

    async def _ask(self, stub: Any, step: Step, request_id: str, scope: str) -> Any:
        request = pb.IssueCredentialRequest(request_id=request_id, step_handle=step.handle, scope=scope)
        answer = await stub.IssueCredential(request, timeout=CALL)
        self._deliveries.record(request_id, answer)
        step.asked.pop(request_id, None)
        return answer


async def gather_all(calls: list[Awaitable[Any]]) -> list[Any]:
    """Wait for each, then raise the first failure: no call is left running."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancelled; raises what one of them failed with."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class Load:
    """The workers, and one connection per life of the daemon."""

    def __init__(self, site: Site, workers: int, seed: int) -> None:
        self.deliveries = Deliveries()
        self._addr = site.deployment.addr
        self._creds = site.deployment.agent(AGENT)
        self._workers = [Worker(site.scopes, self.deliveries, seed + number) for number in range(workers)]

    @property
    def rounds(self) -> int:
        return sum(worker.rounds for worker in self._workers)

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """While the daemon lives. A worker's own failure is raised at the end."""
        async with channel(self._addr, self._creds) as stub:
            tasks = [asyncio.create_task(worker.run(stub)) for worker in self._workers]
            yield
            await end(tasks)

    async def finish(self) -> None:
        """Every worker ends the step that it has; what cannot be ended so falls silent."""
        async with channel(self._addr, self._creds) as stub:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FINISH):
                    await asyncio.gather(*(worker.run(stub, once=True) for worker in self._workers))


@contextlib.asynccontextmanager
async def channel(addr: str, creds: Creds) -> Any:
    """A stub over a connection of its own, without retries."""
    files = (path.read_bytes() for path in (creds.ca, creds.key, creds.cert))
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(addr, grpc.ssl_channel_credentials(*files), options=options) as channel:
        yield CredentialBrokerStub(channel)
