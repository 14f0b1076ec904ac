"""The methods of CredentialBroker: proto in, engine, proto out. Nothing is decided here."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from broker.clock import Clock
from broker.config import Limits, Timings
from broker.errors import BrokerError, Reason, access_denied
from broker.leases.beginning import ScopeAnswer
from broker.leases.core import check_name, check_scopes
from broker.leases.engine import Engine
from broker.leases.issuing import asking
from broker.leases.opening import opening
from broker.model import Agent, StepKey
from broker.policy.decision import Allowed
from broker.policy.live.holder import Policies
from broker.policy.showing import document
from broker.policy.within_reach import within_reach
from broker.rpc import convert
from broker.rpc.pipeline import Method
from broker.rpc.status import duration
from stepcred.v1 import broker_pb2

MAX_WAIT = 30.0  # seconds for evidence, for a caller whose call has no deadline
REPLY_MARGIN = 0.5  # seconds kept for the answer's own way
MAX_HANDLE = 64  # characters
MAX_HELD = 1000  # lease ids in one heartbeat
MAX_INPUT = 8192  # bytes of public key or CSR


class Servicer:
    """One method per rpc; each gets an authenticated agent."""

    def __init__(self, engine: Engine, policies: Policies, timings: Timings, clock: Clock, limits: Limits) -> None:
        self._engine = engine
        self._policies = policies
        self._timings = timings
        self._clock = clock
        # For evidence, half of an agent's places, and three quarters of all: heartbeats need some.
        self._max_waiting, self._all_waiting = limits.max_agent_rpcs // 2, limits.room * 3 // 4
        self._waiting: Counter[str] = Counter()  # agent → calls that give back

    def methods(self) -> Mapping[str, Method]:
        """Name in the service → implementation."""
        return {
            "BeginStep": self.begin_step,
            "IssueCredential": self.issue_credential,
            "Heartbeat": self.heartbeat,
            "RevokeLease": self.revoke_lease,
            "EndStep": self.end_step,
            "WhoAmI": self.who_am_i,
            "CheckAccess": self.check_access,
        }

    async def begin_step(self, request: broker_pb2.BeginStepRequest, agent: Agent, _context: Any) -> Message:
        asked = opening(
            agent=agent,
            request_id=request.request_id,
            workflow=request.name.workflow,
            run=request.name.run,
            step=request.name.step,
            scopes=request.scopes,
            seconds=_seconds(request, "max_duration"),
            on_behalf_of=request.on_behalf_of,
            definition_digest=request.definition_digest,
        )
        opened = await self._engine.begin_step(agent, asked)
        start_within = duration(self._timings.start_within) if opened.step.launched else None
        return broker_pb2.BeginStepResponse(
            step_handle=opened.handle,
            attempt=opened.step.attempt,
            heartbeat_interval=duration(self._timings.heartbeat),
            silence_bound=duration(self._timings.silence_bound),
            deadline=convert.timestamp(opened.step.deadline_at),
            scopes=map(convert.verdict, opened.answers),
            start_within=start_within,
        )

    async def issue_credential(
        self, request: broker_pb2.IssueCredentialRequest, agent: Agent, _context: Any
    ) -> Message:
        public_input = request.public_key or request.csr
        if len(public_input) > MAX_INPUT:
            raise BrokerError(Reason.INVALID_ARGUMENT, f"public_key or csr is larger than {MAX_INPUT} bytes")
        asked = asking(
            request_id=request.request_id,
            scope=request.scope,
            replaces=request.replaces,
            public_input=public_input,
        )
        delivered = await self._engine.issue(agent, _handle(request.step_handle), asked)
        return convert.issued(delivered)

    async def heartbeat(self, request: broker_pb2.HeartbeatRequest, agent: Agent, _context: Any) -> Message:
        if len(request.held_lease_ids) > MAX_HELD:
            raise BrokerError(Reason.INVALID_ARGUMENT, f"more than {MAX_HELD} lease ids in one heartbeat")
        beat = await self._engine.heartbeat(agent, _handle(request.step_handle), request.held_lease_ids)
        return broker_pb2.HeartbeatResponse(
            next_heartbeat=duration(self._timings.heartbeat),
            deadline=convert.timestamp(beat.deadline_at),
            ended_lease_ids=beat.ended,
        )

    async def revoke_lease(self, request: broker_pb2.RevokeLeaseRequest, agent: Agent, context: Any) -> Message:
        with self._patience(agent, request, context) as seconds:
            outcome = await self._engine.revoke_lease(
                agent,
                request_id=request.request_id,
                handle=_handle(request.step_handle),
                lease_id=check_name("lease_id", request.lease_id),
                wait_seconds=seconds,
            )
        return broker_pb2.RevokeLeaseResponse(lease=convert.outcome(outcome))

    async def end_step(self, request: broker_pb2.EndStepRequest, agent: Agent, context: Any) -> Message:
        with self._patience(agent, request, context) as seconds:
            ended = await self._engine.end_step(
                agent,
                request_id=request.request_id,
                handle=_handle(request.step_handle),
                wait_seconds=seconds,
            )
        return convert.ended(ended)

    @contextlib.contextmanager
    def _patience(self, agent: Agent, request: Any, context: Any) -> Iterator[float]:
        """Seconds to wait for evidence. None for one who has many calls waiting: giving back is not refused for that."""
        crowded = self._waiting[agent.spiffe_id] >= self._max_waiting or self._waiting.total() >= self._all_waiting
        self._waiting[agent.spiffe_id] += 1
        try:
            yield 0.0 if crowded else _wait(request, context)
        finally:
            self._waiting[agent.spiffe_id] -= 1
            if not self._waiting[agent.spiffe_id]:
                del self._waiting[agent.spiffe_id]

    async def who_am_i(self, _request: broker_pb2.WhoAmIRequest, agent: Agent, _context: Any) -> Message:
        scope_map, now = self._policies.map, self._clock.now()
        reach, left_out = convert.reach(within_reach(scope_map, agent.spiffe_id, now))
        return broker_pb2.WhoAmIResponse(
            spiffe_id=agent.spiffe_id,
            environment=scope_map.environment,
            workloads=[
                broker_pb2.WorkloadMatch(workload=name, captures=dict(captures))
                for name, captures in scope_map.workloads_of(agent.spiffe_id)
            ],
            certificate_not_after=convert.timestamp(agent.not_after),
            certificate_sha256=agent.cert_sha256,
            server_time=convert.timestamp(now),
            scopes=scope_map.scopes_of(agent.spiffe_id),
            reach=reach,
            reach_left_out=left_out,
        )

    async def check_access(self, request: broker_pb2.CheckAccessRequest, agent: Agent, _context: Any) -> Message:
        if request.step_handle:
            if request.HasField("name"):
                raise BrokerError(
                    Reason.INVALID_ARGUMENT, "give the name of a step or the handle of an open one, not both"
                )
            scopes = check_scopes(request.scopes)
            answers = await self._engine.check_open(agent, _handle(request.step_handle), scopes)
            return self._checked(answers, request)
        key = StepKey(
            agent=agent.spiffe_id,
            workflow=check_name("workflow", request.name.workflow),
            run=check_name("run", request.name.run),
            step=check_name("step", request.name.step),
        )
        answers = await self._engine.check_access(key, check_scopes(request.scopes), address=agent.address)
        return self._checked(answers, request)

    def _checked(self, answers: Sequence[ScopeAnswer], request: broker_pb2.CheckAccessRequest) -> Message:
        """What a credential could do is told of scopes that the agent may have, with approval or without: of no other."""
        response = broker_pb2.CheckAccessResponse(scopes=map(convert.verdict, answers))
        if request.show_policy:
            for message, answer in zip(response.scopes, answers, strict=True):
                message.policy = self._policy(answer)
        return response

    def _policy(self, answer: ScopeAnswer) -> str:
        decision = answer.decision
        if not isinstance(decision, Allowed) or answer.until is None:
            return ""
        kind = self._policies.kinds[decision.provider]
        return document(kind, decision, now=answer.asked.now, until=answer.until)


def _handle(text: str) -> str:
    """A handle of impossible length is just another unknown one."""
    if not 0 < len(text) <= MAX_HANDLE:
        raise access_denied()
    return text


def _seconds(request: Any, field: str) -> float | None:
    if not request.HasField(field):
        return None
    value = getattr(request, field)
    return float(value.seconds) + float(value.nanos) / 1e9


def _wait(request: Any, context: Any) -> float:
    """How long to wait for evidence: as asked, and within the call's own deadline."""
    asked = max(0.0, _seconds(request, "wait") or 0.0)
    remaining = context.time_remaining()
    return min(asked, MAX_WAIT if remaining is None else max(0.0, remaining - REPLY_MARGIN))
