"""The one table from reasons to gRPC status codes, and how a refusal is put on the wire."""

from __future__ import annotations

from datetime import timedelta

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from broker.errors import BrokerError, Reason

DOMAIN = "stepcred"
PUSHBACK = "grpc-retry-pushback-ms"  # gRPC clients obey it by themselves; "-1" = never (measured)

MAX_TOLD = 2000  # characters of one detail: trailers of over 8 KiB are lost on the way, and the reason with them

C = grpc.StatusCode
CODES: dict[Reason, grpc.StatusCode] = {
    Reason.NO_CLIENT_CERTIFICATE: C.UNAUTHENTICATED,
    Reason.CERTIFICATE_INVALID: C.UNAUTHENTICATED,
    Reason.CERTIFICATE_EXPIRED: C.UNAUTHENTICATED,
    Reason.CERTIFICATE_REVOKED: C.UNAUTHENTICATED,
    Reason.SPIFFE_ID_INVALID: C.UNAUTHENTICATED,
    Reason.TRUST_DOMAIN_FOREIGN: C.UNAUTHENTICATED,
    Reason.AGENT_DENIED: C.UNAUTHENTICATED,
    Reason.INVALID_REQUEST_ID: C.INVALID_ARGUMENT,
    Reason.INVALID_NAME: C.INVALID_ARGUMENT,
    Reason.INVALID_ARGUMENT: C.INVALID_ARGUMENT,
    Reason.REQUEST_ID_REUSED: C.INVALID_ARGUMENT,
    Reason.ACCESS_DENIED: C.PERMISSION_DENIED,
    Reason.SCOPE_REFUSED: C.PERMISSION_DENIED,
    Reason.NEEDS_APPROVAL: C.FAILED_PRECONDITION,
    Reason.SCOPE_NOT_NAMED: C.PERMISSION_DENIED,
    Reason.TTL_TOO_SHORT: C.FAILED_PRECONDITION,
    Reason.STEP_ENDED: C.FAILED_PRECONDITION,
    Reason.STEP_ALIVE: C.FAILED_PRECONDITION,
    Reason.OPENED_BY_LAUNCHER: C.FAILED_PRECONDITION,
    Reason.LEASE_ENDED: C.FAILED_PRECONDITION,
    Reason.NOT_REPLACEABLE: C.FAILED_PRECONDITION,
    Reason.SUCCESSORS_EXHAUSTED: C.FAILED_PRECONDITION,
    Reason.REPLAY_LOST: C.ABORTED,
    Reason.FROZEN: C.FAILED_PRECONDITION,
    Reason.COOLING: C.RESOURCE_EXHAUSTED,
    Reason.LOCKED: C.FAILED_PRECONDITION,
    Reason.HELD: C.FAILED_PRECONDITION,
    Reason.CEILING: C.FAILED_PRECONDITION,
    Reason.RATE_LIMITED: C.RESOURCE_EXHAUSTED,
    Reason.OPERATOR_UNKNOWN: C.PERMISSION_DENIED,
    Reason.ROLE_MISSING: C.PERMISSION_DENIED,
    Reason.SECOND_FACTOR_MISSING: C.FAILED_PRECONDITION,
    Reason.CODE_WRONG: C.PERMISSION_DENIED,
    Reason.CODE_REPLAYED: C.PERMISSION_DENIED,
    Reason.CODE_LOCKED: C.RESOURCE_EXHAUSTED,
    Reason.OWNER_MAY_NOT: C.PERMISSION_DENIED,
    Reason.SIGNER_MAY_NOT: C.PERMISSION_DENIED,
    Reason.SIGNER_UNKNOWN: C.FAILED_PRECONDITION,
    Reason.VOTED_ALREADY: C.FAILED_PRECONDITION,
    Reason.OTHER_OPERATOR_NEEDED: C.FAILED_PRECONDITION,
    Reason.APPROVAL_EXPIRED: C.FAILED_PRECONDITION,
    Reason.APPROVAL_CHANGED: C.FAILED_PRECONDITION,
    Reason.APPROVAL_DECIDED: C.FAILED_PRECONDITION,
    Reason.NOT_FOUND: C.NOT_FOUND,
    Reason.NO_ROOM_TO_REVOKE: C.RESOURCE_EXHAUSTED,
    Reason.PROVIDER_FAILED: C.ABORTED,  # never UNAVAILABLE, which gRPC retries by itself
    Reason.STORE_UNAVAILABLE: C.ABORTED,
    Reason.DRAINING: C.UNAVAILABLE,  # before any intent: asking again elsewhere is right
    Reason.EPOCH_LOST: C.ABORTED,
    Reason.INTERNAL: C.INTERNAL,
}

_QUOTA = frozenset({Reason.COOLING, Reason.RATE_LIMITED, Reason.CODE_LOCKED, Reason.NO_ROOM_TO_REVOKE})
_PRECONDITION = frozenset({Reason.LOCKED, Reason.HELD, Reason.CEILING, Reason.FROZEN, Reason.NEEDS_APPROVAL})


def code_of(error: BrokerError) -> grpc.StatusCode:
    """Every reason has one code."""
    return CODES[error.reason]


def status_of(error: BrokerError) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo, and what the reason calls for."""
    metadata = {
        **{name: _cut(value) for name, value in error.metadata.items() if value},
        "reference_id": error.reference_id,
        "verdict": error.verdict.name,
    }
    details = [_pack(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN, metadata=metadata))]
    if error.retry_after is not None:
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=duration(error.retry_after))))
    subject = error.reason.value.lower()
    if error.reason in _QUOTA:
        violation = error_details_pb2.QuotaFailure.Violation(subject=subject, description=error.message)
        details.append(_pack(error_details_pb2.QuotaFailure(violations=[violation])))
    if error.reason in _PRECONDITION:
        failed = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason.value, subject=subject, description=error.message
        )
        details.append(_pack(error_details_pb2.PreconditionFailure(violations=[failed])))
    return status_pb2.Status(code=code_of(error).value[0], message=error.message, details=details)


def trailers_of(error: BrokerError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata: the status, and the pushback that gRPC's own retry policies obey."""
    wait = "-1" if error.retry_after is None else str(max(0, int(error.retry_after / timedelta(milliseconds=1))))
    return (("grpc-status-details-bin", status_of(error).SerializeToString()), (PUSHBACK, wait))


def _cut(value: str) -> str:
    return value if len(value) <= MAX_TOLD else value[:MAX_TOLD] + "…"


def duration(span: timedelta) -> duration_pb2.Duration:
    """A protobuf Duration."""
    message = duration_pb2.Duration()
    message.FromTimedelta(span)
    return message


def _pack(
    message: error_details_pb2.ErrorInfo
    | error_details_pb2.RetryInfo
    | error_details_pb2.QuotaFailure
    | error_details_pb2.PreconditionFailure,
) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
