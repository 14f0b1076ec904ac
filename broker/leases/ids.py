"""Random names."""

from __future__ import annotations

import secrets

NONCE_BYTES = 16


_ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"
_LETTERS = _ALPHABET * (256 // len(_ALPHABET))  # of each byte; every letter stands for as many of them


def _base32(count: int) -> str:
    """So many random characters, 5 bits each."""
    return secrets.token_bytes(count).translate(_LETTERS).decode()


def new_lease_id() -> str:
    """16 characters of [a-z2-7], 80 bits: short enough to be an STS session name and to fit a deny list."""
    return _base32(16)


def new_approval_id() -> str:
    """As a lease's: it is read out on the telephone."""
    return _base32(16)


def new_notice_id() -> str:
    """Its receiver knows a repetition by it."""
    return _base32(16)


def new_freeze_id() -> str:
    """It is typed to lift it."""
    return _base32(16)


def new_review_id() -> str:
    """The same for what has to be reviewed."""
    return _base32(16)


def new_step_id() -> str:
    """24 characters of [a-z2-7]."""
    return _base32(24)


def new_nonce() -> bytes:
    """With the mint key it names one credential; erased when the lease ends."""
    return secrets.token_bytes(NONCE_BYTES)
