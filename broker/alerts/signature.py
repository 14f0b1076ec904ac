"""Signs webhooks by the Standard Webhooks specification 1.0.0, asymmetric: `v1a`, Ed25519.

What is signed is `id.timestamp.body`. The id stays the same however often it is sent, the timestamp is that of the attempt.
"""

from __future__ import annotations

from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.clock import Clock

SCHEME = "v1a"


class Signer:
    """Signs with one key."""

    def __init__(self, key: Ed25519PrivateKey, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def headers(self, message_id: str, body: bytes) -> dict[str, str]:
        """Of one attempt. Raises ValueError on an id with a dot in it, which could be read as another message."""
        if not message_id or "." in message_id:
            raise ValueError("an id without dots")
        timestamp = str(int(self._clock.now().timestamp()))
        signature = self._key.sign(b".".join((message_id.encode(), timestamp.encode(), body)))
        return {
            "webhook-id": message_id,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"{SCHEME},{b64encode(signature).decode()}",
        }
