"""The public keys that a scope map may be signed with: read, and each another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from broker.errors import ConfigError, unreadable

MIN_RSA_BITS = 3072  # of 128 bits of strength, as the other two (NIST SP 800-57, table 2)
MAX_PEM_BYTES = 65536  # a key is a few hundred; more is another file

VerifyingKey: TypeAlias = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def load_public_keys(paths: Mapping[str, Path]) -> dict[str, VerifyingKey]:
    """Name → key. Blocks; reads each file. Raises ConfigError with every problem.

    One key under two names is refused: one person would count as two.
    """
    keys: dict[str, VerifyingKey] = {}
    owners: dict[bytes, str] = {}
    problems = []
    for name, path in paths.items():
        try:
            key = _read(path)
        except ConfigError as error:
            problems += [f"{name}: {path} {problem}" for problem in error.problems]
            continue
        identity = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if (owner := owners.setdefault(identity, name)) != name:
            problems.append(
                f"{owner} and {name} have the same key; a signature counts once, so each needs one of its own"
            )
        keys[name] = key
    if problems:
        raise ConfigError(problems)
    return keys


def _read(path: Path) -> VerifyingKey:
    try:
        with path.open("rb") as file:
            return acceptable(load_pem_public_key(file.read(MAX_PEM_BYTES)))
    except OSError as error:
        raise ConfigError([unreadable(error)]) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(["holds no PEM public key (-----BEGIN PUBLIC KEY-----)"]) from None


def acceptable(key: PublicKeyTypes) -> VerifyingKey:
    """The key, when it is of a kind that maps are signed with. Raises ConfigError with a constant text."""
    match key:
        case ed25519.Ed25519PublicKey():
            return key
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            return key
        case rsa.RSAPublicKey() if key.key_size >= MIN_RSA_BITS:
            return key
        case _:
            raise ConfigError([f"is not an Ed25519, P-256 or RSA key of at least {MIN_RSA_BITS} bits"])
