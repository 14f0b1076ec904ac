"""A trust bundle: the roots that may vouch for certificates, from PEM."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from broker.errors import ConfigError

MAX_BYTES = 1 << 20  # in-house bound: a bundle of a thousand roots

# What cryptography raises on bytes that are not a sound certificate, at load time or when a field is first read.
MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """Parsed, and the bytes that it was parsed from, for the TLS layer."""

    roots: tuple[x509.Certificate, ...]
    pem: bytes

    @property
    def fingerprints(self) -> list[str]:
        """SHA-256 of each root, hex: for the journal."""
        return [root.fingerprint(hashes.SHA256()).hex() for root in self.roots]


def parse_bundle(pem: bytes, label: str) -> Bundle:
    """Raises ConfigError for whatever is not certificates of CAs alone; `label` names where it came from."""
    try:
        roots = x509.load_pem_x509_certificates(pem)
        strangers = [number for number, root in enumerate(roots, 1) if not _is_ca(root)]
    except MALFORMED:
        raise ConfigError([f"{label}: not a PEM certificate bundle"]) from None
    if pem.count(b"-----BEGIN") != len(roots):
        raise ConfigError([f"{label}: holds something besides certificates, perhaps a private key"])
    if strangers:
        # A leaf among the roots would make its holder an issuer in some verifiers, and never works in ours.
        raise ConfigError([f"{label}: certificate {number} is not a CA" for number in strangers])
    return Bundle(roots=tuple(roots), pem=pem)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
