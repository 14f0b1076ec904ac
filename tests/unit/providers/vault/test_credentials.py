"""Answers become typed credentials, whose secrets are not shown."""

from __future__ import annotations

import pytest

from broker.clock import SystemClock
from broker.model import JsonValue, KeyValue, UsernamePassword
from broker.providers.vault.credentials import child_of, credential_of
from broker.providers.vault.kind import VaultScope
from broker.providers.vault.scope import Kind

NOW = SystemClock().now()


def test_a_leased_login_is_username_and_password() -> None:
    body = {"lease_id": "database/creds/a/1", "data": {"username": "u", "password": "p4ss", "host": "h"}}
    credential = credential_of(Kind.LEASED, body, NOW)
    assert isinstance(credential, UsernamePassword)
    assert (credential.username, credential.password.reveal()) == ("u", "p4ss")
    assert credential.attributes == {"host": "h"}
    assert "p4ss" not in repr(credential)
    assert child_of(body) == "database/creds/a/1"


def test_what_the_operator_declares_of_a_login_comes_before_what_the_server_says() -> None:
    body = {"lease_id": "database/creds/a/1", "data": {"username": "u", "password": "p4ss", "host": "h", "x": 1}}
    credential = credential_of(Kind.LEASED, body, NOW, attributes={"host": "db.acme.internal", "port": 5432})
    assert isinstance(credential, UsernamePassword)
    assert credential.attributes == {"host": "db.acme.internal", "port": "5432", "x": "1"}


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"role": "a", "attributes": {"host": "h"}}, "belong to read"),
        ({"role": "a", "read": "kv/data/a", "attributes": {"host": "h"}}, "belong to read"),
        ({"role": "a", "read": "database/creds/a", "attributes": {"password": "p"}}, "made by the server"),
        ({"role": "a", "read": "database/creds/a", "attributes": {"host": "h" * 257}}, "at most"),
        ({"role": "a", "read": "database/creds/a", "attributes": {"host": ["h"]}}, "valid"),
    ],
)
def test_attributes_belong_to_a_login_and_are_short(block: dict[str, JsonValue], problem: str) -> None:
    assert problem in " ".join(message for _, message in VaultScope().validate(block))


def test_a_stored_login_stays_key_value() -> None:
    credential = credential_of(Kind.LEASED, {"lease_id": "", "data": {"username": "u", "password": "p4ss"}}, NOW)
    assert isinstance(credential, KeyValue)
    assert "p4ss" not in repr(credential)


def test_kv_v2_is_unwrapped_and_values_become_text() -> None:
    credential = credential_of(
        Kind.LEASED,
        {
            "data": {
                "data": {"a": "b", "n": 1, "l": [1]},
                "metadata": {"version": 4, "created_time": "2026-11-22T12:00:00Z"},
            }
        },
        NOW,
    )
    assert isinstance(credential, KeyValue)
    assert {key: value.reveal() for key, value in credential.data.items()} == {"a": "b", "n": "1", "l": "[1]"}
    assert credential.version == 4


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"a": "b"}, "metadata": {"version": 7}},
        {"data": {"a": "b"}, "metadata": {"version": 7, "created_time": "t"}, "more": "x"},
        {"data": {"a": "b"}, "metadata": "x"},
    ],
)
def test_kv_v1_may_have_keys_that_v2_wraps_in(values: dict[str, object]) -> None:
    credential = credential_of(Kind.STATIC, {"lease_id": "", "data": values}, NOW)
    assert isinstance(credential, KeyValue)
    assert (set(credential.data), credential.version) == (set(values), 0)


def test_a_deleted_version_or_no_data_is_nothing() -> None:
    assert (
        credential_of(
            Kind.LEASED,
            {"data": {"data": None, "metadata": {"version": 4, "created_time": "2026-11-22T12:00:00Z"}}},
            NOW,
        )
        is None
    )
    assert credential_of(Kind.LEASED, {"data": None}, NOW) is None
    assert credential_of(Kind.LEASED, {}, NOW) is None
