from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import ConfigError
from broker.identity import TrustStore
from broker.identity.authority import new_authority
from tests.support.certs import TestCA


def another_root() -> bytes:
    return new_authority("another", now=datetime.now(UTC)).certificate.public_bytes(Encoding.PEM)


def test_a_bundle_may_hold_several_roots(ca: TestCA, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(b"# agents\n" + ca.root_pem + b"\n# the old one\n" + another_root())
    trust = TrustStore(bundle)
    assert len(trust.roots) == 2
    assert trust.pem == bundle.read_bytes()
    assert trust.generation == 1


def test_reload_says_whether_something_changed(ca: TestCA, trust: TrustStore) -> None:
    assert not trust.reload()
    assert trust.generation == 1
    ca.root_path.write_bytes(ca.root_pem + another_root())
    assert trust.reload()
    assert (trust.generation, len(trust.roots)) == (2, 2)


@pytest.mark.parametrize(
    "broken",
    [
        "absent",
        "empty",
        "rubbish",
        "half a certificate",
        "private key",
        "a leaf",
        "a request",
        "far too long",
        "directory",
    ],
)
def test_i7_a_bad_file_is_refused_at_start_and_changes_nothing_later(
    broken: str, ca: TestCA, trust: TrustStore, tmp_path: Path
) -> None:
    contents = {
        "empty": b"",
        "rubbish": b"\xff\xfe hello",
        "half a certificate": ca.root_pem[:300],
        "private key": ca.root_pem + (ca.directory / "ca-key.pem").read_bytes(),
        "a leaf": ca.root_pem + ca.agent("spiffe://test.local/a").cert.read_bytes(),
        "a request": ca.root_pem + b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "far too long": ca.root_pem + b"\n" * (1 << 20),
    }
    before = (trust.roots, trust.pem, trust.generation)
    ca.root_path.unlink()
    if broken == "directory":
        ca.root_path.mkdir()
    elif broken != "absent":
        ca.root_path.write_bytes(contents[broken])
    with pytest.raises(ConfigError) as at_start:
        TrustStore(ca.root_path)
    assert str(ca.root_path) in at_start.value.problems[0]
    with pytest.raises(ConfigError):
        trust.reload()
    assert (trust.roots, trust.pem, trust.generation) == before
