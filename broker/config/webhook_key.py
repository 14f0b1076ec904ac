"""The Ed25519 key that webhooks are signed with (Standard Webhooks): read from a PEM file, or made."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from broker import process
from broker.errors import ConfigError, unreadable

PUBLIC_PREFIX = "whpk_"  # how the specification writes a public key


def load_webhook_key(path: Path) -> Ed25519PrivateKey:
    """Blocks. Raises ConfigError with a text that holds nothing of the file."""
    try:
        key = load_pem_private_key(process.read_file(path), password=None)
    except OSError as error:
        raise ConfigError([f"{path} {unreadable(error)}"]) from None
    except (TypeError, ValueError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path} holds no Ed25519 private key in clear; stepcred-broker webhook-key FILE makes one"])
    return key


def make_webhook_key(path: Path) -> Ed25519PrivateKey:
    """Write a new one (0600, must not exist), durably. Raises OSError."""
    key = Ed25519PrivateKey.generate()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    process.sync_folder(path)
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """For receivers: the raw 32 bytes, base64."""
    return PUBLIC_PREFIX + b64encode(key.public_key().public_bytes_raw()).decode()
