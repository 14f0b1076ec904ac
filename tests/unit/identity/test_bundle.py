from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.errors import ConfigError
from broker.identity.authority import new_authority
from broker.identity.bundle import parse_bundle
from tests.support.certs import PrivateKey, TestCA
from tests.support.corpus.der import pem, tbs_of, whole
from tests.support.corpus.keys import curve_key, rsa_key


def another_root() -> bytes:
    return new_authority("another", now=datetime.now(UTC)).certificate.public_bytes(Encoding.PEM)


def test_a_bundle_may_hold_several_roots(ca: TestCA) -> None:
    written = b"# agents\n" + ca.root_pem + b"\n# the old one\n" + another_root()
    bundle = parse_bundle(written, "bundle")
    assert (len(bundle.roots), len(set(bundle.fingerprints)), bundle.pem) == (2, 2, written)


@pytest.mark.parametrize("broken", ["empty", "rubbish", "half a certificate", "private key", "a leaf", "a request"])
def test_what_is_no_bundle_is_refused_by_name(broken: str, ca: TestCA) -> None:
    contents = {
        "empty": b"",
        "rubbish": b"\xff\xfe hello",
        "half a certificate": ca.root_pem[:300],
        "private key": ca.root_pem + (ca.directory / "ca-key.pem").read_bytes(),
        "a leaf": ca.root_pem + ca.agent("spiffe://test.local/a").cert.read_bytes(),
        "a request": ca.root_pem + b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    }
    with pytest.raises(ConfigError) as refused:
        parse_bundle(contents[broken], "agents' trust bundle roots.pem")
    assert refused.value.problems[0].startswith("agents' trust bundle roots.pem: ")


def root_with(key: PublicKeyTypes) -> bytes:
    """A root in all but its signature, which nobody looks at."""
    tbs = tbs_of(new_authority("odd", now=datetime.now(UTC)).certificate)
    tbs.public_key = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem(whole(tbs, lambda _: b""))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (rsa_key(1024), "RSA of 1024 bits"),
    ],
)
def test_a_root_below_which_nobody_could_be_let_in_is_named(key: PrivateKey, kind: str, ca: TestCA) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_bundle(ca.root_pem + root_with(key.public_key()), "roots.pem")
    (problem,) = refused.value.problems
    assert problem.startswith(f"roots.pem: certificate 2: nothing below it can be verified, for its key is {kind}; use")


@pytest.mark.parametrize(
    "key",
    [*(curve_key(one) for one in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)), rsa_key(2048)],
    ids=["P-256", "P-384", "P-521", "RSA"],
)
def test_other_roots_are_taken(key: PrivateKey) -> None:
    assert parse_bundle(root_with(key.public_key()), "roots.pem").roots
