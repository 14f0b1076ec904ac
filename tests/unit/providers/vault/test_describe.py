"""What agents are told of a Vault scope: what is handed out, and where the server says what it may do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.model import Powers
from broker.providers.vault.kind import VaultScope

NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)


def told(block: dict[str, Any], namespace: str = "") -> Powers:
    return VaultScope(namespace=namespace).describe(block, now=NOW, until=NOW + timedelta(minutes=5))


def not_read(path: str) -> str:
    return f"what that allows is said at the server, in {path}; the broker does not read it"


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "token": (
        {"role": "app-ro"},
        (
            "a token with the policies of token role app-ro; by convention app-ro and step-self",
            not_read("auth/token/roles/app-ro"),
        ),
        {"look_at": "auth/token/roles/app-ro"},
    ),
    "login": (
        {"role": "orders-ro", "read": "team/db/creds/orders"},
        (
            "a login from team/db/creds/orders; the token that fetches it stays with the broker",
            not_read("team/db/roles/orders"),
        ),
        {"read": "team/db/creds/orders", "look_at": "team/db/roles/orders"},
    ),
    "placed login": (
        {"role": "mq", "read": "rabbitmq/creds/worker", "attributes": {"host": "mq.acme.internal", "port": 5671}},
        (
            "a login from rabbitmq/creds/worker; the token that fetches it stays with the broker",
            not_read("rabbitmq/roles/worker"),
        ),
        {
            "read": "rabbitmq/creds/worker",
            "attributes": {"host": "mq.acme.internal", "port": 5671},
            "look_at": "rabbitmq/roles/worker",
        },
    ),
    "stored_value": (
        {"role": "kv", "read": "secret/data/nightly/orders"},
        ("the value stored at secret/data/nightly/orders, read by the broker; no token",),
        {"read": "secret/data/nightly/orders"},
    ),
    "x509_certificate": (
        {"role": "web", "write": {"path": "pki/issue/web", "data": {"common_name": "web.acme.internal"}}},
        ("an X.509 certificate from pki/issue/web, with a new key", not_read("pki/roles/web")),
        {
            "write": {"path": "pki/issue/web", "data": {"common_name": "web.acme.internal"}},
            "needs": "",
            "look_at": "pki/roles/web",
        },
    ),
    "ssh_certificate": (
        {"role": "ops", "write": {"path": "ssh/sign/ops", "data": {"valid_principals": "ops"}}},
        ("an SSH certificate from ssh/sign/ops for the step's own key", not_read("ssh/roles/ops")),
        {
            "write": {"path": "ssh/sign/ops", "data": {"valid_principals": "ops"}},
            "needs": "public_key",
            "look_at": "ssh/roles/ops",
        },
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_in_full(kind: str) -> None:
    block, words, told_of_it = CASES[kind]
    shown = told(block)
    assert shown.words == words
    assert shown.told == {"kind": kind.rsplit(maxsplit=1)[-1], "role": block["role"], "namespace": "", **told_of_it}
    assert not shown.refused


def test_a_request_of_ones_own() -> None:
    shown = told({"role": "web", "write": {"path": "pki/issuer/old/sign/web", "input": "csr"}})
    assert shown.words[0] == "an X.509 certificate from pki/issuer/old/sign/web for the step's own request"
    assert (shown.told["needs"], shown.told["look_at"]) == ("csr", "pki/roles/web")


@pytest.mark.parametrize(("said", "name"), [("team-a/", "team-a"), ("root", ""), ("", "")])
def test_the_namespace_has_one_spelling(said: str, name: str) -> None:
    shown = told({"role": "app-ro"}, said)
    assert shown.told["namespace"] == name
    assert ("(namespace team-a)" in shown.words[0]) is bool(name)


def test_a_block_that_is_no_good_is_no_error() -> None:
    assert told({"role": "a/b"}).refused == "the scope's vault block, filled, is not valid"
