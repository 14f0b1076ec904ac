"""What is alive at the server, found by what it says about itself: for a store that has forgotten.

Needs an operator's token: the broker's own rights reach no accessor that it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from pydantic import ValidationError

from broker.clock import Clock
from broker.log import get_logger
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
from broker.providers.heard import HeardTime
from broker.providers.vault import answers
from broker.providers.vault.children import CLOCK_SKEW, issue_time
from broker.providers.vault.client import VaultClient
from broker.providers.vault.ending import block_of
from broker.providers.vault.published import RevocationLists
from broker.providers.vault.scope import Kind, VaultBlock
from broker.providers.vault.tokens import FORBIDDEN
from broker.providers.vault.transport import VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

log = get_logger(__name__)

AT_ONCE = 16  # look-ups or kills in flight: 426 accessors took 1.95 s one by one (measured)
TELL_EVERY = 200  # kills
LOOKS = (0.0, 0.1, 0.3, 1.0, 2.0, 4.0, 8.0)  # seconds between looks; ending a leased secret asks its target


class Survey:
    """Tokens by their metadata, leased secrets by their paths."""

    def __init__(self, client: VaultClient, clock: Clock, heard: HeardTime, lists: RevocationLists) -> None:
        self._client = client
        self._clock = clock
        self._heard = heard
        self._lists = lists
        self._unlisted: dict[str, str] = {}  # certificates revoked, and what is said of each at every later sweep
        self._places = asyncio.Semaphore(AT_ONCE)

    async def may_recover(self, sweep: Sweep) -> list[str]:
        """What the operator's token lacks, by its own word. Raises ProviderError."""
        if sweep.operator is None:
            return ["vault: an operator's token is needed to list what is alive; give --vault-token-file"]
        rights = _rights(_blocks(sweep.scopes))
        try:
            held = await self._client.capabilities_self(sweep.operator, sorted(rights))
        except VaultRefused as error:
            if answers.asker_dead(error):
                return ["vault: the operator's token is dead; make another"]
            if error.status == FORBIDDEN:  # it may not ask about itself: the sweep will find out
                return []
            raise ProviderError(f"vault: {error} to the operator's token") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None
        lacks = {path: wanted - set(held.get(path) or ()) for path, wanted in rights.items()}
        return [
            f"vault: the operator's token lacks {' and '.join(sorted(missing))} on {path}"
            for path, missing in lacks.items()
            if missing and "root" not in (held.get(path) or ())
        ]

    async def recover(self, sweep: Sweep) -> Swept:
        """Kill what no live lease accounts for. Raises ProviderError when it cannot be listed."""
        if sweep.operator is None:
            raise ProviderError("vault: an operator's token is needed to list what is alive")
        try:
            strays, foreign = await self._tokens(sweep.operator, sweep)
            listed = await self._secrets(sweep.operator, sweep)  # while their tokens live: those take them out of sight
            tokens = await self._kill_all(strays, partial(self._kill_token, sweep.operator), sweep)
            listed |= await self._secrets(sweep.operator, sweep)
            secrets = await self._kill_all([*listed.values()], partial(self._kill_secret, sweep.operator), sweep)
        except VaultRefused as error:
            hint = "; the operator's token may not do that" if error.status == FORBIDDEN else ""
            raise ProviderError(f"vault: {error} to the listing of what is alive{hint}") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None
        dead = self._but_certificates(sweep, secrets.killed)
        beyond = (*foreign, *self._unlisted.values(), *_out_of_reach(sweep.scopes, self._clock.now()))
        return Swept(killed=tokens.killed + dead, unproven=tokens.unproven + secrets.unproven + beyond)

    def _but_certificates(self, sweep: Sweep, ended: Iterable[Stray]) -> tuple[Stray, ...]:
        """A certificate is dead when a list says so, and its lease does not name its serial."""
        lives: dict[str, timedelta] = {}
        for scope in sweep.scopes:
            path = _certified(scope)
            lives[path] = max(scope.ttl, lives.get(path, scope.ttl))
        dead = []
        for stray in ended:
            if stray.about not in lives:
                dead.append(stray)
                continue
            until = (self._clock.now() + lives[stray.about]).isoformat(timespec="seconds")
            self._unlisted[stray.id] = (
                f"vault: the certificate of {stray.id} was revoked, but its serial is not known, so it was looked for "
                f"on no revocation list; over at {until}"
            )
        return tuple(dead)

    async def _kill_all(self, strays: Sequence[Stray], kill: Callable[[Stray], Awaitable[bool]], sweep: Sweep) -> Swept:
        """A few at a time; one that cannot be killed keeps none of the others alive."""
        done = 0

        async def attempt(stray: Stray) -> str:
            nonlocal done
            async with self._places:
                try:
                    problem = "" if await kill(stray) else "was not seen dead"
                except (VaultRefused, VaultUnreachable, VaultLost) as error:
                    problem = f"could not be killed: {error}"
            if not problem:
                await sweep.tell(stray)
            done += 1
            if done % TELL_EVERY == 0:
                log.info("killing what is alive and unknown", done=done, of=len(strays))
            return problem

        problems = await asyncio.gather(*map(attempt, strays))
        outcome = list(zip(strays, problems, strict=True))
        return Swept(
            killed=tuple(stray for stray, problem in outcome if not problem),
            unproven=tuple(f"vault: {stray.kind} {stray.id} ({stray.about}) {why}" for stray, why in outcome if why),
        )

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
            return await self._recheck_certificate(ref)
        except VaultRefused as error:
            if error.status == FORBIDDEN:
                return Recheck(standing=Standing.UNKNOWN, why="no right to look up accessors; use --vault-token-file")
            raise ProviderError(f"vault: {error}") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None

    async def _recheck_certificate(self, ref: LeaseRef) -> Recheck:
        """Its lease may be gone and its certificate on no list that anybody reads; then only its time ends it."""
        block, now = block_of(ref), self._heard.now()
        over = now is not None and now > ref.expires_at + CLOCK_SKEW
        if block.kind is not Kind.X509 or block.write is None or over:
            return Recheck(standing=Standing.DEAD)
        if not (serial := str(ref.refs.get("serial") or "")):
            return Recheck(standing=Standing.UNKNOWN, why="the serial of its certificate is not known")
        if await self._lists.holds(block.write.mount, serial):
            return Recheck(standing=Standing.DEAD)
        return Recheck(standing=Standing.ALIVE, why="its certificate is on no revocation list")

    # --- tokens ---

    async def _tokens(self, asker: Secret, sweep: Sweep) -> tuple[list[Stray], tuple[str, ...]]:
        """Those to kill, and what is said of those left alone."""
        roles = {block.role for block in _blocks(sweep.scopes)}
        strays: list[Stray] = []
        foreign: list[str] = []
        for accessor, seen in await self._alive(asker):
            lease_id, role = str((seen.get("meta") or {}).get("lease_id") or ""), str(seen.get("role") or "")
            if not LEASE_ID.fullmatch(lease_id) or lease_id in sweep.leases:
                continue
            if role in roles:
                strays.append(Stray(kind="token", id=accessor, lease_id=lease_id, about=f"role {role}"))
            else:
                foreign.append(
                    f"vault: the token of lease {lease_id}, through a role that no scope names, was left alone"
                )
        return strays, tuple(foreign)

    async def _alive(self, asker: Secret) -> list[tuple[str, dict[str, Any]]]:
        async def look(accessor: str) -> tuple[str, dict[str, Any]] | None:
            async with self._places:
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
            with contextlib.suppress(VaultRefused):  # whether it is dead is looked at, not believed
                await self._client.revoke_accessor(asker, stray.id)
            if await self._token(asker, stray.id) is None:
                return True
        return False

    # --- leased secrets ---

    async def _secrets(self, asker: Secret, sweep: Sweep) -> dict[str, Stray]:
        since = self._by_the_server(sweep.since) - CLOCK_SKEW

        async def look(child: str) -> datetime | None:
            async with self._places:
                return await self._issued(asker, child)

        strays: dict[str, Stray] = {}
        for prefix in _listed(_blocks(sweep.scopes)):
            listed = await self._client.list_leases(asker, prefix)
            unknown = [child for child in listed if child not in sweep.children]
            for child, issued in zip(unknown, await asyncio.gather(*map(look, unknown)), strict=True):
                if issued is not None and issued >= since:
                    strays[child] = Stray(kind="leased secret", id=child, about=prefix)
        return strays

    def _by_the_server(self, at: datetime) -> datetime:
        """The same moment by the server's clock, where that is behind ours; else as it is: rather too early."""
        server = self._heard.now()
        return at if server is None else at + min(timedelta(0), server - self._clock.now())

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


def _listed(blocks: Iterable[VaultBlock]) -> list[str]:
    """Where leased secrets can be listed; a template names no place."""
    return sorted(path for path in {block.leased_under for block in blocks} - {""} if "{" not in path)


def _rights(blocks: Iterable[VaultBlock]) -> dict[str, frozenset[str]]:
    """Path → what a sweep needs there; docs/recovery.md has them as a policy."""
    found = {
        "auth/token/accessors/": frozenset({"list", "sudo"}),
        "auth/token/lookup-accessor": frozenset({"update"}),
        "auth/token/revoke-accessor": frozenset({"update"}),
    }
    for path in _listed(blocks):
        found["sys/leases/lookup"] = frozenset({"update"})
        found[f"sys/leases/lookup/{path}/"] = frozenset({"list", "sudo"})
        found[f"sys/leases/revoke/{path}/x"] = frozenset({"update"})
    return found


def _blocks(scopes: Iterable[DeclaredScope]) -> list[VaultBlock]:
    found = []
    for scope in scopes:
        try:
            found.append(VaultBlock.model_validate(dict(scope.block)))
        except ValidationError:
            raise ProviderError("a scope's vault block is not valid") from None
    return found


def _certified(scope: DeclaredScope) -> str:
    """Where its certificates are leased; "" when it gives none."""
    (block,) = _blocks([scope])
    return block.leased_under if block.kind is Kind.X509 else ""


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
