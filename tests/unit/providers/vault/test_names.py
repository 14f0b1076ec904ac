"""A token's id follows from lease, nonce, installation and key, and from all of them."""

from __future__ import annotations

import re
from base64 import b32encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.keyring import Keyring
from broker.providers.vault.names import ID_BYTES, token_id
from tests.support.vault import new_ref

RING = Keyring({"k1": bytes(32), "k2": bytes([1]) * 32}, "k2")


def test_the_id_is_stable_and_of_the_agreed_form() -> None:
    ref = new_ref({"role": "a"})
    first = token_id(RING, "one", ref).reveal()
    assert re.fullmatch(r"scv1-k1-[a-z2-7]{32}", first)
    assert token_id(RING, "one", ref).reveal() == first


def test_every_part_counts() -> None:
    ref = new_ref({"role": "a"})
    others = [
        token_id(RING, "two", ref),
        token_id(RING, "one", replace(ref, lease_id="other")),
        token_id(RING, "one", replace(ref, nonce=bytes(16))),
        token_id(RING, "one", replace(ref, kid="k2")),
    ]
    ids = {one.reveal() for one in [token_id(RING, "one", ref), *others]}
    assert len(ids) == 5


def test_without_nonce_or_key_there_is_no_id() -> None:
    ref = new_ref({"role": "a"})
    with pytest.raises(ValueError, match="erased"):
        token_id(RING, "one", replace(ref, nonce=b""))
    with pytest.raises(KeyError):
        token_id(RING, "one", replace(ref, kid="k9"))


@given(nonce=st.binary(min_size=16, max_size=16))
def test_it_is_what_the_key_makes_of_them_in_base32_as_everybody_knows_it(nonce: bytes) -> None:
    ref = replace(new_ref({"role": "a"}), nonce=nonce)
    made = RING.derive(ref.kid, "vault-token", "one", ref.lease_id, nonce)[:ID_BYTES]
    assert token_id(RING, "one", ref).reveal() == f"scv1-{ref.kid}-{b32encode(made).decode().lower()}"
