from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import ConfigError
from broker.identity.authority import new_authority
from broker.identity.bundle import parse_bundle
from tests.support.certs import TestCA


def another_root() -> bytes:
    return new_authority("another", now=datetime.now(UTC)).certificate.public_bytes(Encoding.PEM)


def test_a_bundle_may_hold_several_roots(ca: TestCA) -> None:
    pem = b"# agents\n" + ca.root_pem + b"\n# the old one\n" + another_root()
    bundle = parse_bundle(pem, "bundle")
    assert (len(bundle.roots), len(set(bundle.fingerprints)), bundle.pem) == (2, 2, pem)


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
