"""Steps of several agents that survive the daemon's deaths, and what their clients know of their sessions."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from stepcred.v1 import broker_pb2 as pb
from tests.crash.aws.site import SILENCE, TEAMS, TTL, Site
from tests.crash.load import CALL, EXPECTED, FINISH, Step, ask_again, begin, channel, end, gather_all

AGAIN = 0.05  # seconds after a refusal
MOST_KEPT = 6  # steps that go on; each holds a session or two
BEAT = 1.0  # seconds between heartbeats of those that go on
OLD = 15.0  # seconds of its life left: a step that goes on then ends


@dataclass
class Known:
    """By lease id. What nobody was told is in none of them."""

    delivered: dict[str, str] = field(default_factory=dict)  # the session's access key id
    living: set[str] = field(default_factory=set)  # claimed, and its step goes on
    over: dict[str, float] = field(default_factory=dict)  # monotonic: since when it should end
    taken: set[str] = field(default_factory=set)  # were living, and nobody asked for their end
    two: set[str] = field(default_factory=set)  # leases that were two sessions
    rounds: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # code → how often

    def got(self, answer: Any) -> None:
        """An answer of IssueCredential."""
        lease_id, key = answer.lease.lease_id, answer.credential.aws_session.access_key_id
        if self.delivered.setdefault(lease_id, key) != key:
            self.two.add(lease_id)

    def claimed(self, leases: Sequence[str], *, but: Sequence[str]) -> None:
        """By a heartbeat that was answered; `but`: those that the daemon has ended by itself."""
        self.taken |= self.living & set(but)
        self.living |= set(leases) - set(but)
        self.ended(but)

    def ends(self, leases: Sequence[str]) -> None:
        """It was asked for; nobody knows when it comes about."""
        self.living -= set(leases)

    def ended(self, leases: Sequence[str], *, after: float = 0.0) -> None:
        """The daemon has said so, or will `after` seconds."""
        self.ends(leases)
        self.over |= {one: time.monotonic() + after for one in leases if one not in self.over}


@dataclass
class _Step(Step):
    """And what it holds."""

    claimed: bool = False
    leases: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)


class Worker:
    """One step after the other, of one agent. What the daemon's death interrupts is taken up with its request ids."""

    def __init__(self, site: Site, known: Known, number: int, seed: int) -> None:
        self._scopes = site.scopes
        self._known = known
        self.team = number % TEAMS
        self._random = random.Random(seed + number)
        self._step = _Step()
        self._staying: list[_Step] = []

    async def run(self, stub: Any) -> None:
        """Until cancelled."""
        while True:
            await self._once(stub)

    async def finish(self, stub: Any) -> None:
        """The step at hand; those that stay, stay."""
        while not await self._once(stub, ends=True):
            pass

    async def stay(self, stub: Any) -> None:
        """Those that go on are alive, until cancelled."""
        while True:
            for step in list(self._staying):
                await self._beat(stub, step)
            await asyncio.sleep(BEAT)

    async def leave(self, stub: Any) -> None:
        """Those that go on end."""
        while self._staying:
            self._step = self._staying.pop()
            self._step.issued = self._step.claimed = True
            await self.finish(stub)

    async def _once(self, stub: Any, *, ends: bool = False) -> bool:
        try:
            await self._round(stub, ends=ends)
        except grpc.aio.AioRpcError as error:
            self._refused(error)
            await asyncio.sleep(AGAIN)
            return False
        self._known.rounds += 1
        return True

    def _refused(self, error: grpc.aio.AioRpcError) -> None:
        name = error.code().name
        self._known.refused[name] = self._known.refused.get(name, 0) + 1
        if error.code() not in EXPECTED:
            raise error
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:  # it has ended: by its own, unanswered, EndStep
            self._known.ended(self._step.leases)
            self._step = _Step()
        elif error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            self._step.issued = True  # no room on the role, or too many of its mints failed
            self._step.asked.clear()

    async def _round(self, stub: Any, *, ends: bool) -> None:
        step = self._step
        await begin(stub, step, f"team{self.team}", self._scopes)
        await ask_again(step, partial(self._ask, stub, step))
        if not step.issued:
            await self._issue(stub, step)
            step.issued = True
        if step.leases and not step.claimed and self._random.random() < 0.85:
            await self._claim(stub, step)
        await self._leave(stub, step, ends=ends)
        self._step = _Step()

    async def _issue(self, stub: Any, step: _Step) -> None:
        for scope in self._random.sample(self._scopes, self._random.choice((1, 1, 2))):
            step.asked[str(uuid.uuid4())] = scope
        asked = [*step.asked.items()]
        if self._random.random() < 0.2:
            asked.append(asked[0])  # one request twice at once
        await gather_all([self._ask(stub, step, request_id, scope) for request_id, scope in asked])

    async def _claim(self, stub: Any, step: _Step) -> None:
        request = pb.HeartbeatRequest(step_handle=step.handle, held_lease_ids=step.leases)
        told = await stub.Heartbeat(request, timeout=CALL)
        step.claimed = True
        self._known.claimed(step.leases, but=told.ended_lease_ids)

    async def _leave(self, stub: Any, step: _Step, *, ends: bool) -> None:
        """It goes on, is forgotten by its client, takes back one of its leases, or ends."""
        fate = self._random.random()
        if not ends and fate < 0.25 and step.claimed and len(self._staying) < MOST_KEPT / 2:
            self._staying.append(step)
            return
        if not ends and fate < 0.33:
            self._known.ended(step.leases, after=SILENCE)
            return
        await asyncio.sleep(self._random.uniform(0, 0.8))
        if fate < 0.45 and step.leases:
            self._known.ends(step.leases[:1])
            request = pb.RevokeLeaseRequest(
                request_id=str(uuid.uuid4()), step_handle=step.handle, lease_id=step.leases[0]
            )
            await stub.RevokeLease(request, timeout=CALL)
            self._known.ended(step.leases[:1])
        self._known.ends(step.leases)
        await stub.EndStep(
            pb.EndStepRequest(request_id=step.end_id, step_handle=step.handle, wait=Duration(seconds=0)), timeout=CALL
        )
        self._known.ended(step.leases)

    async def _beat(self, stub: Any, step: _Step) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._claim(stub, step)
            if time.monotonic() - step.begun < min(TTL.values()) - OLD or step not in self._staying:
                return
            self._known.ends(step.leases)
            await stub.EndStep(pb.EndStepRequest(request_id=step.end_id, step_handle=step.handle), timeout=CALL)
            self._known.ended(step.leases)
            self._staying.remove(step)

    async def _ask(self, stub: Any, step: _Step, request_id: str, scope: str) -> None:
        request = pb.IssueCredentialRequest(request_id=request_id, step_handle=step.handle, scope=scope)
        answer = await stub.IssueCredential(request, timeout=CALL)
        self._known.got(answer)
        if answer.lease.lease_id not in step.leases:
            step.leases.append(answer.lease.lease_id)
        step.asked.pop(request_id, None)


class Load:
    """The workers, with one connection per agent and life of the daemon."""

    def __init__(self, site: Site, workers: int, seed: int) -> None:
        self.known = Known()
        self._addr = site.deployment.addr
        self._creds = [site.deployment.agent(f"workflow/team{number}/step/load") for number in range(TEAMS)]
        self._workers = [Worker(site, self.known, number, seed) for number in range(workers)]

    @contextlib.asynccontextmanager
    async def running(self) -> Any:
        """While the daemon lives. A worker's own failure is raised at the end."""
        async with self._stubs() as stubs:
            tasks = [asyncio.create_task(worker.run(stubs[worker.team])) for worker in self._workers]
            tasks += [asyncio.create_task(worker.stay(stubs[worker.team])) for worker in self._workers]
            yield
            await end(tasks)

    @contextlib.asynccontextmanager
    async def finishing(self) -> Any:
        """Every worker ends the step that it has; those that go on do so meanwhile."""
        async with self._stubs() as stubs:
            staying = [asyncio.create_task(worker.stay(stubs[worker.team])) for worker in self._workers]
            async with asyncio.timeout(FINISH):
                await gather_all([worker.finish(stubs[worker.team]) for worker in self._workers])
            yield
            await end(staying)

    async def leave(self) -> None:
        """Nobody goes on."""
        async with self._stubs() as stubs, asyncio.timeout(FINISH):
            await gather_all([worker.leave(stubs[worker.team]) for worker in self._workers])

    @contextlib.asynccontextmanager
    async def _stubs(self) -> Any:
        async with contextlib.AsyncExitStack() as stack:
            yield [await stack.enter_async_context(channel(self._addr, creds)) for creds in self._creds]
