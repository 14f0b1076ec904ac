"""The key under which second factors are sealed: AES-256-GCM, bound to the operator and the revision.

Sealed texts stand in the operators file, and are reviewed like it; the key is a file of its own. Neither is in the
database: whoever can write there can open nothing, and put nobody's factor in another's place.
"""

from __future__ import annotations

import binascii
import os
import re
import secrets
from base64 import b64decode, b64encode
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from broker.errors import ConfigError
from broker.keyring import encode
from broker.operators.model import Sealed
from broker.process import sync_folder
from broker.secret import Secret

KEY_BYTES = 32
MAX_KEY_FILE = 128  # bytes: 32, or 44 of base64 and a line's end
_NONCE_BYTES = 12  # NIST SP 800-38D, section 8.2.2: chosen at random, for far fewer than 2^32 of them
_VERSION = b"\x01"  # of what follows
_TAG_BYTES = 16
_MAX_SEALED = 512  # characters; one of ours has 84
_SECRET = re.compile(r"[A-Z2-7]{16,128}", re.ASCII)  # base32, at least 80 bits (RFC 4226, R6: 128; ours have 160)


class SealBroken(Exception):
    """It was not sealed for this operator and revision under this key, or was changed since. Never says what was in it."""


class SealingKey:
    """32 bytes that nobody sees again."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        """Raises ValueError for another length."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a sealing key has {KEY_BYTES} bytes")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "SealingKey(…)"

    def seal(self, operator: str, revision: int, secret: Secret) -> Sealed:
        """For this operator and revision alone."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        box = self._cipher.encrypt(nonce, secret.reveal().encode(), _bound_to(operator, revision))
        return Sealed(revision=revision, text=b64encode(_VERSION + nonce + box).decode())

    def open(self, operator: str, sealed: Sealed) -> Secret:
        """The secret, base32. Raises SealBroken."""
        try:
            if len(sealed.text) > _MAX_SEALED:
                raise SealBroken
            raw = b64decode(sealed.text, validate=True)
            if raw[:1] != _VERSION or len(raw) < 1 + _NONCE_BYTES + _TAG_BYTES:
                raise SealBroken
            nonce, box = raw[1 : 1 + _NONCE_BYTES], raw[1 + _NONCE_BYTES :]
            found = self._cipher.decrypt(nonce, box, _bound_to(operator, sealed.revision)).decode("ascii")
        except (InvalidTag, ValueError, binascii.Error):
            raise SealBroken from None
        if not _SECRET.fullmatch(found):
            raise SealBroken
        return Secret(found)


def _bound_to(operator: str, revision: int) -> bytes:
    return encode("stepcred-second-factor", operator, str(revision))


def parse_key(raw: bytes) -> SealingKey:
    """32 bytes as they are, or in base64. Raises ConfigError with a constant text."""
    if len(raw) == KEY_BYTES:
        return SealingKey(raw)
    try:
        return SealingKey(b64decode(raw.strip(), validate=True))
    except ValueError:
        raise ConfigError([f"is no sealing key: {KEY_BYTES} bytes, as they are or in base64"]) from None


def generate_key(path: Path) -> None:
    """Write a new key, 0600; the file must not exist. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)
