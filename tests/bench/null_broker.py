"""The daemon as it is, with one thing replaced: providers that mint nothing and are dead at once.

What is left is the broker's own cost: identity, policy, guard, two durable commits, journal.
"""

from __future__ import annotations

import secrets
import sys

from broker.__main__ import main
from broker.model import AwsSession, Evidence, VaultToken
from broker.providers.base import LeaseRef, Minted, MintOrder, Progress, Provider
from broker.secret import Secret
from broker.wiring import adapters


class NullProvider:
    """Answers at once. Its tokens have the shape of Vault's."""

    name = "vault"  # in the place of that one, so that the scope map's blocks are real ones

    async def mint(self, order: MintOrder) -> Minted:
        token = Secret(f"scv1-k1-{secrets.token_hex(32)}")
        return Minted(
            credential=VaultToken(token=token, address="null://"),
            refs={"accessor": secrets.token_hex(12)},
            provider_request_id=order.ref.lease_id,
        )

    async def revoke(self, ref: LeaseRef) -> Progress:
        return Progress(evidence=Evidence.SEEN_DEAD)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        return Evidence.SEEN_DEAD

    async def check(self) -> list[str]:
        return []

    async def close(self) -> None:
        return None


class NullSts(NullProvider):
    """Its sessions have the shape of AWS's."""

    name = "aws"

    async def mint(self, order: MintOrder) -> Minted:
        credential = AwsSession(
            access_key_id=f"ASIA{secrets.token_hex(8).upper()}",
            secret_access_key=Secret(secrets.token_urlsafe(30)),
            session_token=Secret(secrets.token_urlsafe(400)),
            region="eu-west-1",
            endpoint_url="",
            session_expires_at=order.ref.expires_at,
        )
        return Minted(credential=credential, provider_request_id=order.ref.lease_id)


def providers(*_: object, **__: object) -> dict[str, Provider]:
    """Stands for `broker.wiring.adapters.providers`."""
    return {NullProvider.name: NullProvider(), NullSts.name: NullSts()}


if __name__ == "__main__":
    setattr(adapters, "providers", providers)  # noqa: B010 - deliberate: the one seam that this process replaces
    sys.exit(main())
