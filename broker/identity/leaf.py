"""What a workload's own certificate must look like (SPIFFE X509-SVID, and stricter). No trust is decided here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.errors import BrokerError, Reason
from broker.identity.extensions import find_extension
from broker.identity.spiffe import SpiffeId, SpiffeIdError, parse_spiffe_id
from broker.model import Certificate

# The only extensions that a leaf may mark critical: those that are understood below (RFC 5280, section 4.2).
_UNDERSTOOD = {x509.SubjectAlternativeName.oid, x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid}


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificatePolicy:
    """What this broker asks of a client certificate beyond X.509."""

    max_lifetime: timedelta = timedelta(days=90)  # from not-before to not-after
    min_rsa_bits: int = 2048
    refuse_stale_crl: bool = True  # a list that has run out: whoever keeps the next one away keeps the revoked alive


def check_form(leaf: x509.Certificate, policy: CertificatePolicy) -> None:
    """Raise CERTIFICATE_INVALID unless the leaf is an end entity for client authentication, within policy."""
    for check in CHECKS:
        problem = check(leaf, policy)
        if problem is not None:
            raise BrokerError(Reason.CERTIFICATE_INVALID, problem)


def read_spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    """The one URI name, which must be a SPIFFE ID. Names of other kinds mean nothing here.

    Raises SPIFFE_ID_INVALID. Reads what the certificate holds, not what the TLS layer
    shows: gRPC cuts a name at NUL (measured), and falls back to the common name.
    """
    names = find_extension(leaf, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if len(uris) != 1:
        raise BrokerError(Reason.SPIFFE_ID_INVALID, f"the certificate has {len(uris)} URI names, not exactly one")
    try:
        return parse_spiffe_id(uris[0])
    except SpiffeIdError as error:
        raise BrokerError(Reason.SPIFFE_ID_INVALID, f"the certificate's URI name is refused: {error}") from None


def certificate_of(leaf: x509.Certificate) -> Certificate:
    """What it is told from others by."""
    spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Certificate(
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        serial_number=f"{leaf.serial_number:x}",
        issuer=leaf.issuer.rfc4514_string(),
    )


# Each says what is wrong, or None. The order is that of the messages: the first one is told.


def _lifetime(leaf: x509.Certificate, policy: CertificatePolicy) -> str | None:
    if leaf.not_valid_after_utc - leaf.not_valid_before_utc > policy.max_lifetime:
        return f"the certificate's life is over {policy.max_lifetime.days} days"
    return None


def _serial_number(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    """Certificates are denied and revoked by it (RFC 5280, section 4.1.2.2)."""
    if not 0 < leaf.serial_number < 1 << 160:
        return "the certificate's serial number is not a positive one of at most 20 bytes"
    return None


def _key(leaf: x509.Certificate, policy: CertificatePolicy) -> str | None:
    match leaf.public_key():
        case rsa.RSAPublicKey() as key if key.key_size >= policy.min_rsa_bits:
            return None
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return None
        case _:
            return f"the certificate's key is neither P-256, P-384, nor RSA of {policy.min_rsa_bits} bits or more"


def _key_spelling(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    """A curve by its parameters instead of its name has let keys of one's own choice through (CVE-2020-0601)."""
    usual = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if usual not in leaf.tbs_certificate_bytes:
        return "the certificate's key is written in an unusual way"
    return None


def _critical_extensions(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    if any(one.critical and one.oid not in _UNDERSTOOD for one in leaf.extensions):
        return "the certificate has a critical extension that is not understood"
    return None


def _end_entity(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    constraints = find_extension(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        return "a CA certificate cannot be an agent"
    return None


def _signs_nothing_else(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    usage = find_extension(leaf, x509.KeyUsage)
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        return "the certificate may sign certificates or revocation lists"
    return None


def _signs_handshakes(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    usage = find_extension(leaf, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        return "the certificate's key usage lacks digitalSignature"
    return None


def _purpose(leaf: x509.Certificate, _policy: CertificatePolicy) -> str | None:
    """Absent means "any purpose" to TLS, and anyExtendedKeyUsage says it; an agent's certificate names its purpose."""
    purposes = find_extension(leaf, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        return "the certificate's extended key usage lacks clientAuth"
    return None


Check: TypeAlias = Callable[[x509.Certificate, CertificatePolicy], str | None]
CHECKS: tuple[Check, ...] = (
    _lifetime,
    _serial_number,
    _key,
    _key_spelling,
    _critical_extensions,
    _end_entity,
    _signs_nothing_else,
    _signs_handshakes,
    _purpose,
)
