"""The `vault:` block: every mistake is found, and nothing that could leave its path gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.model import Revocability
from broker.providers.vault.kind import VaultScope
from broker.providers.vault.scope import VaultBlock, is_path
from tests.support.examples import examples

SCOPE = VaultScope()


@pytest.mark.parametrize(
    ("block", "revocability"),
    [
        ({"role": "orders-ro"}, Revocability.EXACT),
        ({"role": "orders-ro", "read": "database/creds/orders-ro"}, Revocability.EXACT),
        ({"role": "orders-ro", "read": "team/db/creds/orders-ro"}, Revocability.EXACT),
        ({"role": "kv", "read": "secret/data/orders"}, Revocability.STATIC),
        ({"role": "kv", "read": "secret/data/{workflow}/orders"}, Revocability.STATIC),
        ({"role": "kv", "read": "kv1/orders"}, Revocability.STATIC),
        ({"role": "mq", "read": "rabbitmq/creds/worker"}, Revocability.EXACT),
        ({"role": "web", "write": {"path": "pki/issue/web"}}, Revocability.PUBLISHED),
        (
            {"role": "web", "write": {"path": "pki/issue/web", "data": {"common_name": "{workflow}"}}},
            Revocability.PUBLISHED,
        ),
        ({"role": "web", "write": {"path": "pki/issuer/two/issue/web"}}, Revocability.PUBLISHED),
        ({"role": "web", "write": {"path": "pki/sign/web", "input": "csr"}}, Revocability.PUBLISHED),
        ({"role": "ops", "write": {"path": "ssh/sign/ops"}}, Revocability.EXPIRY_ONLY),
        ({"role": "ops", "write": {"path": "ssh/sign/ops", "input": "public_key"}}, Revocability.EXPIRY_ONLY),
    ],
)
def test_good_blocks_and_how_dead_they_can_be_made(block: dict[str, Any], revocability: Revocability) -> None:
    assert SCOPE.validate(block) == []
    assert SCOPE.revocability(block) is revocability


@pytest.mark.parametrize(
    ("block", "where"),
    [
        ({}, ("role",)),
        ({"role": "a", "raed": "x/y"}, ("raed",)),
        ({"role": 7}, ("role",)),
        ({"role": ""}, ("role",)),
        ({"role": ".."}, ("role",)),
        ({"role": "../../../sys/seal"}, ("role",)),
        ({"role": "{workflow}"}, ("role",)),
        ({"role": "a\n"}, ("role",)),
        ({"role": "ä"}, ("role",)),
        ({"role": "a", "read": "secret"}, ("read",)),
        ({"role": "a", "read": "/secret/data/x"}, ("read",)),
        ({"role": "a", "read": "secret/data/x/"}, ("read",)),
        ({"role": "a", "read": "secret//x"}, ("read",)),
        ({"role": "a", "read": "secret/./x"}, ("read",)),
        ({"role": "a", "read": "secret/../sys/seal"}, ("read",)),
        ({"role": "a", "read": "secret/data/a%2fb"}, ("read",)),
        ({"role": "a", "read": "secret/data/x?version=1"}, ("read",)),
        ({"role": "a", "read": "secret/data/{workflow}-x"}, ("read",)),
        ({"role": "a", "read": "{workflow}/data/x"}, ("read",)),
        ({"role": "a", "read": "database/creds/{workflow}"}, ("read",)),
        ({"role": "a", "read": ["secret/data/x"]}, ("read",)),
        ({"role": "a", "read": "team/{workflow}/creds/ro"}, ("read",)),
        ({"role": "a", "read": "auth/token/lookup-self"}, ("read",)),
        ({"role": "a", "read": "sys/policies/acl/a"}, ("read",)),
        ({"role": "a", "read": "identity/entity/id"}, ("read",)),
        ({"role": "a", "read": "cubbyhole/x"}, ("read",)),
        ({"role": "a", "write": {"path": "identity/issue/a"}}, ("write", "path")),
        ({"role": "A"}, ("role",)),
        ({"role": "-h"}, ("role",)),
        ({"role": "...a"}, ("role",)),
        ({"role": "root"}, ("role",)),
        ({"role": "default"}, ("role",)),
        ({"role": "step-self"}, ("role",)),
        ({"role": "stepcred-nothing"}, ("role",)),
        ({"role": "a", "read": "x/y", "write": {"path": "pki/issue/a"}}, ()),
        ({"role": "a", "write": "pki/issue/a"}, ("write",)),
        ({"role": "a", "write": {}}, ("write", "path")),
        ({"role": "a", "write": {"path": "sys/seal"}}, ("write", "path")),
        ({"role": "a", "write": {"path": "transit/keys/k"}}, ("write", "path")),
        ({"role": "a", "write": {"path": "pki/issue/{workflow}"}}, ("write", "path")),
        ({"role": "a", "write": {"path": "pki/../issue/a"}}, ("write", "path")),
        ({"role": "a", "write": {"path": "pki/issue/a", "data": {"ttl": "9h"}}}, ("write", "data")),
        ({"role": "a", "write": {"path": "pki/sign/a", "data": {"csr": "x"}}}, ("write", "data")),
        ({"role": "a", "write": {"path": "pki/issue/a", "input": "csr"}}, ("write",)),
        ({"role": "a", "write": {"path": "pki/sign/a", "input": "key"}}, ("write", "input")),
    ],
)
def test_a_mistake_is_named_with_its_place(block: dict[str, Any], where: tuple[str, ...]) -> None:
    assert [path for path, _ in SCOPE.validate(block)] == [where]


def test_all_mistakes_are_named_at_once() -> None:
    assert {path for path, _ in SCOPE.validate({"role": "/", "read": "x", "other": 1})} == {
        ("role",),
        ("read",),
        ("other",),
    }


@given(st.text(alphabet="ab./%{}\\ \n", max_size=12))
def test_a_path_that_passes_stays_where_it_is(text: str) -> None:
    if is_path(text):
        assert not text.startswith("/")
        assert "//" not in text
        assert "%" not in text
        assert not any(part in ("", ".", "..") for part in text.split("/"))


@settings(max_examples=examples(30, long=100))
@given(st.dictionaries(st.text(max_size=6), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=4))
def test_any_block_is_judged_without_an_exception(block: dict[str, Any]) -> None:
    assert SCOPE.validate(block)


@pytest.mark.parametrize("read", ["creds/x", "database/creds", "secret/data/creds"])
def test_only_creds_of_a_mount_are_leased(read: str) -> None:
    assert VaultBlock.model_validate({"role": "a", "read": "database/creds/x"}).leased_under == "database/creds/x"
    assert not VaultBlock.model_validate({"role": "a", "read": read}).leased_under


def test_a_broker_gives_no_scope_its_tomb_role() -> None:
    assert SCOPE.validate({"role": "tomb"}) == []
    ((where, told),) = VaultScope(["tomb"]).validate({"role": "tomb"})
    assert where == ("role",)
    assert "tomb is not for scopes" in told


def test_a_block_that_no_map_may_hold_any_more_can_still_be_read_to_end_its_lease() -> None:
    assert VaultBlock.model_validate({"role": "App", "read": "sys/x"}).role == "App"
