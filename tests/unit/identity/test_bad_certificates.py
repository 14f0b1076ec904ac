"""A corpus of certificates, each bent in one way and correctly signed, and the reason that each is refused with."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from broker.errors import BrokerError, Reason
from broker.identity import Authenticator
from broker.identity.authority import Authority, new_authority
from tests.support.certs import Leaf, TestCA, resigned

Make: TypeAlias = Callable[[TestCA], bytes | tuple[bytes, bytes]]  # PEM of a leaf, or (leaf, chain)

ID = "spiffe://test.local/workflow/nightly/step/load"
SAN_OID = x509.SubjectAlternativeName.oid


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def bent(**overrides: Any) -> Make:
    return lambda ca: pem(ca.leaf(ID, **overrides)[0])


def unknown(*, critical: bool) -> tuple[x509.ExtensionType, bool]:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00"), critical


def raw_san(der: bytes) -> Make:
    """A name extension with these bytes inside."""
    return bent(uris=(), extra=((x509.UnrecognizedExtension(SAN_OID, der), False),))


def uri_san(value: bytes) -> bytes:
    name = b"\x86" + bytes([len(value)]) + value
    return b"\x30" + bytes([len(name)]) + name


def twice_named(ca: TestCA) -> bytes:
    """Two name extensions: one is put under another OID of equal length, renamed, and the whole signed again."""
    stand_in = x509.ObjectIdentifier("2.5.29.99")
    second = x509.UnrecognizedExtension(stand_in, uri_san(b"spiffe://test.local/admin"))
    certificate, _ = ca.leaf(ID, extra=((second, False),))
    return resigned(certificate, ca.root, b"\x06\x03\x55\x1d\x63", b"\x06\x03\x55\x1d\x11")


def stranger() -> Authority:
    return new_authority("stranger", now=datetime.now(UTC))


def same_name_other_key(ca: TestCA) -> bytes:
    impostor = new_authority("stepcred dev CA, agents of test.local", now=datetime.now(UTC))
    assert impostor.certificate.subject == ca.root.certificate.subject
    return pem(ca.leaf(ID, issuer=impostor)[0])


def self_signed(_: TestCA) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    itself = Authority(certificate=stranger().certificate, key=key)
    return pem(Leaf(uris=(ID,), key=key).build(itself)[0])


def below_a_leaf(ca: TestCA) -> tuple[bytes, bytes]:
    """An agent that plays CA with its own certificate."""
    middle, key = ca.leaf("spiffe://test.local/middle")
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf, _ = ca.leaf(ID, issuer=Authority(certificate=middle, key=key))
    return pem(leaf), pem(middle)


def too_deep(ca: TestCA) -> tuple[bytes, bytes]:
    """The root's path length is 0."""
    middle = ca.intermediate()
    return pem(ca.leaf(ID, issuer=middle)[0]), pem(middle.certificate)


def brings_its_own_root(ca: TestCA) -> tuple[bytes, bytes]:
    root = stranger()
    return pem(ca.leaf(ID, issuer=root)[0]), pem(root.certificate)


def tampered(ca: TestCA) -> bytes:
    """Signed as one workload, changed to another."""
    der = ca.leaf(ID)[0].public_bytes(Encoding.DER)
    changed = der.replace(b"/step/load", b"/step/LOAD")
    return pem(x509.load_der_x509_certificate(changed))


NOW = datetime.now(UTC)
DAY = timedelta(days=1)

CORPUS: dict[str, tuple[Make, Reason]] = {
    # names
    "no name at all": (bent(uris=()), Reason.SPIFFE_ID_INVALID),
    "common name only": (bent(uris=(), common_name=ID), Reason.SPIFFE_ID_INVALID),
    "DNS name only": (bent(uris=(), other_names=(x509.DNSName("load.test.local"),)), Reason.SPIFFE_ID_INVALID),
    "ID as a DNS name": (bent(uris=(), other_names=(x509.DNSName(ID),)), Reason.SPIFFE_ID_INVALID),
    "two URI names": (bent(uris=(ID, "spiffe://test.local/admin")), Reason.SPIFFE_ID_INVALID),
    "the same URI name twice": (bent(uris=(ID, ID)), Reason.SPIFFE_ID_INVALID),
    "SPIFFE ID and another URI": (bent(uris=(ID, "https://test.local/")), Reason.SPIFFE_ID_INVALID),
    "a URI that is no SPIFFE ID": (bent(uris=("https://test.local/workflow",)), Reason.SPIFFE_ID_INVALID),
    "NUL in the name": (bent(uris=("spiffe://test.local/admin\0/x",)), Reason.SPIFFE_ID_INVALID),
    "NUL at the end": (bent(uris=(ID + "\0",)), Reason.SPIFFE_ID_INVALID),
    "upper-case trust domain": (bent(uris=("spiffe://TEST.local/a",)), Reason.SPIFFE_ID_INVALID),
    "percent-encoding": (bent(uris=("spiffe://test.local/%61",)), Reason.SPIFFE_ID_INVALID),
    "dot segments": (bent(uris=("spiffe://test.local/a/../admin",)), Reason.SPIFFE_ID_INVALID),
    "trailing slash": (bent(uris=("spiffe://test.local/a/",)), Reason.SPIFFE_ID_INVALID),
    "trust domain without a path": (bent(uris=("spiffe://test.local",)), Reason.SPIFFE_ID_INVALID),
    "query": (bent(uris=("spiffe://test.local/a?x",)), Reason.SPIFFE_ID_INVALID),
    "line break": (bent(uris=("spiffe://test.local/a\n",)), Reason.SPIFFE_ID_INVALID),
    "name of 2049 bytes": (bent(uris=("spiffe://test.local/" + "a" * 2029,)), Reason.SPIFFE_ID_INVALID),
    "letters beyond ASCII": (raw_san(uri_san("spiffe://test.local/ä".encode())), Reason.SPIFFE_ID_INVALID),
    "bytes that are no letters": (raw_san(uri_san(b"spiffe://test.local/\xff")), Reason.CERTIFICATE_INVALID),
    "no bytes of a name": (raw_san(b""), Reason.CERTIFICATE_INVALID),
    "two name extensions": (twice_named, Reason.CERTIFICATE_INVALID),
    "foreign trust domain": (bent(uris=("spiffe://other.local/a",)), Reason.TRUST_DOMAIN_FOREIGN),
    "trust domain below ours": (bent(uris=("spiffe://a.test.local/a",)), Reason.TRUST_DOMAIN_FOREIGN),
    "trust domain that ours begins": (bent(uris=("spiffe://test.localhost/a",)), Reason.TRUST_DOMAIN_FOREIGN),
    # purpose
    "no extended key usage": (bent(eku=None), Reason.CERTIFICATE_INVALID),
    "server certificate": (bent(eku=(Eku.SERVER_AUTH,)), Reason.CERTIFICATE_INVALID),
    "any purpose": (bent(eku=(Eku.ANY_EXTENDED_KEY_USAGE,)), Reason.CERTIFICATE_INVALID),
    "CA certificate": (bent(ca=True), Reason.CERTIFICATE_INVALID),
    "the root itself": (lambda ca: ca.root_pem, Reason.CERTIFICATE_INVALID),
    "keyCertSign": (bent(usages=("digital_signature", "key_cert_sign")), Reason.CERTIFICATE_INVALID),
    "cRLSign": (bent(usages=("digital_signature", "crl_sign")), Reason.CERTIFICATE_INVALID),
    "no digitalSignature": (bent(usages=("key_encipherment",)), Reason.CERTIFICATE_INVALID),
    "unknown critical extension": (bent(extra=(unknown(critical=True),)), Reason.CERTIFICATE_INVALID),
    "known critical extension that means nothing here": (
        bent(extra=((x509.NameConstraints([x509.DNSName("test.local")], None), True),)),
        Reason.CERTIFICATE_INVALID,
    ),
    # key
    "RSA-1024": (bent(key=rsa_key(1024)), Reason.CERTIFICATE_INVALID),
    "P-521": (bent(key=ec.generate_private_key(ec.SECP521R1())), Reason.CERTIFICATE_INVALID),
    "secp256k1": (bent(key=ec.generate_private_key(ec.SECP256K1())), Reason.CERTIFICATE_INVALID),
    "Ed25519": (bent(key=ed25519.Ed25519PrivateKey.generate()), Reason.CERTIFICATE_INVALID),
    # time
    "expired": (bent(not_before=NOW - 2 * DAY, not_after=NOW - DAY), Reason.CERTIFICATE_EXPIRED),
    "not valid yet": (bent(not_before=NOW + DAY, not_after=NOW + 2 * DAY), Reason.CERTIFICATE_INVALID),
    "a life of 91 days": (bent(not_before=NOW - DAY, not_after=NOW + 90 * DAY), Reason.CERTIFICATE_INVALID),
    "an endless life": (bent(not_after=datetime(9999, 12, 31, tzinfo=UTC)), Reason.CERTIFICATE_INVALID),
    # path
    "self-signed": (self_signed, Reason.CERTIFICATE_INVALID),
    "another CA": (lambda ca: pem(ca.leaf(ID, issuer=stranger())[0]), Reason.CERTIFICATE_INVALID),
    "another CA of the same name": (same_name_other_key, Reason.CERTIFICATE_INVALID),
    "another CA, sent along": (brings_its_own_root, Reason.CERTIFICATE_INVALID),
    "issued by an agent": (below_a_leaf, Reason.CERTIFICATE_INVALID),
    "over the root's path length": (too_deep, Reason.CERTIFICATE_INVALID),
    "changed after signing": (tampered, Reason.CERTIFICATE_INVALID),
    # bytes
    "nothing": (lambda _: b"", Reason.NO_CLIENT_CERTIFICATE),
    "no PEM": (lambda _: b"hello", Reason.CERTIFICATE_INVALID),
    "PEM of rubbish": (
        lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        Reason.CERTIFICATE_INVALID,
    ),
    "two certificates": (lambda ca: pem(ca.leaf(ID)[0]) + ca.root_pem, Reason.CERTIFICATE_INVALID),
    "16 kB of certificate": (lambda ca: pem(ca.leaf(ID)[0]) + b" " * 16384, Reason.CERTIFICATE_INVALID),
    "64 kB of chain": (lambda ca: (pem(ca.leaf(ID)[0]), b" " * 65537), Reason.CERTIFICATE_INVALID),
    "a chain of rubbish": (lambda ca: (pem(ca.leaf(ID)[0]), b"rubbish"), Reason.CERTIFICATE_INVALID),
    "a chain of nine": (
        lambda ca: (pem(ca.leaf(ID)[0]), b"".join(pem(stranger().certificate) for _ in range(9))),
        Reason.CERTIFICATE_INVALID,
    ),
}


@pytest.mark.parametrize("case", CORPUS)
def test_refused_with_its_reason(case: str, ca: TestCA, authenticator: Authenticator) -> None:
    make, reason = CORPUS[case]
    made = make(ca)
    leaf, chain = made if isinstance(made, tuple) else (made, b"")
    with pytest.raises(BrokerError) as refusal:
        authenticator.authenticate(leaf, chain=chain, tls_version="TLSv1.3", peer="test")
    assert refusal.value.reason is reason, refusal.value.message
    assert "spiffe://test.local/" not in refusal.value.message, "what a stranger wrote must not come back"


GOOD: dict[str, Make] = {
    "as issued": lambda ca: ca.agent(ID).cert.read_bytes(),
    "DNS, address and mail names beside it": bent(
        other_names=(x509.DNSName("a.test.local"), x509.RFC822Name("a@test.local"), x509.DNSName("b"))
    ),
    "no subject, critical name": bent(common_name="", san_critical=True),
    "another workload's ID as common name": bent(common_name="spiffe://test.local/admin"),
    "server and client": bent(eku=(Eku.SERVER_AUTH, Eku.CLIENT_AUTH)),
    "no key usage": bent(usages=None),
    "key usages of RSA": bent(usages=("digital_signature", "key_encipherment")),
    "no basic constraints": bent(ca=None),
    "unknown extension, not critical": bent(extra=(unknown(critical=False),)),
    "P-384": bent(key=ec.generate_private_key(ec.SECP384R1())),
    "RSA-2048": bent(key=rsa_key(2048)),
    "a life of 90 days": bent(not_before=NOW - DAY, not_after=NOW + 89 * DAY),
}


@pytest.mark.parametrize("case", GOOD)
def test_accepted(case: str, ca: TestCA, authenticator: Authenticator) -> None:
    leaf = GOOD[case](ca)
    assert isinstance(leaf, bytes)
    agent = authenticator.authenticate(leaf, tls_version="TLSv1.3", peer="ipv4:127.0.0.1:1")
    certificate = x509.load_pem_x509_certificate(leaf)
    assert agent.spiffe_id == ID
    assert agent.trust_domain == "test.local"
    assert agent.cert_sha256 == certificate.fingerprint(hashes.SHA256()).hex()
    assert agent.not_after == certificate.not_valid_after_utc
    assert agent.peer == "ipv4:127.0.0.1:1"
