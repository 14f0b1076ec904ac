"""What a workload's own certificate must look like (SPIFFE X509-SVID, and stricter). No trust is decided here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from broker.errors import BrokerError, Reason
from broker.identity.spiffe import SpiffeId, SpiffeIdError, parse_spiffe_id
from broker.model import Certificate

# The only extensions that a leaf may mark critical: those that are understood below (RFC 5280, section 4.2).
_UNDERSTOOD = {x509.SubjectAlternativeName.oid, x509.BasicConstraints.oid, x509.KeyUsage.oid, x509.ExtendedKeyUsage.oid}


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificatePolicy:
    """What this broker asks of a client certificate beyond X.509."""

    max_lifetime: timedelta = timedelta(days=90)  # from not-before to not-after
    min_rsa_bits: int = 2048
    refuse_stale_crl: bool = True  # a list that has run out: whoever keeps the next one away keeps the revoked alive


def check_form(leaf: x509.Certificate, policy: CertificatePolicy) -> None:
    """Raise CERTIFICATE_INVALID unless the leaf is an end entity for client authentication, within policy."""
    if leaf.not_valid_after_utc - leaf.not_valid_before_utc > policy.max_lifetime:
        raise _invalid(f"the certificate's life is over {policy.max_lifetime.days} days")
    _check_key(leaf, policy)
    for extension in leaf.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _invalid("the certificate has a critical extension that is not understood")
    constraints = _find(leaf, x509.BasicConstraints)
    if constraints is not None and constraints.ca:
        raise _invalid("a CA certificate cannot be an agent")
    usage = _find(leaf, x509.KeyUsage)
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        raise _invalid("the certificate may sign certificates or revocation lists")
    if usage is not None and not usage.digital_signature:
        raise _invalid("the certificate's key usage lacks digitalSignature")
    purposes = _find(leaf, x509.ExtendedKeyUsage)
    # Absent means "any purpose" to TLS, and anyExtendedKeyUsage says it; an agent's certificate names its purpose.
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _invalid("the certificate's extended key usage lacks clientAuth")


def read_spiffe_id(leaf: x509.Certificate) -> SpiffeId:
    """The one URI name, which must be a SPIFFE ID. Names of other kinds mean nothing here.

    Raises SPIFFE_ID_INVALID. Reads what the certificate holds, not what the TLS layer
    shows: gRPC cuts a name at NUL (measured), and falls back to the common name.
    """
    names = _find(leaf, x509.SubjectAlternativeName)
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


def _check_key(leaf: x509.Certificate, policy: CertificatePolicy) -> None:
    match leaf.public_key():
        case rsa.RSAPublicKey() as key if key.key_size >= policy.min_rsa_bits:
            return
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return
        case _:
            raise _invalid(
                f"the certificate's key is neither P-256, P-384, nor RSA of {policy.min_rsa_bits} bits or more"
            )


def _find(leaf: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return leaf.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _invalid(message: str) -> BrokerError:
    return BrokerError(Reason.CERTIFICATE_INVALID, message)
