"""A manifest is believed when enough distinct people signed it, for this broker, now, and nothing newer was seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner, SSlibKey

from broker.policy.signing import (
    PAYLOAD_TYPE,
    Fault,
    ManifestError,
    Seen,
    add_signature,
    envelope,
    read_unverified,
    sign,
    signers,
)
from broker.policy.signing.errors import TEXTS
from tests.unit.policy.signing.people import (
    ALICE,
    BOB,
    KEYS,
    MALLORY,
    MANIFEST,
    NOW,
    look,
    opened,
    payload,
    signed,
    with_payload,
)

BOTH = signed(ALICE, BOB)


def refused(fault: Fault, call: Callable[[], object]) -> str:
    with pytest.raises(ManifestError) as caught:
        call()
    assert caught.value.fault is fault
    assert caught.value.message == TEXTS[fault]
    return caught.value.detail


def test_two_people_signed_it() -> None:
    found = look(BOTH)
    assert found.manifest == MANIFEST
    assert found.signers == {"alice", "bob"}


def test_all_who_signed_are_named_beyond_the_threshold_too() -> None:
    """A map that widens `high` needs more of them than the threshold."""
    assert look(BOTH, 1).signers == {"alice", "bob"}
    assert look(signed(BOB), 1).signers == {"bob"}


def test_one_signature_short() -> None:
    assert refused(Fault.TOO_FEW_KEYS, lambda: look(signed(ALICE))) == "1 of 2 (alice)"


def test_one_key_signing_twice_is_one() -> None:
    assert refused(Fault.TOO_FEW_KEYS, lambda: look(signed(ALICE, ALICE))) == "1 of 2 (alice)"
    once = opened(signed(BOB))  # ECDSA signatures differ each time
    twice = once | {"signatures": once["signatures"] + opened(signed(BOB))["signatures"]}
    assert len({one["sig"] for one in twice["signatures"]}) == 2
    refused(Fault.MALFORMED, lambda: look(json.dumps(twice).encode()))


def test_one_signature_under_two_key_ids_is_one() -> None:
    found = opened(signed(ALICE))
    (mine,) = found["signatures"]
    for other in (BOB.public_key.keyid, MALLORY.public_key.keyid):
        forged = found | {"signatures": [mine, mine | {"keyid": other}]}
        assert refused(Fault.TOO_FEW_KEYS, lambda: look(json.dumps(forged).encode())) == "1 of 2 (alice)"  # noqa: B023


def test_one_key_under_two_names_is_no_question_to_ask() -> None:
    keys = {"alice": ALICE.public_key, "also-alice": ALICE.public_key}
    for threshold in (1, 2):
        refused(Fault.KEYS, lambda: look(signed(ALICE), threshold, keys=keys))  # noqa: B023


@pytest.mark.parametrize("threshold", [-1, 0, 3])
def test_a_threshold_of_nobody_or_of_more_than_there_are_never_holds(threshold: int) -> None:
    refused(Fault.KEYS, lambda: look(BOTH, threshold))


@pytest.mark.parametrize("threshold", [0, 1])
def test_without_keys_nothing_holds(threshold: int) -> None:
    refused(Fault.KEYS, lambda: look(BOTH, threshold, keys={}))


def test_an_unknown_key_s_signature_is_ignored() -> None:
    assert look(signed(ALICE, MALLORY, BOB)).signers == {"alice", "bob"}
    assert refused(Fault.TOO_FEW_KEYS, lambda: look(signed(ALICE, MALLORY))) == "1 of 2 (alice)"
    assert refused(Fault.TOO_FEW_KEYS, lambda: look(signed(MALLORY), 1)) == "0 of 1 (nobody)"


def test_no_signatures_at_all() -> None:
    bare = json.dumps(opened(BOTH) | {"signatures": []}).encode()
    refused(Fault.TOO_FEW_KEYS, lambda: look(bare, 1))


def test_replayed_from_another_environment_or_trust_domain() -> None:
    dev = signed(ALICE, BOB, environment="dev")
    assert refused(Fault.ENVIRONMENT, lambda: look(dev)) == "dev, not prod"
    assert look(dev, environment="dev").signers == {"alice", "bob"}
    other = signed(ALICE, BOB, trust_domain="prod.other.internal")
    assert refused(Fault.TRUST_DOMAIN, lambda: look(other)) == "prod.other.internal, not prod.acme.internal"


def test_a_team_file_s_manifest_is_not_the_root_s() -> None:
    team = signed(ALICE, BOB, root="teams/payments.yaml")
    refused(Fault.ROOT, lambda: look(team))


def test_older_and_equal_serials() -> None:
    seen = Seen(serial=MANIFEST.serial, digest=MANIFEST.digest)
    assert refused(Fault.SERIAL_OLDER, lambda: look(signed(ALICE, BOB, serial=6), seen=seen)) == "serial 6, after 7"
    assert look(BOTH, seen=seen).manifest == MANIFEST
    assert look(signed(ALICE, BOB, serial=8), seen=seen).manifest.serial == 8
    other = signed(ALICE, BOB, expires=MANIFEST.expires + timedelta(days=1))
    assert refused(Fault.SERIAL_REUSED, lambda: look(other, seen=seen)) == "serial 7"


def test_a_further_signature_makes_no_other_content() -> None:
    seen = Seen(serial=7, digest=look(signed(ALICE), 1).manifest.digest)
    assert look(BOTH, seen=seen).signers == {"alice", "bob"}


def test_expired_from_its_very_end_on() -> None:
    assert look(BOTH, now=MANIFEST.expires - timedelta(microseconds=1)).signers
    assert refused(Fault.EXPIRED, lambda: look(BOTH, now=MANIFEST.expires)) == "at 2026-07-01T12:00:00+00:00"


def test_a_tampered_manifest_has_no_signatures() -> None:
    for old, new in ((b'"serial":7', b'"serial":8'), (b'"prod"', b'"dev"'), (b"a", b"b")):
        tampered = with_payload(BOTH, payload(BOTH).replace(old, new, 1))
        assert refused(Fault.TOO_FEW_KEYS, lambda: look(tampered)) == "0 of 2 (nobody)"  # noqa: B023


@given(st.data())
def test_no_byte_of_an_envelope_can_be_changed(data: st.DataObject) -> None:
    """Whatever is changed, it is refused, or what it says is what was signed."""
    at = data.draw(st.integers(0, len(BOTH) - 1))
    changed = BOTH[:at] + bytes([data.draw(st.integers(0, 255))]) + BOTH[at + 1 :]
    try:
        found = look(changed)
    except ManifestError:
        return
    assert found.manifest == MANIFEST


def test_signed_as_something_else() -> None:
    """A payload type is under the signature: what was signed as another kind of thing is no manifest."""
    other = Envelope(MANIFEST.payload(), "application/vnd.in-toto+json", {})
    other.sign(ALICE)
    other.sign(BOB)
    refused(Fault.PAYLOAD_TYPE, lambda: look(json.dumps(other.to_dict()).encode()))
    renamed = other.to_dict() | {"payloadType": PAYLOAD_TYPE}
    refused(Fault.TOO_FEW_KEYS, lambda: look(json.dumps(renamed).encode()))


def test_five_megabytes_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(raw: bytes) -> None:
        raise AssertionError(len(raw))

    monkeypatch.setattr(envelope, "strict_json", never)
    refused(Fault.TOO_LARGE, lambda: look(BOTH + b" " * 5_000_000))


def test_what_would_be_too_large_is_not_signed() -> None:
    many = {f"{number}{'x' * 500}": "0" * 64 for number in range(999)} | dict(MANIFEST.files)
    with pytest.raises(ValueError, match="at most 1000"):
        signed(ALICE, files=many | {"one-more": "0" * 64})
    many = {f"{number}{'ü' * 500}": "0" * 64 for number in range(900)} | dict(MANIFEST.files)
    refused(Fault.TOO_LARGE, lambda: signed(ALICE, files=many))


def _malformed() -> dict[str, bytes]:
    good = opened(BOTH)
    one = good["signatures"][0]

    def spelt(**changes: object) -> bytes:
        return json.dumps(good | changes).encode()

    return {
        "nothing": b"",
        "not JSON": b"{",
        "not UTF-8": BOTH.replace(b"payload", b"\xff", 1),
        "a list": b"[]",
        "a key twice": BOTH.replace(b"{", b'{"payload": "",', 1),
        "nested": b"[" * 100_000,
        "a long number": b"9" * 10_000,
        "no number": spelt().replace(b'"signatures": [', b'"signatures": [NaN,'),
        "more": spelt(more=1),
        "less": json.dumps({key: good[key] for key in ("payload", "payloadType")}).encode(),
        "payload no base64": spelt(payload="!"),
        "payload beyond Unicode": spelt(payload="\ud800"),
        "payload a number": spelt(payload=1),
        "signature no base64": spelt(signatures=[one | {"sig": "!"}]),
        "signature with more": spelt(signatures=[one | {"cert": ""}]),
        "signature without key": spelt(signatures=[{"sig": one["sig"]}]),
        "key id of another kind": spelt(signatures=[one | {"keyid": "alice"}]),
        "a thousand signatures": spelt(signatures=[one | {"keyid": f"{number:064x}"} for number in range(1000)]),
    }


@pytest.mark.parametrize("case", _malformed())
def test_malformed_envelopes(case: str) -> None:
    raw = _malformed()[case]
    refused(Fault.MALFORMED, lambda: look(raw))
    refused(Fault.MALFORMED, lambda: add_signature(raw, ALICE))
    refused(Fault.MALFORMED, lambda: read_unverified(raw))


def test_a_second_person_adds_to_the_same_envelope() -> None:
    first = sign(MANIFEST, ALICE)
    second = add_signature(first, BOB)
    assert payload(second) == payload(first)
    assert signers(first, KEYS) == {"alice"}
    assert signers(second, KEYS) == {"alice", "bob"}
    assert opened(add_signature(second, ALICE)) == opened(second)  # Ed25519: the same one once more
    told = read_unverified(second)
    assert told.manifest == MANIFEST
    assert told.keyids == {ALICE.public_key.keyid, BOB.public_key.keyid}


def test_a_bad_signature_under_a_name_is_replaced_by_a_good_one() -> None:
    found = opened(signed(ALICE))
    found["signatures"][0]["sig"] = "AAAA"
    broken = json.dumps(found).encode()
    assert signers(broken, KEYS) == frozenset()
    assert signers(add_signature(broken, ALICE), KEYS) == {"alice"}


def test_rsa_too() -> None:
    carol = CryptoSigner.generate_rsa()
    assert look(signed(ALICE, carol), keys=KEYS | {"carol": carol.public_key}).signers == {"alice", "carol"}


def _by_signature(opened: Envelope, keys: Mapping[str, SSlibKey]) -> frozenset[str]:
    """The mutant: when one of the keys has signed, counts signatures."""
    return frozenset(opened.signatures) if any(opened.verify([key], 1) for key in keys.values()) else frozenset()


def test_a_mutant_that_counts_signatures_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "_signers", lambda opened, _keys: _by_signature(opened, {"alice": KEYS["alice"]}))
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        test_one_signature_under_two_key_ids_is_one()


def test_now_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same envelope, two moments: no clock of its own."""
    assert look(BOTH, now=NOW)
    refused(Fault.EXPIRED, lambda: look(BOTH, now=NOW + timedelta(days=365)))
