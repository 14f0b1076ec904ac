"""What is sent is what the SDK would have sent: its serializer and its signer are the measure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl, quote_plus

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.serialize import QuerySerializer
from botocore.session import Session
from hypothesis import given
from hypothesis import strategies as st

from broker.providers.aws.assume.form import form, quoted
from broker.providers.aws.assume.place import StsPlace
from broker.providers.aws.assume.signing import CONTENT_TYPE, signed
from broker.providers.aws.login.identity import Keys
from broker.providers.http import Origin
from broker.secret import Secret

STS = Session().get_service_model("sts").operation_model("AssumeRole")
NOW = datetime(2026, 11, 28, 18, 5, 9, 999, tzinfo=UTC)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
headers = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
parameters = st.fixed_dictionaries(
    {"RoleArn": texts, "RoleSessionName": texts, "DurationSeconds": st.integers(900, 43_200), "Policy": texts},
    optional={
        "PolicyArns": st.lists(st.fixed_dictionaries({"arn": texts}), min_size=1, max_size=3),
        "Tags": st.lists(st.fixed_dictionaries({"Key": texts, "Value": texts}), min_size=1, max_size=3),
        "TransitiveTagKeys": st.lists(texts, min_size=1, max_size=3),
        "SourceIdentity": texts,
        "ExternalId": texts,
    },
)


def place(url: str, region: str = "eu-west-1") -> StsPlace:
    return StsPlace(origin=Origin.of(url), plain=True, region=region, user_agent="x", context=None)


@given(parameters)
def test_a_form_is_the_sdks(asked: dict[str, Any]) -> None:
    theirs = QuerySerializer().serialize_to_request(asked, STS)["body"]
    assert parse_qsl(form(asked).decode(), keep_blank_values=True, strict_parsing=True) == [
        (name, str(value)) for name, value in theirs.items()
    ]


@given(st.text(st.characters(max_codepoint=0x7F), max_size=60) | st.text('%"{}[]:,/*=@$+ a~', max_size=20) | texts)
def test_quoting_in_bulk_is_quoting(text: str) -> None:
    assert quoted(text) == quote_plus(text)


@pytest.mark.parametrize("value", [None, True, 1.5, {"a": "b"}])
def test_a_form_holds_no_guesses(value: Any) -> None:
    with pytest.raises(TypeError):
        form({"Policy": value})


key_sets = st.builds(
    Keys,
    access_key_id=headers,
    secret_access_key=headers.map(Secret),
    session_token=st.none() | headers.map(Secret),
)


@given(
    url=st.sampled_from(
        [
            "https://sts.eu-west-1.amazonaws.com",
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
            "https://Ceph.example:443",
        ]
    ),
    region=st.sampled_from(["eu-west-1", "us-gov-west-1"]),
    body=st.binary(min_size=1, max_size=200),
    keys=key_sets,
)
def test_a_signature_is_the_sdks(url: str, region: str, body: bytes, keys: Keys) -> None:
    token = keys.session_token.reveal() if keys.session_token is not None else None
    credentials = ReadOnlyCredentials(keys.access_key_id, keys.secret_access_key.reveal(), token, None)
    theirs = AWSRequest(method="POST", url=f"{url}/", data=body, headers={"Content-Type": CONTENT_TYPE})
    with mock.patch("botocore.auth.get_current_datetime", return_value=NOW):
        SigV4Auth(credentials, "sts", region).add_auth(theirs)
    assert signed(place(url, region), body, keys, NOW) == {
        name.lower(): value for name, value in theirs.headers.items()
    }
