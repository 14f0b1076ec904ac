"""The daemon as it is, with one thing replaced: providers that mint nothing and are dead at once.

What is left is the broker's own cost: identity, policy, guard, two durable commits, journal.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable

from broker.__main__ import main
from broker.model import AwsSession, Evidence, VaultToken
from broker.providers.base import LeaseRef, Minted, MintOrder, Progress, Provider
from broker.secret import Secret
from broker.wiring import adapters


class NullProvider:
    """Answers at once, with what `make` gives. It is in the place of `name`, so that the scope map's blocks are real ones."""

    def __init__(self, name: str, make: Callable[[MintOrder], Minted]) -> None:
        self.name = name
        self._make = make

    async def mint(self, order: MintOrder) -> Minted:
        return self._make(order)

    async def revoke(self, ref: LeaseRef) -> Progress:
        return Progress(evidence=Evidence.SEEN_DEAD)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        return Evidence.SEEN_DEAD

    async def check(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None


def token(order: MintOrder) -> Minted:
    """Of the shape of Vault's."""
    made = Secret(f"scv1-k1-{secrets.token_hex(32)}")
    refs = {"accessor": secrets.token_hex(12)}
    credential = VaultToken(token=made, address="null://")
    return Minted(credential=credential, refs=refs, provider_request_id=order.ref.lease_id)


def session(order: MintOrder) -> Minted:
    """Of the shape of AWS's."""
    credential = AwsSession(
        access_key_id=f"ASIA{secrets.token_hex(8).upper()}",
        secret_access_key=Secret(secrets.token_urlsafe(30)),
        session_token=Secret(secrets.token_urlsafe(400)),
        region="eu-west-1",
        endpoint_url="",
        session_expires_at=order.ref.expires_at,
    )
    return Minted(credential=credential, refs={}, provider_request_id=order.ref.lease_id)


def providers(*_: object, **__: object) -> dict[str, Provider]:
    """Stands for `broker.wiring.adapters.providers`."""
    return {"vault": NullProvider("vault", token), "aws": NullProvider("aws", session)}


if __name__ == "__main__":
    setattr(adapters, "providers", providers)  # noqa: B010 - deliberate: the one seam that this process replaces
    sys.exit(main())
