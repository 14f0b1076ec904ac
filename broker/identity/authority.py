"""Making certificates in memory: what `dev_ca` writes to files, and tests bend. Nothing here verifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

CA_LIFE = timedelta(days=30)
BACKDATE = timedelta(minutes=1)  # for machines whose clocks differ a little

Extensions: TypeAlias = Sequence[tuple[x509.ExtensionType, bool]]  # (extension, critical)
_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """A root or intermediate that can sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Finish a certificate as its issuer."""
        return builder.issuer_name(self.certificate.subject).sign(self.key, hashes.SHA256())

    @property
    def key_identifier(self) -> x509.AuthorityKeyIdentifier:
        """What chains of this authority's certificates point back with."""
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def new_authority(
    common_name: str, *, now: datetime, path_length: int | None = 0, issuer: Authority | None = None
) -> Authority:
    """A new root, or an intermediate of `issuer`, in memory. P-256, since gRPC refuses Ed25519 (measured)."""
    key = ec.generate_private_key(ec.SECP256R1())
    itself = name_of(common_name)
    extensions = (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
    )
    builder = new_builder(itself, key.public_key(), now - BACKDATE, now + CA_LIFE, extensions)
    if issuer is None:
        certificate = builder.issuer_name(itself).sign(key, hashes.SHA256())
    else:
        certificate = issuer.sign(builder.add_extension(issuer.key_identifier, critical=False))
    return Authority(certificate=certificate, key=key)


def new_builder(
    subject: x509.Name,
    public_key: CertificatePublicKeyTypes,
    not_before: datetime,
    not_after: datetime,
    extensions: Extensions,
) -> x509.CertificateBuilder:
    """What every certificate made here has, still without an issuer, with a subject key identifier and the given extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder


def name_of(common_name: str) -> x509.Name:
    """A subject for people who look at the file (at most 64 characters, X.520); the broker never reads it."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def leaf_extensions(san: x509.SubjectAlternativeName, usage: x509.ObjectIdentifier) -> Extensions:
    """An end entity that signs handshakes for one purpose and nothing else."""
    return (
        (san, False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([usage]), False),
    )


def key_usage(*allowed: str) -> x509.KeyUsage:
    """Only these usages, by cryptography's own parameter names."""
    return x509.KeyUsage(**{name: name in allowed for name in _USAGES})
