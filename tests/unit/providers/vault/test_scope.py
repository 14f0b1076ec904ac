"""The `vault:` block: every mistake is found, and nothing that could leave its path gets through."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.model import Revocability
from broker.providers.vault.scope import VaultScope, is_leased, is_path

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


@given(st.dictionaries(st.text(max_size=6), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=4))
def test_any_block_is_judged_without_an_exception(block: dict[str, Any]) -> None:
    assert SCOPE.validate(block)


def test_only_creds_of_a_mount_are_leased() -> None:
    assert is_leased("database/creds/x")
    assert not is_leased("creds/x")
    assert not is_leased("database/creds")
    assert not is_leased("secret/data/creds")
