"""Who owns a token id: the lease, the tomb, nobody. Killing, and occupying so that nothing late can land."""

from __future__ import annotations

from enum import Enum

from broker.providers.base import ProviderError
from broker.providers.vault import answers
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import VaultRefused
from broker.secret import Secret

FORBIDDEN = 403
OCCUPY_TRIES = 4


class Owner(Enum):
    """Of a token id, as the server says it now."""

    LEASE = "LEASE"
    TOMB = "TOMB"  # the powerless token that keeps a late mint out
    NOBODY = "NOBODY"


class Tokens:
    """The lives of the leases' tokens. Errors are the transport's, and ProviderError."""

    def __init__(self, client: VaultClient, settings: VaultSettings) -> None:
        self._client = client
        self._settings = settings

    async def owner(self, asker: Secret, token: Secret) -> Owner:
        """Only an exact answer counts: 403 `permission denied` would say that the *asker* is dead."""
        try:
            seen = await self._client.lookup(asker, token)
        except VaultRefused as error:
            if answers.is_exactly(error, answers.TOKEN_DEAD):
                return Owner.NOBODY
            raise
        return Owner.TOMB if seen.get("role") == self._settings.tomb_role else Owner.LEASE

    async def kill(self, token: Secret) -> None:
        """With the token itself, so that the broker needs no right over other tokens. No proof: look afterwards."""
        try:
            await self._client.revoke_self(token)
        except VaultRefused as error:
            if error.status != FORBIDDEN:  # dead already, or the tomb, which may do nothing
                raise

    async def occupy(self, asker: Secret, token: Secret, lease_id: str) -> bool:
        """Put a tomb where the lease's token would be. True when the token was there; it is dead then.

        Concurrent creates of one id can both succeed (47 of 300 races, measured), so who owns the id is looked
        at after each try.
        """
        landed = False
        for _ in range(OCCUPY_TRIES):
            await self._try_tomb(asker, token, lease_id)
            owner = await self.owner(asker, token)
            if owner is Owner.TOMB:
                return landed
            if owner is Owner.LEASE:
                landed = True
                await self.kill(token)
        raise ProviderError("the token id of a mint in doubt could not be occupied")

    async def _try_tomb(self, asker: Secret, token: Secret, lease_id: str) -> None:
        settings = self._settings
        try:
            await self._client.create(
                asker, settings.tomb_role, token, seconds=settings.tomb_seconds, meta={"tomb_of": lease_id}
            )
        except VaultRefused as error:
            if not answers.is_exactly(error, answers.ID_TAKEN):
                raise

    async def rehearse(self, asker: Secret, role: str) -> str:
        """What keeps the broker from minting through this role; "" when nothing does. Mints nothing."""
        try:
            await self._client.create(asker, role, answers.REHEARSAL_ID, seconds=1, meta={})
        except VaultRefused as error:
            return _why_not(error, role)
        return f"vault role {role}: accepted a token id with a dot; this server is not known to work"


def _why_not(error: VaultRefused, role: str) -> str:
    path = f"auth/token/create/{role}"
    if answers.is_exactly(error, answers.REHEARSED):
        return ""
    if answers.is_exactly(error, answers.unknown_role(role)):
        return f"vault role {role}: does not exist; create it at auth/token/roles/{role}"
    if answers.is_exactly(error, (403, answers.NO_CAPABILITY)):
        return f"vault role {role}: the broker may not use it; give its policy update and sudo on {path}"
    if answers.is_exactly(error, answers.NO_SUDO):
        return f"vault role {role}: custom token ids need sudo; give the broker's policy sudo on {path}"
    if answers.is_exactly(error, answers.ROOT_NAMESPACE_ONLY):
        return "vault namespace: custom token ids work in the root namespace only"
    return f"vault role {role}: the server answered {error.status} to a rehearsal of {path}"
