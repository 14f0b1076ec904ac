"""Keys as files: public ones to verify with, private ones to sign with."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from broker.config.signing_keys import MAX_PEM_BYTES, acceptable, load_public_keys
from broker.errors import ConfigError, unreadable
from broker.process import sync_folder
from broker.secret import Secret

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey


def load_keys(paths: Mapping[str, Path]) -> dict[str, SSlibKey]:
    """Name → key, for `verify`. Blocks. Raises ConfigError with every problem; one key under two names is one."""
    from securesystemslib.signer import SSlibKey

    return {name: SSlibKey.from_crypto(key) for name, key in load_public_keys(paths).items()}


def load_signer(path: Path, passphrase: Callable[[], Secret]) -> CryptoSigner:
    """A private key, PEM. `passphrase` is asked only for an encrypted one. Blocks. Raises ConfigError."""
    from securesystemslib.signer import CryptoSigner

    pem = _private_bytes(path)
    try:
        key = _loaded(pem, passphrase)
        acceptable(key.public_key())
    except ConfigError as error:
        raise ConfigError([f"{path} {problem}" for problem in error.problems]) from None
    return CryptoSigner(key)


def _private_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_IMODE(mode) & (stat.S_IRWXG | stat.S_IRWXO):
                raise ConfigError([f"{path} can be read by others; run chmod 600 {path}"])
            return file.read(MAX_PEM_BYTES)
    except OSError as error:
        raise ConfigError([f"{path} {unreadable(error)}"]) from None


def _loaded(pem: bytes, passphrase: Callable[[], Secret]) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        pass  # encrypted
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(["holds no PEM private key"]) from None
    try:
        return load_pem_private_key(pem, passphrase().reveal().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(["cannot be decrypted: another passphrase, or a damaged file"]) from None


def generate(prefix: Path) -> tuple[Path, Path]:
    """A new Ed25519 pair: PREFIX.key.pem (0600, in clear) and PREFIX.pem. Neither may exist. Raises OSError."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = (prefix.with_name(prefix.name + end) for end in (".key.pem", ".pem"))
    if public.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(public))
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return private, public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask: a public key is for others to read
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path)
