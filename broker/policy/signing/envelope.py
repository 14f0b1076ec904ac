"""A manifest in a DSSE envelope (https://github.com/secure-systems-lab/dsse), signed by a threshold of keys.

The library is imported on use: it imports boto3 and hvac where they are, 0.1 s that a map without signatures need not pay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from broker.policy.signing.errors import Fault, ManifestError
from broker.policy.signing.manifest import Manifest, parse_manifest, strict_json

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signer, SSlibKey

PAYLOAD_TYPE = "application/vnd.stepcred.scopes+json"
MAX_BYTES = 1024 * 1024  # of an envelope
MAX_SIGNATURES = 100  # each costs a verification


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A manifest that holds. `signers` are all who signed it, for a caller who needs more of them than the threshold."""

    manifest: Manifest
    signers: frozenset[str]  # names of distinct keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Unverified:
    """What an envelope says. Nobody has looked whether the signatures are any good."""

    manifest: Manifest
    keyids: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The manifest with the highest serial that was ever loaded: what is older is not taken again."""

    serial: int
    digest: str  # Manifest.digest


def sign(manifest: Manifest, signer: Signer) -> bytes:
    """A new envelope with one signature. Raises ManifestError when it would be too large to be read again."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(manifest.payload(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return _written(envelope)


def add_signature(envelope: bytes, signer: Signer) -> bytes:
    """The same manifest, signed by one more; a signature of the same key is replaced. Raises ManifestError."""
    opened = _open(envelope)
    parse_manifest(opened.payload)  # nobody signs what the broker could not read
    opened.sign(signer)
    return _written(opened)


def read_unverified(envelope: bytes) -> Unverified:
    """What it says, believed by nobody. Raises ManifestError."""
    opened = _open(envelope)
    return Unverified(manifest=parse_manifest(opened.payload), keyids=frozenset(opened.signatures))


def verify(
    envelope: bytes,
    keys: Mapping[str, SSlibKey],
    threshold: int,
    *,
    environment: str,
    trust_domain: str,
    root: str,
    now: datetime,
    seen: Seen | None = None,
) -> Verified:
    """The manifest, when `threshold` distinct keys signed it and it is for here and now. Raises ManifestError.

    Args:
        envelope: the file's bytes.
        keys: name → key, of those that may sign.
        threshold: how many of them must have; from 1.
        environment: the broker's own.
        trust_domain: the broker's own.
        root: name of the map's root file, as the config names it.
        now: aware.
        seen: the highest serial that was loaded so far, None before the first.

    1. The question itself: without a key, or with a threshold below 1, nothing is ever verified.
    2. The envelope's size and shape; its type, which is signed too.
    3. The signatures, counted by key. Nothing of the manifest is looked at before.
    4. The manifest's shape.
    5. For this environment, trust domain and root file (replay from elsewhere).
    6. Not older than what was loaded before (replay of what was withdrawn); the same once more is fine.
    7. Not expired.
    """
    # 1
    if not 1 <= threshold <= len(keys) or len({key.keyid for key in keys.values()}) < len(keys):
        raise ManifestError(Fault.KEYS)
    # 2
    opened = _open(envelope)
    # 3
    signed_by = _signers(opened, keys)
    if len(signed_by) < threshold:
        raise ManifestError(
            Fault.TOO_FEW_KEYS, f"{len(signed_by)} of {threshold} ({', '.join(sorted(signed_by)) or 'nobody'})"
        )
    # 4
    manifest = parse_manifest(opened.payload)
    # 5
    _must_be_equal(Fault.ENVIRONMENT, manifest.environment, environment)
    _must_be_equal(Fault.TRUST_DOMAIN, manifest.trust_domain, trust_domain)
    _must_be_equal(Fault.ROOT, manifest.root, root)
    # 6
    _must_be_newest(manifest, seen)
    # 7
    if now >= manifest.expires:
        raise ManifestError(Fault.EXPIRED, f"at {manifest.expires.isoformat()}")
    return Verified(manifest=manifest, signers=signed_by)


def _must_be_equal(fault: Fault, found: str, wanted: str) -> None:
    if found != wanted:
        raise ManifestError(fault, f"{found}, not {wanted}")


def _must_be_newest(manifest: Manifest, seen: Seen | None) -> None:
    if seen is not None and manifest.serial < seen.serial:
        raise ManifestError(Fault.SERIAL_OLDER, f"serial {manifest.serial}, after {seen.serial}")
    if seen is not None and manifest.serial == seen.serial and manifest.digest != seen.digest:
        raise ManifestError(Fault.SERIAL_REUSED, f"serial {manifest.serial}")


def signers(envelope: bytes, keys: Mapping[str, SSlibKey]) -> frozenset[str]:
    """Names of those of `keys` that signed, be the manifest what it may. Raises ManifestError."""
    return _signers(_open(envelope), keys)


def _signers(opened: Envelope, keys: Mapping[str, SSlibKey]) -> frozenset[str]:
    """Each key is asked alone: asked together, the library stops at a threshold and does not say who else signed."""
    from securesystemslib.exceptions import UnverifiedSignatureError

    found = set()
    for name, key in keys.items():
        try:
            opened.verify([key], 1)
        except UnverifiedSignatureError:
            continue
        found.add(name)
    return frozenset(found)


class _Signature(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    keyid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}\z")]
    sig: str


class _Envelope(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    payload: str
    payloadType: str  # noqa: N815  # DSSE's spelling
    signatures: Annotated[list[_Signature], Field(max_length=MAX_SIGNATURES)]


def _open(envelope: bytes) -> Envelope:
    """The library believes its caller about shapes: they are checked before."""
    from securesystemslib.dsse import Envelope

    if len(envelope) > MAX_BYTES:
        raise ManifestError(Fault.TOO_LARGE)
    try:
        opened = Envelope.from_dict(_Envelope.model_validate(strict_json(envelope)).model_dump())
    except ValueError:  # of JSON, pydantic, base64, or one key twice
        raise ManifestError(Fault.MALFORMED) from None
    if opened.payload_type != PAYLOAD_TYPE:
        raise ManifestError(Fault.PAYLOAD_TYPE)
    return opened


def _written(envelope: Envelope) -> bytes:
    values = envelope.to_dict()
    values["signatures"].sort(key=lambda signature: signature["keyid"])
    raw = (json.dumps(values, indent=2) + "\n").encode()
    if len(raw) > MAX_BYTES:
        raise ManifestError(Fault.TOO_LARGE)
    return raw
