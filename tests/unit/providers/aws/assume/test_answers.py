"""Answers of an STS, of something that is none, and of one that means harm."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.parsers import QueryParser
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from broker.providers.aws.assume.answers import MOST_BYTES, UNREADABLE, read
from broker.providers.aws.calls import Failure
from tests.bench.aws_stub import answer

WHOLE = answer().partition(b"\r\n\r\n")[2]
SHAPE = Session().get_service_model("sts").operation_model("AssumeRole").output_shape
FIELDS = "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"
LAUGHS = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]>'
    b"<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>&c;</AccessKeyId></Credentials>"
    b"</AssumeRoleResult></AssumeRoleResponse>"
)
FILE = b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a><Code>&x;</Code></a>'


def error(code: str) -> bytes:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>no</Message></Error></ErrorResponse>".encode()


def session_of(body: bytes) -> dict[str, Any]:
    told = read(200, body)
    assert not isinstance(told, Failure)
    return told


def test_it_reads_what_the_sdk_reads() -> None:
    assert SHAPE is not None
    theirs = QueryParser().parse({"body": WHOLE, "status_code": 200, "headers": {}}, SHAPE)
    ours = session_of(WHOLE)
    assert ours["Credentials"] == theirs["Credentials"]
    assert ours["AssumedRoleUser"]["Arn"] == theirs["AssumedRoleUser"]["Arn"]
    assert ours["ResponseMetadata"]["RequestId"] == theirs["ResponseMetadata"]["RequestId"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml at all",
        WHOLE[:-20],
        WHOLE.replace(b"ASIA", b"\xe9\xe8"),  # latin-1
        WHOLE.decode().encode("utf-16"),
        WHOLE.decode().encode("utf-16-be"),
        FILE.decode().encode("utf-16"),
        FILE.decode().encode("utf-16-le"),
        b'<?xml version="1.0" encoding="utf-16"?>' + WHOLE.decode().encode("utf-16"),
        WHOLE + b" " * MOST_BYTES,
        WHOLE + WHOLE,
        LAUGHS,
        FILE,
        WHOLE.replace(b"<PackedPolicySize>", b"&undefined;<PackedPolicySize>"),
        b'{"AssumeRoleResponse": {}}',
        b"<!doctype html><html><body>Please log in<br></body></html>",
    ],
)
def test_what_is_no_answer_of_sts_is_not_read(body: bytes) -> None:
    assert read(200, body) == Failure(code=UNREADABLE, status=200)
    assert read(403, body) == Failure(code=UNREADABLE, status=403)


@pytest.mark.parametrize(
    ("end", "more"),
    [
        (b"</Credentials>", b"<Credentials><AccessKeyId>B</AccessKeyId></Credentials>"),
        (b"</SessionToken>", b"<SessionToken>other</SessionToken>"),
        (b"</AssumeRoleResult>", b"<AssumeRoleResult/>"),
    ],
)
def test_two_of_a_kind_are_none(end: bytes, more: bytes) -> None:
    assert read(200, WHOLE.replace(end, end + more)) == Failure(code=UNREADABLE, status=200)


def test_depth_and_breadth_cost_no_more_than_the_bytes_that_they_are_written_in() -> None:
    """A tree of Python's is let go of without recursion."""
    for body in (b"<a>" * 9_000 + b"</a>" * 9_000, b"<a>" + b"<b/>" * 16_000 + b"</a>"):
        assert len(body) < MOST_BYTES
        told = read(200, body)
        assert isinstance(told, Failure) or not any(told["Credentials"].values())


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("held", ["", " ", "a b", "schlüssel", "a\r\nb", "<b>x</b>", "a<b/>c", None])
def test_a_field_that_is_missing_or_unfit_is_not_there(name: str, held: str | None) -> None:
    start, _, rest = WHOLE.decode().partition(f"<{name}>")
    rest = rest.partition(f"</{name}>")[2]
    field = "" if held is None else f"<{name}>{held}</{name}>"
    credentials = session_of(f"{start}{field}{rest}".encode())["Credentials"]
    assert not credentials.pop(name)
    assert all(credentials.values())


@pytest.mark.parametrize("text", ["soon", "1764352800", "2026-11-28", "2026-11-28T18:00:00", "99999-01-01T00:00:00Z"])
def test_an_end_without_a_zone_is_none(text: str) -> None:
    start, _, rest = WHOLE.decode().partition("<Expiration>")
    body = f"{start}<Expiration>{text}{rest[rest.index('</Expiration>') :]}"
    assert session_of(body.encode())["Credentials"]["Expiration"] is None


def test_an_end_may_have_fractions_and_another_zone() -> None:
    """Ceph writes nanoseconds."""
    start, _, rest = WHOLE.decode().partition("<Expiration>")
    body = f"{start}<Expiration>2026-11-28T19:00:00.123456789+01:00{rest[rest.index('</Expiration>') :]}"
    found = session_of(body.encode())["Credentials"]["Expiration"]
    assert found == datetime(2026, 11, 28, 18, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (error("AccessDenied"), "AccessDenied"),
        (
            error("AccessDenied").replace(b"<ErrorResponse>", b'<ErrorResponse xmlns="https://sts.aws/">'),
            "AccessDenied",
        ),
        (b"<ErrorResponse><Errors><Error><Code>AccessDenied</Code></Error></Errors></ErrorResponse>", "AccessDenied"),
        (b"<ErrorResponse><Code>NoSuchEntity</Code></ErrorResponse>", "NoSuchEntity"),
        (b"<html><body>Access denied by policy</body></html>", ""),
        (error("Access Denied\nINFO forged"), ""),
        (error("schlüssel"), ""),
        (b"<Error><Code/></Error>", ""),
    ],
)
def test_a_code_is_one_word_of_the_service(body: bytes, code: str) -> None:
    assert read(403, body) == Failure(code=code, status=403)


@pytest.mark.parametrize("status", [100, 201, 204, 301, 307, 400, 500, 503])
def test_a_session_comes_with_200_alone(status: int) -> None:
    assert read(status, WHOLE) == Failure(code="", status=status)


def test_an_error_with_200_holds_no_session() -> None:
    assert not any(session_of(error("AccessDenied"))["Credentials"].values())


@given(st.binary(max_size=300) | st.integers(0, len(WHOLE)).map(lambda end: WHOLE[:end]))
def test_nothing_but_a_whole_answer_gives_a_session(body: bytes) -> None:
    told = read(200, body)
    whole = body.rstrip() == WHOLE.rstrip()
    assert isinstance(told, Failure) or all(told["Credentials"].values()) is whole
