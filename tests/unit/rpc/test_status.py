from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, Reason
from broker.rpc.status import CODES, DOMAIN, PUSHBACK, code_of, status_of, trailers_of

C = grpc.StatusCode


def test_every_reason_has_exactly_one_code() -> None:
    assert set(CODES) == set(Reason)


def test_only_what_came_before_any_intent_is_unavailable() -> None:
    """GRPC clients repeat UNAVAILABLE by themselves: a mint must never be among it."""
    assert [reason for reason, code in CODES.items() if code is C.UNAVAILABLE] == [Reason.DRAINING]


def test_no_reason_is_ok_or_unknown() -> None:
    assert not {C.OK, C.UNKNOWN, C.CANCELLED, C.DEADLINE_EXCEEDED} & set(CODES.values())


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_every_refusal_carries_its_reason_verdict_and_reference(reason: Reason) -> None:
    error = BrokerError(reason, "a message", metadata={"rule": "r", "empty": ""}, about={"scope": "not told"})
    error.reference_id = "ref"
    status = status_of(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason.value, DOMAIN)
    assert dict(info.metadata) == {"rule": "r", "reference_id": "ref", "verdict": "NEVER"}
    assert status.code == code_of(error).value[0]
    assert b"not told" not in status.SerializeToString()


@pytest.mark.parametrize("reason", [Reason.COOLING, Reason.RATE_LIMITED], ids=lambda reason: reason.value)
def test_a_quota_names_what_is_exhausted(reason: Reason) -> None:
    found = _detail(status_of(BrokerError(reason, "m")), error_details_pb2.QuotaFailure)
    assert isinstance(found, error_details_pb2.QuotaFailure)
    assert found.violations[0].subject == reason.value.lower()


@pytest.mark.parametrize(
    "reason",
    [Reason.LOCKED, Reason.HELD, Reason.CEILING, Reason.FROZEN, Reason.NEEDS_APPROVAL],
    ids=lambda reason: reason.value,
)
def test_a_precondition_names_what_must_change_first(reason: Reason) -> None:
    found = _detail(status_of(BrokerError(reason, "m")), error_details_pb2.PreconditionFailure)
    assert isinstance(found, error_details_pb2.PreconditionFailure)
    assert found.violations[0].type == reason.value


@given(st.sampled_from(Reason), st.none() | st.timedeltas(timedelta(seconds=-5), timedelta(days=365)))
def test_retry_info_and_pushback_say_the_same(reason: Reason, wait: timedelta | None) -> None:
    error = BrokerError(reason, "m", retry_after=wait)
    found = _detail(status_of(error), error_details_pb2.RetryInfo)
    pushback = dict(trailers_of(error))[PUSHBACK]
    assert (found is None) is (wait is None)
    if wait is None:
        assert pushback == "-1"  # never
    else:
        assert int(pushback) == max(0, wait // timedelta(milliseconds=1))
        assert error.verdict.name == "RETRY_AFTER"


def test_trailers_stay_below_what_clients_take() -> None:
    """8 KiB by default, in Base64; the longest fix of a map is longer."""
    told = {"denial": "WORKFLOW_NOT_GRANTED", "rule": "r" * 300, "smallest_fix": "x" * 20_000}
    error = BrokerError(Reason.SCOPE_REFUSED, "m" * 300, metadata=told)
    error.reference_id = "r" * 32
    raw = dict(trailers_of(error))["grpc-status-details-bin"]
    assert len(raw) * 4 / 3 < 6000
    info = _detail(status_of(error), error_details_pb2.ErrorInfo)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.metadata["smallest_fix"] == "x" * 2000 + "…"


def _detail(status: status_pb2.Status, kind: Callable[[], Message]) -> Message | None:
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            return message
    return None
