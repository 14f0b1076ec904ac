"""Vault and OpenBao: one token per lease; everything else hangs from it.

Answers are believed only when they are exact (`answers`), and only from the cluster that minted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import NoReturn

from pydantic import ValidationError

from broker.clock import Clock
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.model import Evidence, Revocability, VaultToken
from broker.providers.base import (
    DeclaredScope,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Settlement,
)
from broker.providers.vault import answers
from broker.providers.vault.children import Children
from broker.providers.vault.client import TokenAnswer, VaultClient
from broker.providers.vault.credentials import child_of, credential_of
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.names import token_id
from broker.providers.vault.rights import Rights
from broker.providers.vault.scope import VaultBlock, is_leased, is_path
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.tokens import Owner, Tokens
from broker.providers.vault.transport import Transport, VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

TTL_SLACK = 1  # seconds by which the server may round a life down


class VaultProvider:
    """Provider and SettlesDoubt of `broker.providers.base`."""

    name = "vault"

    def __init__(self, settings: VaultSettings, keyring: Keyring, installation: str, clock: Clock) -> None:
        if problems := settings.problems():
            raise ConfigError(problems)
        self.landing_seconds = settings.request_limit_seconds
        self._settings = settings
        self._keyring = keyring
        self._installation = installation
        self._clock = clock
        self._transport = Transport(settings)
        self._client = VaultClient(self._transport)
        self._login = Login(self._client, settings.auth, clock)
        self._tokens = Tokens(self._client, settings)
        self._children = Children(self._client, settings, clock)
        self._rights = Rights(self._client, self._tokens, settings)

    async def close(self) -> None:
        await self._transport.close()

    # --- mint ---

    async def mint(self, order: MintOrder) -> Minted:
        """One attempt within the mint timeout."""
        try:
            async with asyncio.timeout(self._settings.mint_timeout):
                return await self._mint(order)
        except TimeoutError:
            raise MintInDoubt("vault: the mint took too long") from None

    async def _mint(self, order: MintOrder) -> Minted:
        """A token through the scope's role; with `read`, what that token reads.

        1. Everything that can be wrong without asking is found first.
        2. One create. Refused on the allow-list, or never sent: nothing was made.
        3. The token is what was asked for, or it is killed at once.
        4. One read, with the lease's own token.
        5. The child's lease id is durable before anybody may have the secret.
        """
        ref = order.ref
        block, seconds, token = self._prepare(ref)  # (1)
        try:
            session = await self._login.session()
        except LoginFailed as error:
            raise MintRefused(str(error)) from None

        made = await self._create(session, block.role, token, seconds, order)  # (2)
        if problem := _unfit(made, token, seconds):  # (3)
            await self._abandon(session, token, problem)
        refs = {"accessor": made.accessor, "cluster": session.cluster_id}
        if block.read is None:
            credential = VaultToken(token=token, address=self._settings.address, namespace=self._settings.namespace)
            return Minted(credential=credential, refs=refs, provider_request_id=made.request_id)
        return await self._fetch(session, token, block.read, order, refs)

    def _prepare(self, ref: LeaseRef) -> tuple[VaultBlock, int, Secret]:
        try:
            block = VaultBlock.model_validate(dict(ref.params))
        except ValidationError:
            raise MintRefused("the scope's vault block is not valid") from None
        if block.role == self._settings.tomb_role or (block.read is not None and not is_path(block.read)):
            raise MintRefused("the scope's vault block names a path that is not allowed")
        seconds = int((ref.expires_at - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise MintRefused("the lease's time is over")
        try:
            return block, seconds, token_id(self._keyring, self._installation, ref)
        except (KeyError, ValueError):
            raise MintRefused("the mint key of this lease is not in the key file") from None

    async def _create(self, session: Session, role: str, token: Secret, seconds: int, order: MintOrder) -> TokenAnswer:
        meta = {
            "lease_id": order.ref.lease_id,
            "agent": order.agent,
            "workflow": order.workflow,
            "run": order.run,
            "step": order.step,
        }
        try:
            return await self._client.create(session.token, role, token, seconds=seconds, meta=meta)
        except VaultUnreachable as error:
            raise MintRefused(f"vault: {error}") from None
        except VaultLost as error:
            raise MintInDoubt(f"vault: {error}") from None
        except VaultRefused as error:
            if answers.asker_dead(error):
                self._login.drop(session)
            failure = MintRefused if answers.create_refused(error, role) else MintInDoubt
            raise failure(f"vault: {error} to the creation of a token") from None

    async def _fetch(
        self, session: Session, token: Secret, path: str, order: MintOrder, refs: dict[str, str]
    ) -> Minted:
        try:
            body = await self._client.read(token, path)  # (4)
        except VaultRefused as error:
            if is_leased(path) and not answers.read_refused(error, path):
                raise MintInDoubt(f"vault: {error} to the read of a leased secret") from None
            await self._abandon(session, token, f"vault: {error} to the read")
        except (VaultUnreachable, VaultLost) as error:
            if is_leased(path) and isinstance(error, VaultLost):
                raise MintInDoubt(f"vault: {error} to the read of a leased secret") from None
            await self._abandon(session, token, f"vault: {error} to the read")

        child, credential = child_of(body), credential_of(body)
        if credential is None or (is_leased(path) and not child):
            await self._abandon(session, token, "vault: the read gave no secret of the kind its path says", child)
        noted = {**refs, "children": [child]} if child else refs
        if child:
            try:
                await order.note(noted)  # (5)
            except Exception:  # noqa: BLE001 - whatever the store says, a secret without its record is not given out
                await self._abandon(session, token, "the lease of a secret could not be recorded", child)
            self._children.remember(child, order.ref.expires_at)
        return Minted(credential=credential, refs=noted, provider_request_id=str(body.get("request_id", "")))

    async def _abandon(self, session: Session, token: Secret, why: str, child: str = "") -> NoReturn:
        """Kill what was just made. Definite only when it is seen dead, for then nothing is alive or can land."""
        children = [child] if child else []
        try:
            await self._children.revoke(session.token, children)
            await self._tokens.kill(token)
            dead = await self._tokens.owner(session.token, token) is Owner.NOBODY
            dead = dead and not await self._children.alive(session.token, children)
        except (VaultUnreachable, VaultLost, VaultRefused):
            dead = False
        raise (MintRefused if dead else MintInDoubt)(why)

    # --- the end ---

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Children by their ids, then the token with itself, then look: a 204 is not proof."""
        async with self._asking(ref) as session:
            token, children = self._token(ref), _children_of(ref)
            await self._children.revoke(session.token, children)
            await self._tokens.kill(token)
            return await self._look(session, ref, token)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        async with self._asking(ref) as session:
            return (await self._look(session, ref, self._token(ref))).evidence

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Occupy the token's id, killing what is there.

        A leased secret whose read may still be in flight outlives a token killed meanwhile (3 of 3, measured).
        Such a token never leaves the broker, so it is left alone until nothing can land; its death then takes
        the child along, and a listing shows that none is left.
        """
        if _fetches(ref) and not final:
            return Settlement(found=False)
        async with self._asking(ref) as session:
            token, children = self._token(ref), _children_of(ref)
            await self._children.revoke(session.token, children)
            landed = await self._tokens.occupy(session.token, token, ref.lease_id) or bool(ref.refs.get("landed"))
            refs = {"landed": True} if landed else {}
            if not final:
                return Settlement(found=landed, refs=refs)
            if (await self._look(session, ref, token)).evidence is None:
                return Settlement(found=landed, refs=refs)
            evidence = Evidence.SEEN_DEAD if landed or children else Evidence.NOT_MINTED
            return Settlement(found=landed, evidence=evidence, refs=refs)

    async def _look(self, session: Session, ref: LeaseRef, token: Secret) -> Progress:
        if await self._tokens.owner(session.token, token) is Owner.LEASE:
            return Progress(step="TOKEN_ALIVE")
        if await self._children.alive(session.token, _children_of(ref)):
            return Progress(step="SECRET_ALIVE")
        if _fetches(ref) and await self._children.strays(session.token, ref.params["read"], ref):
            return Progress(step="SECRET_UNSURE")
        static = ref.revocability is Revocability.STATIC
        return Progress(evidence=Evidence.ACCESS_ENDED if static else Evidence.SEEN_DEAD)

    def _token(self, ref: LeaseRef) -> Secret:
        try:
            return token_id(self._keyring, self._installation, ref)
        except (KeyError, ValueError):
            raise ProviderError("the mint key or nonce of this lease is not to be had") from None

    @contextlib.asynccontextmanager
    async def _asking(self, ref: LeaseRef) -> AsyncIterator[Session]:
        """A session with the cluster that minted; every failure inside becomes a ProviderError."""
        try:
            session = await self._login.session()
        except LoginFailed as error:
            raise ProviderError(str(error)) from None
        if ref.refs.get("cluster", session.cluster_id) != session.cluster_id:
            raise ProviderError("vault: another cluster answers than the one that minted")
        try:
            yield session
        except VaultRefused as error:
            if answers.asker_dead(error):
                self._login.drop(session)
            raise ProviderError(f"vault: {error}") from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None

    # --- check ---

    async def check(self) -> list[str]:
        """Reachable, unsealed, a login that works, and a tomb role that may be used. Cheap: asked all the time."""
        session = await self._checking()
        return [session] if isinstance(session, str) else await self._rights.tomb(session.token)

    async def check_scopes(self, scopes: Iterable[DeclaredScope]) -> list[str]:
        """The same, and that tokens and secrets of these scopes can be made and ended. Mints nothing."""
        session = await self._checking()
        return [session] if isinstance(session, str) else await self._rights.problems(session.token, scopes)

    async def _checking(self) -> Session | str:
        try:
            return await self._login.session()
        except LoginFailed as error:
            return f"{error}; see that {self._settings.address} is up and unsealed, and the broker's credentials"


def _unfit(made: TokenAnswer, token: Secret, seconds: int) -> str:
    """What keeps a new token from being handed out; "" when it is as it was asked for."""
    if not made.token.matches(token):
        return "vault: the server chose another token id"
    if made.kind != "service" or made.renewable or not made.orphan:
        return "vault: the token role must be of type service, orphan and not renewable"
    if "root" in made.policies:
        return "vault: the token role gives the root policy"
    if not seconds - TTL_SLACK <= made.life <= seconds:
        return "vault: the token role's maximum is shorter than the scope's ttl"
    return ""


def _children_of(ref: LeaseRef) -> list[str]:
    return [str(child) for child in ref.refs.get("children", [])]


def _fetches(ref: LeaseRef) -> bool:
    """May it have fetched a leased secret whose id is not known?"""
    return is_leased(str(ref.params.get("read") or "")) and not _children_of(ref)
