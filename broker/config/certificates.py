"""The server's own certificate, looked at before clients meet it."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.config.settings import Tls
from broker.errors import unreadable


def server_certificate_problems(tls: Tls, now: datetime) -> list[str]:
    """Everything that would make handshakes fail; empty when the pair can be served with. Blocks; reads two files."""
    try:
        cert, key = tls.cert_file.read_bytes(), tls.key_file.read_bytes()
    except OSError as error:
        return [f"tls: {error.filename}: {unreadable(error)}"]
    return pair_problems(cert, key, now)


def pair_problems(cert_pem: bytes, key_pem: bytes, now: datetime) -> list[str]:
    """The same of their contents."""
    try:
        leaf = x509.load_pem_x509_certificates(cert_pem)[0]
    except ValueError:
        return ["tls.cert_file: holds no PEM certificate"]
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError:
        return ["tls.key_file: is encrypted; the broker needs it in clear, in a file of mode 600"]
    except ValueError:
        return ["tls.key_file: holds no PEM private key"]
    problems = []
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*spki) != leaf.public_key().public_bytes(*spki):
        problems.append("tls.key_file: does not belong to tls.cert_file")
    if isinstance(leaf.public_key(), ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        # gRPC's TLS answers every client with NO_COMMON_SIGNATURE_ALGORITHMS (measured).
        problems.append("tls.cert_file: Ed25519 does not work with gRPC; use P-256 or RSA")
    if now < leaf.not_valid_before_utc:
        problems.append(f"tls.cert_file: not valid before {leaf.not_valid_before_utc.isoformat()}")
    if now > leaf.not_valid_after_utc:
        problems.append(f"tls.cert_file: expired at {leaf.not_valid_after_utc.isoformat()}")
    return problems + _purpose_problems(leaf)


def _purpose_problems(leaf: x509.Certificate) -> list[str]:
    problems = []
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        if ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
            problems.append("tls.cert_file: its extended key usage lacks serverAuth")
    except x509.ExtensionNotFound:
        pass  # without it, any purpose
    try:
        leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        problems.append("tls.cert_file: names no host (no subject alternative name); clients will not accept it")
    return problems
