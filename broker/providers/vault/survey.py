"""What is alive at the server, found by what it says about itself: for a store that has forgotten.

Needs an operator's token: the broker's own rights reach no accessor that it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from broker.clock import Clock
from broker.model import LEASE_ID, Revocability
from broker.providers.base import (
    DeclaredScope,
    LeaseRef,
    ProviderError,
    Recheck,
    Standing,
    Stray,
    Sweep,
    Swept,
)
from broker.providers.vault import answers
from broker.providers.vault.children import CLOCK_SKEW, issue_time
from broker.providers.vault.client import VaultClient
from broker.providers.vault.scope import VaultBlock
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.tokens import FORBIDDEN
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

AT_ONCE = 16  # look-ups in flight: 426 accessors took 1.95 s one by one (measured)
LOOKS = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)  # seconds between looks; ending a leased secret asks its target


class Survey:
    """Tokens by their metadata, leased secrets by their paths."""

    def __init__(self, client: VaultClient, settings: VaultSettings, clock: Clock) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock

    async def recover(self, sweep: Sweep) -> Swept:
        """Kill what no live lease accounts for. Raises ProviderError."""
        if sweep.operator is None:
            raise ProviderError("vault: an operator's token is needed to list what is alive")
        try:
            tokens = await self._tokens(sweep.operator, sweep)
            secrets = await self._secrets(sweep.operator, sweep)
        except VaultRefused as error:
            hint = "; the operator's token may not do that" if error.status == FORBIDDEN else ""
            raise ProviderError(f"vault: {error} to the listing of what is alive{hint}") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None
        return Swept(killed=tokens.killed + secrets.killed, unproven=tokens.unproven + secrets.unproven)

    async def recheck(self, ref: LeaseRef, asker: Secret) -> Recheck:
        """By the stored accessor and the ids of leased secrets. Raises ProviderError."""
        accessor, children = str(ref.refs.get("accessor") or ""), [str(one) for one in ref.refs.get("children", [])]
        if not accessor:
            return Recheck(standing=Standing.UNKNOWN, why="its accessor is not known")
        try:
            if await self._token(asker, accessor) is not None:
                return Recheck(standing=Standing.ALIVE, why="its token is alive")
            for child in children:
                if await self._issued(asker, child) is not None:
                    return Recheck(standing=Standing.ALIVE, why="its leased secret is alive")
        except VaultRefused as error:
            if error.status == FORBIDDEN:
                return Recheck(standing=Standing.UNKNOWN, why="no right to look up accessors; use --vault-token-file")
            raise ProviderError(f"vault: {error}") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None
        return Recheck(standing=Standing.DEAD)

    # --- tokens ---

    async def _tokens(self, asker: Secret, sweep: Sweep) -> Swept:
        roles = {block.role for block in _blocks(sweep.scopes)}
        strays: list[Stray] = []
        foreign: list[str] = []
        for accessor, seen in await self._alive(asker):
            lease_id, role = str((seen.get("meta") or {}).get("lease_id") or ""), str(seen.get("role") or "")
            if not LEASE_ID.fullmatch(lease_id) or role == self._settings.tomb_role or lease_id in sweep.leases:
                continue
            if role in roles:
                strays.append(Stray(kind="token", id=accessor, lease_id=lease_id, about=f"role {role}"))
            else:
                foreign.append(
                    f"vault: the token of lease {lease_id}, through a role that no scope names, was left alone"
                )
        killed = await asyncio.gather(*(self._kill_token(asker, stray) for stray in strays))
        return _swept(strays, killed, foreign)

    async def _alive(self, asker: Secret) -> list[tuple[str, dict[str, Any]]]:
        places = asyncio.Semaphore(AT_ONCE)

        async def look(accessor: str) -> tuple[str, dict[str, Any]] | None:
            async with places:
                seen = await self._token(asker, accessor)
            return None if seen is None else (accessor, seen)

        accessors = await self._client.list_accessors(asker)
        return [found for found in await asyncio.gather(*map(look, accessors)) if found is not None]

    async def _token(self, asker: Secret, accessor: str) -> dict[str, Any] | None:
        """What is said about it; None when it is seen dead."""
        try:
            return await self._client.lookup_accessor(asker, accessor)
        except VaultRefused as error:
            if answers.is_exactly(error, answers.ACCESSOR_DEAD):
                return None
            raise

    async def _kill_token(self, asker: Secret, stray: Stray) -> bool:
        for pause in LOOKS:
            await self._clock.sleep(pause)
            try:
                await self._client.revoke_accessor(asker, stray.id)
            except VaultRefused as error:
                if error.status == FORBIDDEN:
                    raise
            if await self._token(asker, stray.id) is None:
                return True
        return False

    # --- leased secrets ---

    async def _secrets(self, asker: Secret, sweep: Sweep) -> Swept:
        blocks = _blocks(sweep.scopes)
        strays: list[Stray] = []
        for prefix in sorted({block.leased_under for block in blocks} - {""}):
            if "{" in prefix:
                continue
            for child in await self._client.list_leases(asker, prefix):
                if child in sweep.children:
                    continue
                issued = await self._issued(asker, child)
                if issued is not None and issued >= sweep.since - CLOCK_SKEW:
                    strays.append(Stray(kind="leased secret", id=child, about=prefix))
        killed = await asyncio.gather(*(self._kill_secret(asker, stray) for stray in strays))
        return _swept(strays, killed, _out_of_reach(sweep.scopes, self._clock.now()))

    async def _issued(self, asker: Secret, child: str) -> datetime | None:
        try:
            return issue_time(await self._client.lookup_lease(asker, child))
        except VaultRefused as error:
            if answers.is_exactly(error, answers.LEASE_GONE):
                return None
            raise

    async def _kill_secret(self, asker: Secret, stray: Stray) -> bool:
        await self._client.revoke_lease(asker, stray.id)
        for pause in LOOKS:
            await self._clock.sleep(pause)
            if await self._issued(asker, stray.id) is None:
                return True
        return False


def _blocks(scopes: Iterable[DeclaredScope]) -> list[VaultBlock]:
    found = []
    for scope in scopes:
        try:
            found.append(VaultBlock.model_validate(dict(scope.block)))
        except ValidationError:
            raise ProviderError("a scope's vault block is not valid") from None
    return found


def _out_of_reach(scopes: Iterable[DeclaredScope], now: datetime) -> list[str]:
    """What can neither be listed nor ended, and until when it may live."""
    found = []
    for scope in scopes:
        (block,) = _blocks([scope])
        until = (now + scope.ttl).isoformat(timespec="seconds")
        if "{" in block.leased_under:
            found.append(f"vault: {block.leased_under} is a template and cannot be listed; all over at {until}")
        elif block.kind.revocability is Revocability.EXPIRY_ONLY:
            found.append(f"vault: certificates of {block.path} end by their time only; all over at {until}")
    return sorted(set(found))


def _swept(strays: list[Stray], killed: Iterable[bool], unproven: list[str]) -> Swept:
    outcome = list(zip(strays, killed, strict=True))
    alive = [f"vault: {stray.kind} {stray.id} ({stray.about}) was not seen dead" for stray, dead in outcome if not dead]
    return Swept(killed=tuple(stray for stray, dead in outcome if dead), unproven=tuple(alive + unproven))
