"""From a failed call to one of our exceptions, and to whether it may be sent again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepcred._errors import (
    BrokerUnavailable,
    DeadlineExceeded,
    StepcredError,
    TlsRefused,
    UnexpectedAnswer,
    Verdict,
    refusal_class,
)

DOMAIN = "stepcred"


class CallFailed(Exception):
    """A call's failure as the transport tells it. `code` is gRPC's name of it, for example UNAVAILABLE."""

    def __init__(self, code: str, details: str, metadata: tuple[tuple[str, str | bytes], ...]) -> None:
        super().__init__(code)
        self.code = code
        self.details = details
        self.metadata = metadata


def call_failed(code: str, details: str | None, metadata: Iterable[Any] | None) -> CallFailed:
    return CallFailed(code, details or "", tuple((str(key), value) for key, value in metadata or ()))


def may_retry(failure: CallFailed) -> bool:
    """Only UNAVAILABLE is worth the same request again, and not when a certificate was refused."""
    return failure.code == "UNAVAILABLE" and not _tls_text(failure.details) and (pushback(failure) or 0) >= 0


def pushback(failure: CallFailed) -> float | None:
    """Seconds that the broker asks to wait; negative = never again; None = it did not say.

    What cannot be read counts as never, as gRPC's own clients hold it.
    """
    for key, value in failure.metadata:
        if key == "grpc-retry-pushback-ms":
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            return int(text) / 1000 if text.isascii() and text.isdigit() else -1.0
    return None


def error_of(failure: CallFailed, addr: str) -> StepcredError:
    """The exception that a user sees."""
    info, retry_after = _details(failure)
    if info is None:
        return _without_details(failure, addr)
    told = dict(info.metadata)
    reference = told.pop("reference_id", "")
    message = failure.details or info.reason
    if failure.code == "UNAVAILABLE":
        return BrokerUnavailable(message, reason=info.reason, reference_id=reference, retry_after=retry_after)
    verdict = Verdict.__members__.get(told.pop("verdict", ""))
    if verdict is None:
        verdict = Verdict.NEVER if retry_after is None else Verdict.RETRY_AFTER
    return refusal_class(info.reason)(
        message,
        reason=info.reason,
        verdict=verdict,
        retry_after=retry_after,
        reference_id=reference,
        metadata=told,
    )


def _details(failure: CallFailed) -> tuple[ErrorInfo | None, float | None]:
    info, retry_after = None, None
    for key, value in failure.metadata:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        try:
            for detail in Status.FromString(value).details:
                if detail.Is(ErrorInfo.DESCRIPTOR):
                    found = ErrorInfo()
                    detail.Unpack(found)
                    info = found if found.domain == DOMAIN else info
                elif detail.Is(RetryInfo.DESCRIPTOR):
                    retry = RetryInfo()
                    detail.Unpack(retry)
                    retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        except DecodeError:
            return None, None
    return info, retry_after


def _without_details(failure: CallFailed, addr: str) -> StepcredError:
    if failure.code == "DEADLINE_EXCEEDED":
        return DeadlineExceeded(f"no answer from the broker at {addr} in time")
    if failure.code == "UNAVAILABLE":
        tls = _tls_text(failure.details)
        if tls:
            return TlsRefused(f"{addr}: {tls}")
        return BrokerUnavailable(f"the broker at {addr} cannot be reached: {_last_words(failure.details)}")
    return UnexpectedAnswer(f"{addr} answered {failure.code} as no broker does: {failure.details[:200]}")


def _tls_text(details: str) -> str:
    """What gRPC 1.85 writes when a handshake fails (measured), in words that help; empty for other failures."""
    if "Hostname Verification Check failed" in details:
        return "the broker's certificate is not for this host name; is STEPCRED_ADDR the name in the certificate?"
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "this client does not trust the broker's certificate; does STEPCRED_CA, or the Workload API's bundle of the "
            "broker's trust domain, hold the CA that issued it?"
        )
    if "WRONG_VERSION_NUMBER" in details:
        return "the server does not speak TLS; is STEPCRED_ADDR the broker's own address?"
    # TLS 1.3 lets the client finish before the server has looked at its certificate: a refusal is no alert,
    # only a connection that is gone before its first HTTP/2 frame.
    if "failed to connect to all addresses" in details and (
        "Socket closed" in details or "Connection reset" in details
    ):
        return (
            "the broker refused this client's certificate: the connection was closed in the TLS handshake. Is "
            "STEPCRED_CERT issued by a CA that the broker trusts, not expired, and made for client authentication?"
        )
    return ""


def _last_words(details: str) -> str:
    return details.rpartition("last error: ")[2][:200]
