"""The corpus against the Authenticator itself: each bad certificate is refused with its reason, each good one is not.

The same against a daemon over TLS: tests/e2e/test_certificate_corpus.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from broker.errors import BrokerError, Reason
from broker.identity import Authenticator, verify
from broker.model import Agent
from tests.fakes.clock import FakeClock
from tests.support.certs import TestCA
from tests.support.corpus import BAD, GOOD, Pki, Shown, furnish, made
from tests.support.corpus.case import ID, TRUST_DOMAIN, Door
from tests.support.corpus.der import pem


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(TestCA(tmp_path_factory.mktemp("corpus"), TRUST_DOMAIN))


@pytest.fixture(scope="module")
def shown(pki: Pki) -> dict[str, Shown]:
    return made(pki)


@pytest.fixture(scope="module")
def doors(pki: Pki, shown: dict[str, Shown]) -> dict[Door, Authenticator]:
    """One of each for all, as in a daemon: what it remembers of one certificate must not help another."""
    opened, clock = furnish(pki, pki.ca.directory).front_door(), FakeClock(pki.now)
    return {
        Door.AGENTS: Authenticator(opened, clock),
        Door.OPERATORS: Authenticator(opened, clock, side=verify.operators),
    }


@pytest.fixture(scope="module")
def authenticator(doors: dict[Door, Authenticator]) -> Authenticator:
    return doors[Door.AGENTS]


def ask(authenticator: Authenticator, shown: Shown) -> Agent:
    return authenticator.authenticate(
        shown.leaf_pem, chain=shown.chain_pem, tls_version="TLSv1.3", peer="ipv4:127.0.0.1:1"
    )


def refusal(authenticator: Authenticator, leaf: bytes, chain: bytes = b"") -> BrokerError:
    with pytest.raises(BrokerError) as refused:
        authenticator.authenticate(leaf, chain=chain, tls_version="TLSv1.3", peer="test")
    return refused.value


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len(BAD) >= 60


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("case", [name for name, bad in BAD.items() if bad.reason is not None])
def test_refused_with_its_reason(case: str, shown: dict[str, Shown], doors: dict[Door, Authenticator]) -> None:
    one = shown[case]
    for _ in range(2):  # a refusal is not remembered as something else
        refused = refusal(doors[one.door], one.leaf_pem, one.chain_pem)
        assert refused.reason is BAD[case].reason, refused.message
        assert f"spiffe://{TRUST_DOMAIN}/" not in refused.message, "what a stranger wrote must not come back"


@pytest.mark.parametrize("case", GOOD)
def test_accepted(case: str, shown: dict[str, Shown], doors: dict[Door, Authenticator]) -> None:
    one = shown[case]
    certificate = x509.load_der_x509_certificate(one.chain[0])
    agent = ask(doors[one.door], one)
    assert agent.spiffe_id == one.spiffe_id
    assert one.spiffe_id.startswith(f"spiffe://{agent.trust_domain}/")
    assert agent.cert_sha256 == certificate.fingerprint(hashes.SHA256()).hex()
    assert agent.not_after == certificate.not_valid_after_utc
    assert agent.peer == "ipv4:127.0.0.1:1"


def good(pki: Pki) -> bytes:
    return pki.leaf(ID).leaf_pem


# Bytes that no handshake hands over.
BYTES: dict[str, tuple[Callable[[Pki], tuple[bytes, bytes]], Reason]] = {
    "nothing": (lambda _: (b"", b""), Reason.NO_CLIENT_CERTIFICATE),
    "no PEM": (lambda _: (b"hello", b""), Reason.CERTIFICATE_INVALID),
    "PEM of rubbish": (lambda _: (pem(b"\0\0\0"), b""), Reason.CERTIFICATE_INVALID),
    "two certificates": (lambda pki: (good(pki) * 2, b""), Reason.CERTIFICATE_INVALID),
    "16 kB of certificate": (lambda pki: (good(pki) + b" " * 16384, b""), Reason.CERTIFICATE_INVALID),
    "64 kB of chain": (lambda pki: (good(pki), b" " * 65537), Reason.CERTIFICATE_INVALID),
    "a chain of rubbish": (lambda pki: (good(pki), b"rubbish"), Reason.CERTIFICATE_INVALID),
    "a chain with PEM of rubbish": (lambda pki: (good(pki), pem(b"\0\0\0")), Reason.CERTIFICATE_INVALID),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_are_refused(case: str, pki: Pki, authenticator: Authenticator) -> None:
    make, reason = BYTES[case]
    assert refusal(authenticator, *make(pki)).reason is reason
