"""The roots that client certificates must hang from, read from a file that may change under a running daemon."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

from broker.errors import ConfigError, unreadable

MAX_BYTES = 1 << 20  # in-house bound: a bundle of a thousand roots; read before anything is parsed

# What cryptography raises on bytes that are not a sound certificate, at load time or when a field is first read.
MALFORMED = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)


class TrustStore:
    """A PEM bundle. A file that fails to load never widens or empties it: the last good roots stay (I7)."""

    def __init__(self, path: Path) -> None:
        """Load for the first time.

        Raises ConfigError when the bundle is not good: there is no last good one to keep.
        """
        self.path = path
        self._pem = _read(path)
        self._roots = _parse(path, self._pem)
        self._generation = 1

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        return self._roots

    @property
    def pem(self) -> bytes:
        """The bytes that the roots were parsed from, for the TLS layer."""
        return self._pem

    @property
    def fingerprints(self) -> list[str]:
        """SHA-256 of each root, hex: for the journal."""
        return [root.fingerprint(hashes.SHA256()).hex() for root in self._roots]

    @property
    def generation(self) -> int:
        """Rises by one with each change of the roots; whatever was decided under an older one is void."""
        return self._generation

    def reload(self) -> bool:
        """Read the file again; whether the roots changed.

        Raises ConfigError when the file is not good, and keeps the last good roots: the caller alarms.
        """
        pem = _read(self.path)
        if pem == self._pem:
            return False
        self._roots = _parse(self.path, pem)
        self._pem = pem
        self._generation += 1
        return True


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:  # whoever writes it decides whom to let in
                raise ConfigError([f"trust bundle {path}: can be written by everybody; run chmod o-w {path}"])
            pem = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([f"trust bundle {path}: {unreadable(error)}"]) from None
    if len(pem) > MAX_BYTES:
        raise ConfigError([f"trust bundle {path}: over {MAX_BYTES} bytes"])
    return pem


def _parse(path: Path, pem: bytes) -> tuple[x509.Certificate, ...]:
    try:
        roots = x509.load_pem_x509_certificates(pem)
        strangers = [number for number, root in enumerate(roots, 1) if not _is_ca(root)]
    except MALFORMED:
        raise ConfigError([f"trust bundle {path}: not a PEM certificate bundle"]) from None
    if pem.count(b"-----BEGIN") != len(roots):
        raise ConfigError([f"trust bundle {path}: holds something besides certificates, perhaps a private key"])
    if strangers:
        # A leaf among the roots would make its holder an issuer in some verifiers, and never works in ours.
        raise ConfigError([f"trust bundle {path}: certificate {number} is not a CA" for number in strangers])
    return tuple(roots)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
