"""The server's own certificate, looked at before clients meet it."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

MIN_RSA_BITS = 2048


def pair_problems(cert_pem: bytes, key_pem: bytes, now: datetime) -> list[str]:
    """Everything that would make handshakes fail; empty when the pair can be served with."""
    try:
        leaf = x509.load_pem_x509_certificates(cert_pem)[0]
    except ValueError:
        return ["tls.cert_file: holds no PEM certificate"]
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError:
        return ["tls.key_file: is encrypted; the broker needs it in clear, in a file of mode 600"]
    except (ValueError, UnsupportedAlgorithm):
        return ["tls.key_file: holds no PEM private key"]
    try:
        return _problems(leaf, key, now)
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension):  # fields are parsed when they are read
        return ["tls.cert_file: the certificate is malformed"]


def _problems(leaf: x509.Certificate, key: PrivateKeyTypes, now: datetime) -> list[str]:
    problems = []
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        problems.append("tls.key_file: does not belong to tls.cert_file")
    if not _serves(key.public_key()):
        problems.append(
            f"tls.cert_file: gRPC cannot serve with {kind_of_key(key.public_key())}; use P-256, P-384, or RSA of {MIN_RSA_BITS} bits or more"
        )
    if now < leaf.not_valid_before_utc:
        problems.append(f"tls.cert_file: not valid before {leaf.not_valid_before_utc.isoformat()}")
    if now > leaf.not_valid_after_utc:
        problems.append(f"tls.cert_file: expired at {leaf.not_valid_after_utc.isoformat()}")
    return problems + _purpose_problems(leaf)


def _serves(key: PublicKeyTypes) -> bool:
    """Whether gRPC 1.85 completes handshakes with it (measured).

    Clients are answered NO_COMMON_SIGNATURE_ALGORITHMS for Ed25519 and P-521; Ed448, DSA and other curves fail to bind.
    RSA of fewer bits works, and today's clients refuse it.
    """
    match key:
        case rsa.RSAPublicKey() as found:
            return found.key_size >= MIN_RSA_BITS
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return True
        case _:
            return False


def kind_of_key(key: PublicKeyTypes) -> str:
    """For people: "RSA of 1024 bits", "secp521r1", "Ed25519"."""
    match key:
        case rsa.RSAPublicKey() as found:
            return f"RSA of {found.key_size} bits"
        case ec.EllipticCurvePublicKey() as found:
            return found.curve.name
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def _purpose_problems(leaf: x509.Certificate) -> list[str]:
    problems = []
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            problems.append("tls.cert_file: its extended key usage lacks serverAuth")
    except x509.ExtensionNotFound:
        pass  # without it, any purpose
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = [name for kind in (x509.DNSName, x509.IPAddress) for name in names.get_values_for_type(kind)]
    except x509.ExtensionNotFound:
        hosts = []
    if not hosts:  # gRPC compares the host's name, and looks at no SPIFFE ID (measured)
        problems.append(
            "tls.cert_file: names no host (no DNS or IP subject alternative name); clients will not accept it"
        )
    return problems
