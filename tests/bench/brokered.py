"""Sides that ask the broker: by the raw stub where the SDK's own cost would blur the server's, else by the SDK."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

import stepcred
from stepcred._transport import OPTIONS
from stepcred.v1 import broker_pb2
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.bench.aws import deny_scope
from tests.bench.targets import Agent, Endpoint, scope_name

if TYPE_CHECKING:  # the generated stub has this class for type checkers only
    from stepcred.v1.broker_pb2_grpc import CredentialBrokerAsyncStub

DEADLINE = 30.0  # seconds for one call
WAIT = Duration(seconds=25)  # for evidence
SCOPE_NUMBERS = itertools.count()  # over the whole process


def new_id() -> str:
    return str(uuid.uuid4())


def name_of(agent: Agent) -> broker_pb2.StepName:
    """A run that nobody has used."""
    return broker_pb2.StepName(workflow=agent.workflow, run=new_id(), step="load")


class Stubs:
    """One warm connection per agent."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._open: dict[int, CredentialBrokerAsyncStub] = {}

    def of(self, number: int) -> CredentialBrokerAsyncStub:
        if number not in self._open:
            agent = self.endpoint.agents[number]
            files = (Path(path).read_bytes() for path in (agent.ca, agent.key, agent.cert))
            channel = grpc.aio.secure_channel(self.endpoint.addr, grpc.ssl_channel_credentials(*files), options=OPTIONS)
            self._open[number] = cast("Any", CredentialBrokerStub(channel))
        return self._open[number]


class Issue:
    """IssueCredential through the raw stub, again and again in one step per agent.

    `opens` is False for the bare echo, which gets the same request and knows no steps. `proven`: its leases can be
    seen dead at the step's end.
    """

    def __init__(
        self, endpoint: Endpoint, *, opens: bool = True, proven: bool = True, scope: Callable[[int], str] = scope_name
    ) -> None:
        self._stubs = Stubs(endpoint)
        self._opens = opens
        self._proven = proven
        self._handles: list[str] = []
        self._name = scope
        self._scope = ""

    async def prepare(self, workers: int) -> None:
        agents = self._stubs.endpoint.agents[:workers]
        self._scope = self._name(next(SCOPE_NUMBERS))
        self._handles = [await self._begin(number, agent) for number, agent in enumerate(agents)]

    async def once(self, worker: int) -> Mapping[str, float]:
        number = worker % len(self._handles)
        start = time.perf_counter()
        await self._stubs.of(number).IssueCredential(
            broker_pb2.IssueCredentialRequest(
                request_id=new_id(), step_handle=self._handles[number], scope=self._scope
            ),
            timeout=DEADLINE,
        )
        return {"issue": time.perf_counter() - start}

    async def finish(self) -> None:
        if self._opens:
            await asyncio.gather(*(self._end(number) for number in range(len(self._handles))))

    async def _begin(self, number: int, agent: Agent) -> str:
        if not self._opens:
            return "0" * 26
        request = broker_pb2.BeginStepRequest(request_id=new_id(), name=name_of(agent), scopes=[self._scope])
        return (await self._stubs.of(number).BeginStep(request, timeout=DEADLINE)).step_handle

    async def _end(self, number: int) -> None:
        request = broker_pb2.EndStepRequest(request_id=new_id(), step_handle=self._handles[number], wait=WAIT)
        ended = await self._stubs.of(number).EndStep(request, timeout=DEADLINE)
        assert ended.all_proven or not self._proven


class StepLife:
    """Begin, issue, end with proof, through the raw stub over warm connections; each part timed.

    `denied`: at AWS, where the end is a deny that was written, and no proof.
    """

    def __init__(self, endpoint: Endpoint, *, denied: bool = False) -> None:
        self._stubs = Stubs(endpoint)
        self._denied = denied
        self._scope = ""

    async def prepare(self, workers: int) -> None:
        number = next(SCOPE_NUMBERS)
        self._scope = deny_scope(number) if self._denied else scope_name(number)

    async def once(self, worker: int) -> Mapping[str, float]:
        number = worker % len(self._stubs.endpoint.agents)
        stub, name = self._stubs.of(number), name_of(self._stubs.endpoint.agents[number])
        times = [time.perf_counter()]
        opened = await stub.BeginStep(
            broker_pb2.BeginStepRequest(request_id=new_id(), name=name, scopes=[self._scope]), timeout=DEADLINE
        )
        times.append(time.perf_counter())
        await stub.IssueCredential(
            broker_pb2.IssueCredentialRequest(request_id=new_id(), step_handle=opened.step_handle, scope=self._scope),
            timeout=DEADLINE,
        )
        times.append(time.perf_counter())
        ended = await stub.EndStep(
            broker_pb2.EndStepRequest(request_id=new_id(), step_handle=opened.step_handle, wait=WAIT),
            timeout=DEADLINE,
        )
        times.append(time.perf_counter())
        parts = dict(zip(("begin", "issue", "end"), _differences(times), strict=True))
        if self._denied:
            assert ended.leases[0].deny_written_at.seconds
            return parts
        assert ended.all_proven
        parts["dead"] = ended.leases[0].time_to_dead.ToTimedelta().total_seconds()  # as the broker says
        return parts

    async def finish(self) -> None:
        return None


class SdkCycle:
    """What a step does: `import stepcred` and four lines. A connection of its own each time."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._scope = ""
        self._threads: ThreadPoolExecutor | None = None

    async def prepare(self, workers: int) -> None:
        self._scope = scope_name(next(SCOPE_NUMBERS))
        self._threads = ThreadPoolExecutor(workers)

    async def once(self, worker: int) -> Mapping[str, float]:
        agent = self._endpoint.agents[worker % len(self._endpoint.agents)]
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._cycle, agent)

    def _cycle(self, agent: Agent) -> Mapping[str, float]:
        start = time.perf_counter()
        with (
            stepcred.connect(self._endpoint.addr, agent.cert, agent.key, agent.ca) as broker,
            broker.step(workflow=agent.workflow, run=new_id(), step="load", scopes=[self._scope]) as step,
        ):
            step.issue(self._scope)
        assert step.all_proven
        return {"cycle": time.perf_counter() - start}

    async def finish(self) -> None:
        if self._threads:
            self._threads.shutdown()


def _differences(times: list[float]) -> Iterator[float]:
    return (later - earlier for earlier, later in itertools.pairwise(times))
