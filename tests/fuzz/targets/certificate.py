"""Client certificates: an agent, or a refusal with its reason. The first byte says what the rest is.

Bit 0: DER, to be wrapped as PEM; else PEM, or whatever. Bit 1: signed again by the CA, so that a bent one comes as far as
its path. Bit 2: it is the chain, below a good leaf; else the leaf. Keys are new in each process: what is found there is
found again by its bytes all the same, since no check but the last one looks at a signature.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from unittest.mock import patch

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import BrokerError, Reason
from broker.identity import Authenticator, verify
from broker.identity.authority import Authority, new_authority
from broker.identity.spiffe import parse_spiffe_id
from broker.model import Agent
from tests.fakes.clock import FakeClock
from tests.fuzz import der
from tests.fuzz.target import Check, Target
from tests.support.certs import Leaf
from tests.support.doors import door

DER, SIGNED, CHAIN = 1, 2, 4
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
DOMAIN = "test.local"
ID = f"spiffe://{DOMAIN}/workflow/nightly/step/load"
_ECDSA = der.Node(tag=0x30, inside=[der.Node(tag=0x06, content=bytes.fromhex("2a8648ce3d040302"))])
REFUSALS = {
    Reason.NO_CLIENT_CERTIFICATE,
    Reason.CERTIFICATE_INVALID,
    Reason.CERTIFICATE_EXPIRED,
    Reason.SPIFFE_ID_INVALID,
    Reason.TRUST_DOMAIN_FOREIGN,
}


@contextmanager
def ready(folder: Path) -> Iterator[Check]:
    root = new_authority("root", now=AT, path_length=None)
    good = _pem(leaf_of(root).public_bytes(Encoding.DER))
    bundle = folder / "roots.pem"
    bundle.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    authenticator = Authenticator(door(bundle, DOMAIN), FakeClock(AT))

    def check(data: bytes) -> None:
        how, body = next(iter(data), 0), data[1:]
        if how & SIGNED:
            body = signed_again(body, root.key)
        pem = _pem(body) if how & DER else body
        leaf, chain = (good, pem) if how & CHAIN else (pem, b"")
        try:
            agent = authenticator.authenticate(leaf, chain=chain, tls_version="TLSv1.3", peer="ipv4:127.0.0.1:1")
        except BrokerError as error:
            assert error.reason in REFUSALS
            assert error.message.isprintable()
        else:
            _is_sound(agent, leaf)

    yield check


def _is_sound(agent: Agent, pem: bytes) -> None:
    """Looked at again, by other means than the broker's."""
    (leaf,) = x509.load_pem_x509_certificates(pem)
    assert str(parse_spiffe_id(agent.spiffe_id)) == agent.spiffe_id
    assert agent.spiffe_id.startswith(f"spiffe://{DOMAIN}/")
    assert agent.spiffe_id.encode() in leaf.tbs_certificate_bytes
    assert agent.cert_sha256 == leaf.fingerprint(hashes.SHA256()).hex()
    assert leaf.not_valid_before_utc <= AT <= leaf.not_valid_after_utc == agent.not_after
    assert b"\x30\x03\x01\x01\xff" not in leaf.tbs_certificate_bytes, "a CA"


def signed_again(body: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """What stands in the certificate's place of what is signed, with a good signature; untouched when there is none."""
    nodes = der.read(body)
    if not nodes or not nodes[0].inside:
        return body
    signed = nodes[0].inside[0]
    signature = b"\0" + key.sign(signed.write(), ec.ECDSA(hashes.SHA256()))
    return der.Node(tag=0x30, inside=[signed, _ECDSA, der.Node(tag=0x03, content=signature)]).write()


def _pem(body: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + encodebytes(body) + b"-----END CERTIFICATE-----\n"


def leaf_of(issuer: Authority, **changes: object) -> x509.Certificate:
    times = {"not_before": AT - timedelta(hours=1), "not_after": AT + timedelta(hours=1)}
    return Leaf(**{"uris": (ID,), **times, **changes}).build(issuer)[0]  # type: ignore[arg-type]  # a test's own fields


def seeds() -> Iterator[bytes]:
    root = new_authority("root", now=AT, path_length=None)
    dns = x509.DNSName("a.test")
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
    leaves = [
        leaf_of(root),
        leaf_of(root, uris=(), other_names=(dns, x509.IPAddress(IPv4Address("10.0.0.1")))),
        leaf_of(root, uris=(ID, ID + "2"), san_critical=True),
        leaf_of(root, uris=("spiffe://other.local/a",)),
        leaf_of(root, common_name="", eku=None, usages=None, ca=None),
        leaf_of(root, ca=True, usages=("key_cert_sign",)),
        leaf_of(root, extra=((unknown, True), (x509.OCSPNoCheck(), False))),
        leaf_of(root, key=rsa.generate_private_key(65537, 2048)),
        leaf_of(root, key=ed25519.Ed25519PrivateKey.generate()),
        leaf_of(root, key=ec.generate_private_key(ec.SECP384R1())),
        leaf_of(root, not_after=AT - timedelta(minutes=1)),
        root.certificate,
        new_authority("between", now=AT, issuer=root).certificate,
    ]
    for number, leaf in enumerate(leaves):
        raw = leaf.public_bytes(Encoding.DER)
        yield bytes([DER | SIGNED]) + raw
        yield bytes([(DER, DER | SIGNED | CHAIN, DER | CHAIN)[number % 3]]) + raw
    yield b"\0" + _pem(leaves[0].public_bytes(Encoding.DER)) * 2
    yield bytes([CHAIN]) + _pem(leaves[-1].public_bytes(Encoding.DER))


def bend(data: bytes, rng: Random) -> bytes:
    """The DER, when it is some; and now and then what it is taken for."""
    how = rng.randrange(8) if rng.randrange(8) == 0 else next(iter(data), DER)
    return bytes([how]) + der.bend(data[1:], rng)


def _believing() -> AbstractContextManager[object]:
    """An authenticator that takes cryptography to raise nothing but ValueError."""
    return patch.object(verify, "MALFORMED", (ValueError,))


TARGET = Target(
    ready=ready,
    seeds=seeds,
    words=(
        b"spiffe://test.local/",
        bytes.fromhex("0603551d11"),
        bytes.fromhex("0603551d25"),
        bytes.fromhex("300f0603551d13"),
    ),
    mutate=bend,
    max_bytes=6000,
    mutants={"believes-cryptography": _believing},
)
