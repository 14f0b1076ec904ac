"""A client without the SDK: what is on the wire, refusals included, byte by byte."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from stepcred.v1 import broker_pb2 as pb
from stepcred.v1.broker_pb2_grpc import CredentialBrokerStub
from tests.support.certs import Creds
from tests.support.daemon import Deployment

TIMEOUT = 20.0  # seconds for one call, waiting for evidence included

# What no client may ever see: Python's own words, and what secrets look like.
NEVER_TOLD = ("Traceback", 'File "', ".py", "Exception", "sqlite", "scv1-", "hvs.", "X-Vault")


def new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error as the client's transport got it."""

    code: grpc.StatusCode
    message: str
    trailers: Mapping[str, str | bytes]

    @property
    def status(self) -> status_pb2.Status:
        raw = self.trailers["grpc-status-details-bin"]
        assert isinstance(raw, bytes)
        return status_pb2.Status.FromString(raw)

    def detail(self, kind: type[Any]) -> list[Any]:
        """Every detail of this message type."""
        found = []
        for packed in self.status.details:
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found.append(message)
        return found

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        (info,) = self.detail(error_details_pb2.ErrorInfo)
        assert isinstance(info, error_details_pb2.ErrorInfo)
        return info

    @property
    def reason(self) -> str:
        return str(self.info.reason)

    @property
    def reference(self) -> str:
        return str(self.info.metadata["reference_id"])

    @property
    def retry_after(self) -> float | None:
        """Seconds of RetryInfo."""
        found = self.detail(error_details_pb2.RetryInfo)
        return float(found[0].retry_delay.ToTimedelta().total_seconds()) if found else None

    def text(self) -> str:
        """Everything that came back, to search in."""
        return " ".join(
            [self.message, repr(self.status), *(f"{key}={value!r}" for key, value in self.trailers.items())]
        )

    def without_reference(self) -> tuple[Any, ...]:
        """All of it but the reference id, to compare two refusals byte by byte."""
        reference = self.reference
        assert reference
        raw = {
            key: value.replace(reference.encode(), b"*") if isinstance(value, bytes) else value
            for key, value in self.trailers.items()
        }
        return self.code, self.message, raw


def check_refusal(
    refusal: Refusal, reason: str, code: grpc.StatusCode, *, retry: bool = False, journalled: bool = True
) -> None:
    """One clear error: a stable reason, a reference, advice on retrying that agrees with itself, and nothing else."""
    assert (refusal.reason, refusal.code) == (reason, code)
    assert refusal.info.domain == "stepcred"
    assert bool(refusal.reference) is journalled
    assert refusal.message
    assert (refusal.status.code, refusal.status.message) == (code.value[0], refusal.message)
    assert refusal.info.metadata["verdict"] == ("RETRY_AFTER" if retry else "NEVER")
    pushback = str(refusal.trailers["grpc-retry-pushback-ms"])
    if retry:
        assert refusal.retry_after is not None
        assert int(pushback) == round(refusal.retry_after * 1000)
    else:
        assert (refusal.retry_after, pushback) == (None, "-1")
    for text in NEVER_TOLD:
        assert text not in refusal.text(), f"{text} told to a client: {refusal.text()}"


class Wire:
    """One agent's connection."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = CredentialBrokerStub(channel)

    def call(self, method: str, request: Any) -> Any:
        """The answer, or grpc.RpcError."""
        return getattr(self._stub, method)(request, timeout=TIMEOUT, wait_for_ready=True)

    def quick(self, method: str, request: Any) -> Any:
        """The same of a server that may be down: then the error comes at once."""
        return getattr(self._stub, method)(request, timeout=TIMEOUT)

    def start(self, method: str, request: Any) -> Any:
        """The call in flight: a grpc future."""
        return getattr(self._stub, method).future(request, timeout=TIMEOUT, wait_for_ready=True)

    def refused(self, method: str, request: Any) -> Refusal:
        """The refusal; an answer fails the test. Does not wait for a server: a refused handshake is final."""
        try:
            answer = getattr(self._stub, method)(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            return refusal_of(error)
        raise AssertionError(f"{method} was answered: {type(answer).__name__}")

    def whoami(self) -> Any:
        return self.call("WhoAmI", pb.WhoAmIRequest())

    def begin(self, run: str, *scopes: str, workflow: str = "nightly", step: str = "load") -> str:
        """The handle of a newly opened step."""
        handle: str = self.call("BeginStep", begin(run, *scopes, workflow=workflow, step=step)).step_handle
        return handle

    def issue(self, handle: str, scope: str) -> Any:
        return self.call("IssueCredential", issue(handle, scope))

    def heartbeat(self, handle: str, *held: str) -> Any:
        return self.call("Heartbeat", pb.HeartbeatRequest(step_handle=handle, held_lease_ids=held))

    def end(self, handle: str, *, wait: int = 10) -> Any:
        return self.call("EndStep", end(handle, wait=wait))


@contextlib.contextmanager
def channel_to(addr: str, creds: Creds) -> Iterator[grpc.Channel]:
    """One of its own: nothing of another agent's connection is shared."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=creds.ca.read_bytes(),
        private_key=creds.key.read_bytes(),
        certificate_chain=creds.cert.read_bytes(),
    )
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(addr, credentials, options=options) as opened:
        yield opened


@contextlib.contextmanager
def channel(deployment: Deployment, creds: Creds) -> Iterator[grpc.Channel]:
    """To this daemon."""
    with channel_to(deployment.addr, creds) as opened:
        yield opened


@contextlib.contextmanager
def wire(deployment: Deployment, creds: Creds) -> Iterator[Wire]:
    """A client on a channel of its own."""
    with channel(deployment, creds) as opened:
        yield Wire(opened)


def begin(
    run: str, *scopes: str, workflow: str = "nightly", step: str = "load", request_id: str | None = None
) -> pb.BeginStepRequest:
    return pb.BeginStepRequest(
        request_id=new_id() if request_id is None else request_id,
        name=pb.StepName(workflow=workflow, run=run, step=step),
        scopes=scopes,
    )


def issue(handle: str, scope: str, request_id: str | None = None) -> pb.IssueCredentialRequest:
    return pb.IssueCredentialRequest(
        request_id=new_id() if request_id is None else request_id, step_handle=handle, scope=scope
    )


def end(handle: str, *, wait: int = 10, request_id: str | None = None) -> pb.EndStepRequest:
    return pb.EndStepRequest(
        request_id=new_id() if request_id is None else request_id,
        step_handle=handle,
        wait=duration_pb2.Duration(seconds=wait),
    )


def revoke(handle: str, lease_id: str, request_id: str | None = None) -> pb.RevokeLeaseRequest:
    return pb.RevokeLeaseRequest(
        request_id=new_id() if request_id is None else request_id,
        step_handle=handle,
        lease_id=lease_id,
        wait=duration_pb2.Duration(seconds=5),
    )


def send_bytes(deployment: Deployment, creds: Creds, method: str, sent: bytes) -> Refusal:
    """The refusal of bytes that no client would send."""
    with channel(deployment, creds) as opened:
        call: Any = opened.unary_unary(f"/stepcred.v1.CredentialBroker/{method}")
        try:
            call(sent, timeout=TIMEOUT)
        except grpc.RpcError as error:
            return refusal_of(error)
    raise AssertionError(f"{method} was answered")


def refusal_of(error: Any) -> Refusal:
    trailers = {item.key: item.value for item in error.trailing_metadata() or ()}
    return Refusal(code=error.code(), message=error.details(), trailers=trailers)


def evidences(ended: Any) -> Sequence[int]:
    """Of an EndStep's answer."""
    return [lease.evidence for lease in ended.leases]
