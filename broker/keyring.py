"""The mint keys: what names every credential and step handle, kept in a file outside the database.

A key names; it does not authenticate. Whoever steals the database still cannot find a live token, and
whoever steals the key still needs the nonce of the lease.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import b32encode
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from broker import process
from broker.errors import ConfigError, unreadable
from broker.permissions import secret_problem

KEY_BYTES = 32
# First line of a file that no database knows yet; a daemon takes it out when its database does. A key without it, beside
# a database that was never used, has lost what it named.
NEVER_USED = "never-used"


def encode(*parts: str | bytes) -> bytes:
    """Length-prefix every part, so that no two different lists of parts give the same bytes."""
    raw = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join([len(part).to_bytes(4, "big") + part for part in raw])


class Keyring:
    """Keys by id; the newest one is used for new names, the older ones still derive what they named."""

    def __init__(self, keys: Mapping[str, bytes], current: str) -> None:
        self._keys = dict(keys)
        self._subkeys: dict[tuple[str, str], bytes] = {}
        self.current = current

    def derive(self, kid: str, purpose: str, *parts: str | bytes) -> bytes:
        """32 bytes for (purpose, parts) under a subkey that serves this purpose only.

        Raises KeyError when the key id is not in the ring.
        """
        subkey = self._subkeys.get((kid, purpose))
        if subkey is None:
            subkey = hmac.digest(self._keys[kid], encode("stepcred", purpose), "sha256")
            self._subkeys[kid, purpose] = subkey
        return hmac.digest(subkey, encode(*parts), "sha256")

    def adopt(self, newer: Keyring) -> None:
        """Take over new keys and the current one of a ring that was read again; forgets none before the process ends."""
        self._keys |= newer._keys
        self._subkeys.clear()
        self.current = newer.current

    @property
    def fingerprints(self) -> dict[str, str]:
        """Key id → hex digest that tells keys apart without revealing them; the database keeps them."""
        return {kid: self.derive(kid, "fingerprint").hex()[:32] for kid in self._keys}


def handle_of(raw: bytes) -> str:
    """128 bits as text of [a-z2-7]."""
    return b32encode(raw[:16]).decode().rstrip("=").lower()


def hash_handle(handle: str) -> bytes:
    """What the store keeps of a step handle (SHA-256, 32 bytes)."""
    return hashlib.sha256(b"stepcred-handle\0" + handle.encode()).digest()


def generate(path: Path) -> Keyring:
    """Write a new key file (0600, must not exist) and load it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{NEVER_USED}\n{_new_line(())}")
        file.flush()
        os.fsync(file.fileno())
    process.sync_folder(path)
    return load(path)


def rotate(path: Path) -> Keyring:
    """Add a key to the file and make it the current one. Raises ConfigError."""
    return _change(path, lambda lines: [*lines, _new_line([line.partition(":")[0] for line in lines])])


def drop(path: Path, kids: Collection[str]) -> Keyring:
    """Take keys out of the file; never the current one. Raises ConfigError."""
    return _change(
        path, lambda lines: [*(line for line in lines[:-1] if line.partition(":")[0] not in kids), lines[-1]]
    )


def never_used(path: Path) -> bool:
    """Does the file say so itself? Raises ConfigError."""
    return NEVER_USED in _read(path)


def note_used(path: Path) -> None:
    """Take the mark out of the file, once a database knows its keys. A systemd credential keeps it. Raises ConfigError."""
    if path.parent != process.credentials_directory() and never_used(path):
        _change(path, lambda lines: [line for line in lines if line.strip() != NEVER_USED])


def must_be_writable(path: Path) -> None:
    """Raises ConfigError for a systemd credential."""
    if path.parent == process.credentials_directory():
        raise ConfigError(
            [f"mint_key_file {path}: a systemd credential is read-only; change the file it is loaded from"]
        )


def _change(path: Path, operation: Callable[[list[str]], Iterable[str]]) -> Keyring:
    """Read and write without another in between: a key that is lost orphans what it has named."""
    must_be_writable(path)
    try:
        with process.alone_with(path):
            load(path)  # raises when it is not sound
            lines = [line + "\n" for line in _read(path)]
            process.replace_file(path, "".join(operation(lines)))
            return load(path)
    except OSError as error:
        raise ConfigError([f"mint_key_file {path}: cannot be written ({error.strerror})"]) from None


def _new_line(taken: Collection[str]) -> str:
    kid = secrets.token_hex(2)
    return _new_line(taken) if kid in taken else f"{kid}:{secrets.token_hex(KEY_BYTES)}\n"


def load(path: Path) -> Keyring:
    """Read `kid:hex` lines, the last one current.

    Raises ConfigError when the file is unreadable, malformed, or readable by others.
    """
    lines = _read(path)
    if problem := secret_problem(path):
        raise ConfigError([f"mint_key_file {path}: {problem}"])
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if line == NEVER_USED:
            continue
        kid, _, value = line.partition(":")
        try:
            key = bytes.fromhex(value)
        except ValueError:
            key = b""
        if not kid.isalnum() or len(key) != KEY_BYTES or kid in keys:
            raise ConfigError([f"mint_key_file {path}:{number}: not a 'kid:hex' line of {KEY_BYTES} bytes"])
        keys[kid] = key
    if not keys:
        raise ConfigError([f"mint_key_file {path}: holds no key"])
    return Keyring(keys, list(keys)[-1])


def _read(path: Path) -> list[str]:
    """Its lines. Raises ConfigError, in words that say what to do."""
    try:
        return process.read_file(path).decode().split()
    except FileNotFoundError:
        why = "does not exist; restore it from where it was kept, or see docs/recovery.md for a key that is lost"
    except (OSError, UnicodeDecodeError) as error:
        why = unreadable(error)
    raise ConfigError([f"mint_key_file {path}: {why}"])
