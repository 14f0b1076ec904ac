"""A broker with behaviour and without a backend: steps, leases, idempotency, scripted failures, over real gRPC.

Secrets that it hands out start with "s3cret-", so that a test can look for them anywhere.
"""

# ruff: noqa: N802 (the methods have the names of the contract)
from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Never, Self, TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1 import credential_pb2, lease_pb2
from stepcred.v1.broker_pb2_grpc import CredentialBrokerServicer, add_CredentialBrokerServicer_to_server

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One scripted answer. Without `reason` it carries no details, as a proxy or a dying server would answer."""

    code: grpc.StatusCode
    message: str = "refused"
    reason: str = ""
    verdict: str = "NEVER"
    retry_after: float | None = None
    pushback: str | None = None
    reference_id: str = "ref-1"
    metadata: tuple[tuple[str, str], ...] = ()

    def trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        trailers: list[tuple[str, str | bytes]] = []
        if self.reason:
            metadata = {**dict(self.metadata), "reference_id": self.reference_id, "verdict": self.verdict}
            details: list[Message] = [ErrorInfo(reason=self.reason, domain="stepcred", metadata=metadata)]
            if self.retry_after is not None:
                retry = RetryInfo()
                retry.retry_delay.FromTimedelta(timedelta(seconds=self.retry_after))
                details.append(retry)
            packed = [AnyMessage() for _ in details]
            for target, detail in zip(packed, details, strict=True):
                target.Pack(detail)
            status = Status(code=self.code.value[0], message=self.message, details=packed)
            trailers.append(("grpc-status-details-bin", status.SerializeToString()))
        if self.pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", self.pushback))
        return tuple(trailers)


UNAVAILABLE = Refusal(code=grpc.StatusCode.UNAVAILABLE, message="going away")
STEP_ENDED = Refusal(code=grpc.StatusCode.FAILED_PRECONDITION, message="this step has ended", reason="STEP_ENDED")
DENIED = Refusal(code=grpc.StatusCode.PERMISSION_DENIED, message="access denied", reason="ACCESS_DENIED")


def vault_token(lease_id: str) -> credential_pb2.Credential:
    token = credential_pb2.VaultToken(token=f"s3cret-{lease_id}", address="https://vault.test:8200")
    return credential_pb2.Credential(vault_token=token)


def aws_session(lease_id: str, endpoint_url: str = "") -> credential_pb2.Credential:
    session = credential_pb2.AwsSession(
        access_key_id="ASIATEST",
        secret_access_key=f"s3cret-{lease_id}",
        session_token="s3cret-session",
        region="eu-west-1",
        endpoint_url=endpoint_url,
    )
    return credential_pb2.Credential(aws_session=session)


def login(lease_id: str) -> credential_pb2.Credential:
    where = {"host": "db.test", "port": "5432", "database": "orders", "color": "blue"}
    pair = credential_pb2.UsernamePassword(username="v-step", password=f"s3cret-{lease_id}", attributes=where)
    return credential_pb2.Credential(username_password=pair)


def key_value(data: dict[str, str]) -> Callable[[str], credential_pb2.Credential]:
    return lambda _: credential_pb2.Credential(key_value=credential_pb2.KeyValue(data=data, version=3))


@dataclass
class FakeStep:
    handle: str
    name: pb.StepName
    scopes: list[str]
    leases: dict[str, str] = field(default_factory=dict)  # lease id → scope
    claimed: set[str] = field(default_factory=set)
    ended: bool = False


@dataclass
class FakeApproval:
    """An open one; what is decided against, used or too late is simply gone, as the broker tells it."""

    id: str
    needed: int
    given: int = 0
    expires_at: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(hours=8))

    @property
    def refusal(self) -> Refusal:
        told = {
            "approval_id": self.id,
            "approvals_needed": str(self.needed),
            "approvals_given": str(self.given),
            "approval_expires_at": self.expires_at.isoformat(),
        }
        return Refusal(
            code=grpc.StatusCode.FAILED_PRECONDITION,
            message="operators must approve this scope first; ask again when they have",
            reason="NEEDS_APPROVAL",
            verdict="NEEDS_APPROVAL",
            pushback="-1",
            metadata=tuple(told.items()),
        )


@dataclass
class FakeBroker(CredentialBrokerServicer):
    """Use in a `with`. `script("IssueCredential", UNAVAILABLE, DENIED)` makes the next two calls fail so."""

    tls: tuple[Path, Path, Path] | None = None  # certificate, key, client CA
    heartbeat: float = 10.0
    ttl: timedelta = timedelta(minutes=10)
    clock_ahead: timedelta = timedelta()  # of everybody else's
    ripe: float = 2 / 3  # of a lease's life: from then on it may be replaced
    scopes: dict[str, Callable[[str], credential_pb2.Credential]] = field(
        default_factory=lambda: {"orders-read": vault_token, "lake-write": aws_session, "orders-db": login}
    )
    exposed_for: timedelta | None = None  # set: leases are not proven dead at the step's end
    calls: list[tuple[str, Any]] = field(default_factory=list)
    steps: dict[str, FakeStep] = field(default_factory=dict)
    peers: list[bytes] = field(default_factory=list)  # the certificate of each call, PEM
    delay: dict[str, float] = field(default_factory=dict)
    port: int = 0
    needs: dict[str, int] = field(default_factory=dict)  # scope → operators who must approve it
    policies: dict[str, str] = field(default_factory=dict)  # scope → what is told of it to who asks
    reach: list[pb.ReachableScope] = field(default_factory=list)
    approvals: dict[tuple[str, str, str, str], FakeApproval] = field(default_factory=dict)  # (step key, scope) → open

    def __post_init__(self) -> None:
        self._scripts: dict[str, deque[Refusal]] = defaultdict(deque)
        self._replays: dict[str, Any] = {}
        self._minted = 0
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start, or start again on the same port with everything still known."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_CredentialBrokerServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self.tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            certificate, key, client_ca = (path.read_bytes() for path in self.tls)
            credentials = grpc.ssl_server_credentials([(key, certificate)], client_ca, require_client_auth=True)
            self.port = self._server.add_secure_port(address, credentials)
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=0).wait(timeout=5)

    @property
    def addr(self) -> str:
        return f"127.0.0.1:{self.port}"

    def script(self, method: str, *refusals: Refusal) -> None:
        self._scripts[method].extend(refusals)

    def unscript(self, method: str) -> None:
        """Whatever was scripted and not asked for."""
        self._scripts[method].clear()

    def requests(self, method: str) -> list[Any]:
        with self._lock:
            return [request for called, request in self.calls if called == method]

    def wait_for(self, condition: Callable[[], bool], timeout: float = 10.0) -> bool:
        """Wait until a call has made the condition true."""
        deadline = time.monotonic() + timeout
        with self._changed:
            return self._changed.wait_for(condition, timeout=deadline - time.monotonic())

    def only_step(self) -> FakeStep:
        (step,) = self.steps.values()
        return step

    def approve(self, scope: str) -> None:
        """One more operator says yes."""
        with self._changed:
            for (*_, name), approval in self.approvals.items():
                approval.given += name == scope

    def end_approvals(self, scope: str) -> None:
        """Denied, or over."""
        with self._changed:
            self.approvals = {key: one for key, one in self.approvals.items() if key[-1] != scope}

    # --- the service

    def BeginStep(self, request: pb.BeginStepRequest, context: grpc.ServicerContext) -> pb.BeginStepResponse:
        def answer() -> pb.BeginStepResponse:
            step = FakeStep(handle=uuid.uuid4().hex, name=request.name, scopes=list(request.scopes))
            self.steps[step.handle] = step
            response = pb.BeginStepResponse(step_handle=step.handle, attempt=1)
            response.scopes.extend(self._verdicts(request.scopes, request.name))
            response.heartbeat_interval.FromTimedelta(timedelta(seconds=self.heartbeat))
            response.deadline.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
            if request.on_behalf_of:
                response.start_within.FromTimedelta(timedelta(minutes=15))
            return response

        return self._serve("BeginStep", request, context, answer)

    def IssueCredential(
        self, request: pb.IssueCredentialRequest, context: grpc.ServicerContext
    ) -> pb.IssueCredentialResponse:
        def answer() -> pb.IssueCredentialResponse:
            step = self._open_step(request.step_handle, context)
            make = self.scopes.get(request.scope)
            if make is None or request.scope not in step.scopes:
                self._refuse(context, DENIED)
            self._use_approval(step.name, request.scope, context)
            self._minted += 1
            lease_id = f"lease-{self._minted}"
            step.leases[lease_id] = request.scope
            lease = lease_pb2.Lease(
                lease_id=lease_id,
                scope=request.scope,
                tier=lease_pb2.TIER_LOW,
                revocability=lease_pb2.REVOCABILITY_EXACT,
                state=lease_pb2.LEASE_STATE_ACTIVE,
            )
            now = datetime.now(UTC) + self.clock_ahead
            lease.issued_at.FromDatetime(now)
            lease.expires_at.FromDatetime(now + self.ttl)
            lease.successor_from.FromDatetime(now + self.ttl * self.ripe)
            return pb.IssueCredentialResponse(lease=lease, credential=make(lease_id))

        return self._serve("IssueCredential", request, context, answer)

    def Heartbeat(self, request: pb.HeartbeatRequest, context: grpc.ServicerContext) -> pb.HeartbeatResponse:
        def answer() -> pb.HeartbeatResponse:
            step = self._open_step(request.step_handle, context)
            step.claimed.update(request.held_lease_ids)
            gone = [lease_id for lease_id in request.held_lease_ids if lease_id not in step.leases]
            response = pb.HeartbeatResponse(ended_lease_ids=gone)
            response.next_heartbeat.FromTimedelta(timedelta(seconds=self.heartbeat))
            response.deadline.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
            return response

        return self._serve("Heartbeat", request, context, answer)

    def RevokeLease(self, request: pb.RevokeLeaseRequest, context: grpc.ServicerContext) -> pb.RevokeLeaseResponse:
        def answer() -> pb.RevokeLeaseResponse:
            step = self._open_step(request.step_handle, context)
            scope = step.leases.pop(request.lease_id, None)
            if scope is None:
                self._refuse(context, DENIED)
            return pb.RevokeLeaseResponse(lease=self._outcome(request.lease_id, scope))

        return self._serve("RevokeLease", request, context, answer)

    def EndStep(self, request: pb.EndStepRequest, context: grpc.ServicerContext) -> pb.EndStepResponse:
        def answer() -> pb.EndStepResponse:
            step = self._open_step(request.step_handle, context)
            step.ended = True
            outcomes = [self._outcome(lease_id, scope) for lease_id, scope in step.leases.items()]
            return pb.EndStepResponse(leases=outcomes, all_proven=self.exposed_for is None)

        return self._serve("EndStep", request, context, answer)

    def WhoAmI(self, request: pb.WhoAmIRequest, context: grpc.ServicerContext) -> pb.WhoAmIResponse:
        def answer() -> pb.WhoAmIResponse:
            match = pb.WorkloadMatch(workload="load", captures={"workflow": "nightly-etl"})
            return pb.WhoAmIResponse(
                spiffe_id="spiffe://test/workflow/nightly-etl/step/load",
                environment="dev",
                workloads=[match],
                scopes=sorted(self.scopes),
                certificate_sha256="ab" * 32,
                reach=self.reach,
            )

        return self._serve("WhoAmI", request, context, answer)

    def CheckAccess(self, request: pb.CheckAccessRequest, context: grpc.ServicerContext) -> pb.CheckAccessResponse:
        def answer() -> pb.CheckAccessResponse:
            name = self._open_step(request.step_handle, context).name if request.step_handle else request.name
            verdicts = self._verdicts(request.scopes, name)
            for verdict in verdicts if request.show_policy else ():
                verdict.policy = self.policies.get(verdict.scope, "")
            return pb.CheckAccessResponse(scopes=verdicts)

        return self._serve("CheckAccess", request, context, answer)

    # --- behaviour

    def _serve(self, method: str, request: Any, context: grpc.ServicerContext, answer: Callable[[], T]) -> T:
        """Record, delay, fail as scripted, replay a known request id, or answer."""
        with self._changed:
            self.calls.append((method, request))
            self.peers.extend(bytes(pem) for pem in context.auth_context().get("x509_pem_cert", ()))
            self._changed.notify_all()
            scripted = self._scripts[method].popleft() if self._scripts[method] else None
        time.sleep(self.delay.get(method, 0.0))
        if scripted is not None:
            self._refuse(context, scripted)
        with self._changed:
            request_id = getattr(request, "request_id", "")
            if request_id in self._replays:
                return cast("T", self._replays[request_id])
            response = answer()
            if request_id:
                self._replays[request_id] = response
            self._changed.notify_all()
            return response

    def _open_step(self, handle: str, context: grpc.ServicerContext) -> FakeStep:
        step = self.steps.get(handle)
        if step is None:
            self._refuse(context, DENIED)
        if step.ended:
            self._refuse(context, STEP_ENDED)
        return step

    def _refuse(self, context: grpc.ServicerContext, refusal: Refusal) -> Never:
        context.set_trailing_metadata(refusal.trailers())
        context.abort(refusal.code, refusal.message)
        raise AssertionError  # abort raises

    def _use_approval(self, name: pb.StepName, scope: str, context: grpc.ServicerContext) -> None:
        """Used once; asked for when it is not there."""
        needed = self.needs.get(scope, 0)
        if not needed:
            return
        key = _approval_key(name, scope)
        approval = self.approvals.setdefault(key, FakeApproval(id=f"approval{len(self.calls)}", needed=needed))
        if approval.given < needed:
            self._refuse(context, approval.refusal)
        del self.approvals[key]

    def _verdicts(self, scopes: Any, step: pb.StepName) -> list[pb.ScopeVerdict]:
        known = {name: pb.ScopeVerdict(scope=name, verdict=pb.VERDICT_GRANTED) for name in self.scopes}
        for name, verdict in known.items():
            verdict.ttl.FromTimedelta(timedelta(minutes=10))
            verdict.tier, verdict.revocability = lease_pb2.TIER_LOW, lease_pb2.REVOCABILITY_EXACT
            self._tell_approval(verdict, self.approvals.get(_approval_key(step, name)))
        return [known.get(name) or self._refused_verdict(name) for name in scopes]

    def _tell_approval(self, verdict: pb.ScopeVerdict, approval: FakeApproval | None) -> None:
        verdict.approvals_needed = self.needs.get(verdict.scope, 0)
        if verdict.approvals_needed and (approval is None or approval.given < approval.needed):
            verdict.verdict, verdict.reason = pb.VERDICT_NEEDS_APPROVAL, "NEEDS_APPROVAL"
        if approval is not None:
            verdict.approval_id, verdict.approvals_given = approval.id, approval.given
            verdict.approval_expires_at.FromDatetime(approval.expires_at)

    def _refused_verdict(self, scope: str) -> pb.ScopeVerdict:
        if scope != "out-of-hours":  # of what no grant gives, nothing is told
            return pb.ScopeVerdict(
                scope=scope, verdict=pb.VERDICT_REFUSED, reason="ACCESS_DENIED", reference_id="ref-9"
            )
        return pb.ScopeVerdict(
            scope=scope,
            verdict=pb.VERDICT_REFUSED,
            reason="SCOPE_REFUSED",
            rule="nightly-load",
            position="scopes.yaml:31",
            smallest_fix="when: {daily: {from: '22:00', to: '07:00'}}",
            reference_id="ref-8",
        )

    def _outcome(self, lease_id: str, scope: str) -> lease_pb2.LeaseOutcome:
        outcome = lease_pb2.LeaseOutcome(lease_id=lease_id, scope=scope, revocability=lease_pb2.REVOCABILITY_EXACT)
        if self.exposed_for is not None:
            outcome.state = lease_pb2.LEASE_STATE_REVOKING
            outcome.exposed_until.FromDatetime(datetime.now(UTC) + self.exposed_for)
            return outcome
        outcome.state = lease_pb2.LEASE_STATE_REVOKED
        outcome.evidence = lease_pb2.EVIDENCE_SEEN_DEAD
        outcome.time_to_dead.FromTimedelta(timedelta(milliseconds=41))
        return outcome


def _approval_key(name: pb.StepName, scope: str) -> tuple[str, str, str, str]:
    return name.workflow, name.run, name.step, scope
