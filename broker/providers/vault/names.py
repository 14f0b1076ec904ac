"""What a lease's token is called: derivable from the lease row and the mint key, and from nothing less.

The id is for *finding* a token of unknown fate, not for idempotency: two concurrent creates with the same id
were both answered 200 in 47 of 300 races (measured).
"""

from __future__ import annotations

from broker.keyring import Keyring
from broker.providers.base import LeaseRef
from broker.secret import Secret

ID_BYTES = 20  # 160 bits: 32 characters of base32 without padding
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = tuple(one + other for one in _LETTERS for other in _LETTERS)
_SHIFTS = range(8 * ID_BYTES - 10, -1, -10)
PREFIX = "scv1-"


def token_id(keyring: Keyring, installation: str, ref: LeaseRef) -> Secret:
    """`scv1-<kid>-<HMAC(key[kid], installation ‖ lease id ‖ nonce)>`; a '.' would be refused by the server.

    Raises KeyError when the key is gone, ValueError when the nonce has been erased.
    """
    if not ref.nonce:
        raise ValueError("the nonce of this lease has been erased")
    raw = keyring.derive(ref.kid, "vault-token", installation, ref.lease_id, ref.nonce)
    return Secret(f"{PREFIX}{ref.kid}-{_base32(raw[:ID_BYTES])}")


def _base32(raw: bytes) -> str:
    """Of `ID_BYTES`, in lower case; a third of the time of the standard library's, at every mint and twice at each end."""
    number = int.from_bytes(raw, "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])
