"""The lives of the leases' tokens: killing, looking, and finding out what became of a create in doubt.

`NamedTokens` where the broker chooses the id, which can then be found and occupied; `AccessorTokens` where the
server chooses it. Errors are the transport's, and ProviderError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Protocol

from broker.model import JsonValue
from broker.providers.base import Contact, LeaseRef, ProviderError
from broker.providers.vault import answers
from broker.providers.vault.client import VaultClient
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.transport import VaultError, VaultRefused
from broker.secret import Secret

FORBIDDEN = 403
OCCUPY_TRIES = 4


class Owner(Enum):
    """Of a token id, as the server says it now."""

    LEASE = "LEASE"
    TOMB = "TOMB"  # the powerless token that keeps a late mint out
    NOBODY = "NOBODY"


class Tokens(Protocol):
    """What the provider needs of a lease's token, once there is one. `ref` says which."""

    findable: bool  # a token of whose creation no answer came can be found, and kept from landing

    def chosen(self, ref: LeaseRef) -> Secret | None:
        """The id to mint under; None when the server chooses. Raises ProviderError."""
        ...

    async def alive(self, asker: Secret, ref: LeaseRef) -> bool:
        """Looks only; False is proof."""
        ...

    async def kill(self, asker: Secret, ref: LeaseRef) -> None:
        """No proof: look afterwards. Harmless when it is dead already."""
        ...

    async def find(self, asker: Secret, ref: LeaseRef) -> bool:
        """Of a create in doubt: True when the token is there; it is killed once that is on record (`ref.found`)."""
        ...


class NamedTokens:
    """`name` derives the id; each token revokes itself, so that the broker needs no right over other tokens."""

    findable = True

    def __init__(self, client: VaultClient, settings: VaultSettings, name: Callable[[LeaseRef], Secret]) -> None:
        self._client = client
        self._settings = settings
        self._name = name

    def chosen(self, ref: LeaseRef) -> Secret:
        """Derived, so it is the same after a crash."""
        try:
            return self._name(ref)
        except (KeyError, ValueError):
            raise ProviderError("the mint key or nonce of this lease is not to be had", Contact.NOT_ASKED) from None

    async def alive(self, asker: Secret, ref: LeaseRef) -> bool:
        return await self.owner(asker, self.chosen(ref), ref.lease_id) is Owner.LEASE

    async def owner(self, asker: Secret, token: Secret, lease_id: str) -> Owner:
        """Only an exact answer counts: 403 `permission denied` would say that the *asker* is dead.

        A tomb is known by what it says of itself: roles are renamed, and a scope may come to use an old one's name.
        """
        seen = await seen_alive(self._client, asker, token)
        if seen is None:
            return Owner.NOBODY
        return Owner.TOMB if (seen.get("meta") or {}).get("tomb_of") == lease_id else Owner.LEASE

    async def kill(self, asker: Secret, ref: LeaseRef) -> None:  # noqa: ARG002 - the token itself is the asker
        await self._end(self.chosen(ref))

    async def _end(self, token: Secret) -> None:
        try:
            await self._client.revoke_self(token)
        except VaultRefused as error:
            if error.status != FORBIDDEN:  # dead already, or the tomb, which may do nothing
                raise

    async def find(self, asker: Secret, ref: LeaseRef) -> bool:
        """Put a tomb where the lease's token would be.

        Concurrent creates of one id can both succeed (47 of 300 races, measured), so who owns the id is looked
        at after each try.
        """
        token = self.chosen(ref)
        for _ in range(OCCUPY_TRIES):
            await self._try_tomb(asker, token, ref.lease_id)
            owner = await self.owner(asker, token, ref.lease_id)
            if owner is Owner.TOMB:
                return ref.found
            if owner is Owner.LEASE:
                if not ref.found:
                    return True
                await self._end(token)
        raise ProviderError("the token id of a mint in doubt could not be occupied", Contact.ANSWERED)

    async def _try_tomb(self, asker: Secret, token: Secret, lease_id: str) -> None:
        settings = self._settings
        try:
            await self._client.create(
                asker, settings.tomb_role, token, seconds=settings.tomb_seconds, meta={"tomb_of": lease_id}
            )
        except VaultRefused as error:
            if not answers.is_exactly(error, answers.ID_TAKEN):
                raise


class AccessorTokens:
    """By the accessor that was noted at mint: needs the right over every accessor of its namespace."""

    findable = False

    def __init__(self, client: VaultClient) -> None:
        self._client = client

    def chosen(self, ref: LeaseRef) -> None:  # noqa: ARG002 - the server chooses
        return None

    async def alive(self, asker: Secret, ref: LeaseRef) -> bool:
        try:
            await self._client.lookup_accessor(asker, _accessor(ref.refs))
        except VaultRefused as error:
            if answers.is_exactly(error, answers.ACCESSOR_DEAD):
                return False
            raise
        return True

    async def kill(self, asker: Secret, ref: LeaseRef) -> None:
        await self._client.revoke_accessor(asker, _accessor(ref.refs))

    async def find(self, asker: Secret, ref: LeaseRef) -> bool:
        """Only what was noted before the answer was lost; the rest dies by its own time."""
        if "accessor" not in ref.refs:
            return False
        await self.kill(asker, ref)
        return True


def _accessor(refs: Mapping[str, JsonValue]) -> str:
    if "accessor" not in refs:
        raise ProviderError("the accessor of this lease's token is not known", Contact.NOT_ASKED)
    return str(refs["accessor"])


async def seen_alive(client: VaultClient, asker: Secret, token: Secret) -> dict[str, Any] | None:
    """What is said about a token; None when it is seen dead."""
    try:
        return await client.lookup(asker, token)
    except VaultRefused as error:
        if answers.is_exactly(error, answers.TOKEN_DEAD):
            return None
        raise


async def end_at_hand(client: VaultClient, asker: Secret, token: Secret) -> bool:
    """End a token by itself, whatever its id; True when it is seen dead."""
    with contextlib.suppress(VaultError):  # whether it is dead is looked at, not believed
        await client.revoke_self(token)
    return await seen_alive(client, asker, token) is None


async def rehearse(client: VaultClient, asker: Secret, role: str) -> str:
    """What keeps the broker from minting under an id of its own through this role; "" when nothing. Mints nothing.

    Raises VaultRefused when the asker is dead.
    """
    try:
        await client.create(asker, role, answers.REHEARSAL_ID, seconds=1, meta={})
    except VaultRefused as error:
        if answers.asker_dead(error):
            raise
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
        return "vault namespace: custom token ids work in the root namespace only; set vault.namespace in the config"
    return f"vault role {role}: the server answered {error.status} to a rehearsal of {path}"
