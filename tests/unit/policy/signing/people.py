"""Two people with keys, and a manifest that they may sign."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner, SSlibKey

from broker.policy.signing import Manifest, Seen, Verified, add_signature, digests, sign, verify

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
CONTENTS = {"scopes.yaml": b"version: 1\n", "teams/payments.yaml": b"grants: {}\n", "../base.yaml": b"{}\n"}
MANIFEST = Manifest(
    environment="prod",
    trust_domain="prod.acme.internal",
    serial=7,
    expires=NOW + timedelta(days=30),
    root="scopes.yaml",
    files=digests(CONTENTS),
)

ALICE = CryptoSigner.generate_ed25519()
BOB = CryptoSigner.generate_ecdsa()
MALLORY = CryptoSigner.generate_ed25519()
KEYS: dict[str, SSlibKey] = {"alice": ALICE.public_key, "bob": BOB.public_key}


def signed(*signers: CryptoSigner, **changes: Any) -> bytes:
    envelope = sign(replace(MANIFEST, **changes), signers[0])
    for signer in signers[1:]:
        envelope = add_signature(envelope, signer)
    return envelope


def look(
    envelope: bytes,
    threshold: int = 2,
    *,
    keys: Mapping[str, SSlibKey] | None = None,
    now: datetime = NOW,
    seen: Seen | None = None,
    root: str = "scopes.yaml",
    **broker: str,
) -> Verified:
    """Asked by the broker of `prod`, unless said otherwise."""
    environment = broker.get("environment", "prod")
    domain = broker.get("trust_domain", "prod.acme.internal")
    return verify(
        envelope,
        KEYS if keys is None else keys,
        threshold,
        environment=environment,
        trust_domain=domain,
        root=root,
        now=now,
        seen=seen,
    )


def opened(envelope: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(envelope)
    return found


def payload(envelope: bytes) -> bytes:
    return b64decode(opened(envelope)["payload"])


def with_payload(envelope: bytes, new: bytes) -> bytes:
    return json.dumps(opened(envelope) | {"payload": b64encode(new).decode()}).encode()
