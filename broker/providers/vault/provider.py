"""Vault and OpenBao: one token per lease; everything else hangs from it.

Answers are believed only when they are exact (`answers`), and only from the cluster that minted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from pydantic import ValidationError

from broker.clock import Clock
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.model import Evidence, JsonValue, VaultToken, X509Certificate
from broker.providers.base import (
    DeclaredScope,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Recheck,
    Settlement,
    Sweep,
    Swept,
)
from broker.providers.heard import HeardTime
from broker.providers.vault import answers
from broker.providers.vault.children import SENT_AT, Children
from broker.providers.vault.client import TokenAnswer, VaultClient
from broker.providers.vault.credentials import body_of, child_of, credential_of, input_problem
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.names import token_id
from broker.providers.vault.published import RevocationLists
from broker.providers.vault.rights import Rights
from broker.providers.vault.scope import Kind, VaultBlock, is_path
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.survey import Survey
from broker.providers.vault.tokens import AccessorTokens, NamedTokens, Tokens
from broker.providers.vault.transport import Transport, VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

TTL_SLACK = 1  # seconds by which the server may round a life down
ACCESSOR_MODE = (
    "in a namespace the server chooses token ids: leases are ended by accessor, for which the broker's policy has a "
    "right over every token of the namespace, and a mint whose answer was lost waits for its whole life to pass"
)
ENDS_BY_TIME = "ENDS_BY_TIME"  # its verifier looks at nothing but the time


async def _nobody() -> frozenset[str]:
    return frozenset()


class VaultProvider:
    """Provider of `broker.providers.base`, with all of its further powers."""

    name = "vault"

    def __init__(
        self,
        settings: VaultSettings,
        keyring: Keyring,
        installation: str,
        clock: Clock,
        *,
        known: Callable[[], Awaitable[frozenset[str]]] = _nobody,
    ) -> None:
        """`known`: ids of the leased secrets that some live lease names; asked anew each time."""
        if problems := settings.problems():
            raise ConfigError(problems)
        self.landing_seconds = settings.request_limit_seconds
        self._settings = settings
        self._clock = clock
        self._heard = HeardTime(clock)
        self._transport = Transport(settings, heard=self._heard)
        self._client = VaultClient(self._transport)
        self._login = Login(self._client, settings.auth, clock)
        self._tokens: Tokens = (
            NamedTokens(self._client, settings, lambda ref: token_id(keyring, installation, ref))
            if settings.chooses_ids
            else AccessorTokens(self._client)
        )
        self._children = Children(self._client, settings, clock, self._heard, known)
        self._lists = RevocationLists(self._transport)
        self._rights = Rights(self._client, settings)
        self._survey = Survey(self._client, settings, clock, self._heard)

    def time_heard(self) -> datetime | None:
        """The server's time: `KnowsTime`."""
        return self._heard.now()

    def foresee(self) -> Mapping[str, JsonValue]:
        """`Foresees`: a mint in doubt is looked for at the cluster that was asked, and by that server's clock."""
        session, heard = self._login.held, self._heard.now()
        refs = {"cluster": session.cluster_id} if session else {}
        return refs | ({SENT_AT: heard.isoformat()} if heard else {})

    async def close(self) -> None:
        await self._login.close()
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
        """A token through the scope's role, and what that token fetches.

        1. Everything that can be wrong without asking is found first.
        2. One create. Refused on the allow-list, or never sent: nothing was made.
        3. The token is what was asked for, or it is killed at once.
        4. What only the record can find again, or prove, is durable before the broker goes on.
        5. One read or write, with the lease's own token.
        6. The child's lease id is durable before anybody may have the secret.
        """
        block, seconds, token = self._prepare(order)  # (1)
        try:
            session = await self._login.session()
        except LoginFailed as error:
            raise MintRefused(str(error)) from None

        if order.ref.refs.get("cluster") != session.cluster_id:
            order = await self._note_cluster(order)

        made = await self._create(session, block.role, token, seconds, order)  # (2)
        refs = {"accessor": made.accessor, "cluster": session.cluster_id}
        ref = replace(order.ref, refs={**order.ref.refs, **refs})
        if problem := _unfit(made, token, seconds):  # (3)
            await self._abandon(session, ref, problem)
        if token is None or block.kind is Kind.SSH:  # (4)
            await self._note(session, order, ref, refs)
        if block.kind is Kind.TOKEN:
            where = {"address": self._settings.address, "namespace": self._settings.namespace}
            credential = VaultToken(token=made.token, **where)
            return Minted(credential=credential, refs=refs, provider_request_id=made.request_id)
        body = body_of(block, order.public_input, seconds)
        return await self._fetch(session, made.token, body, block, replace(order, ref=ref))

    def _prepare(self, order: MintOrder) -> tuple[VaultBlock, int, Secret | None]:
        try:
            block = VaultBlock.model_validate(dict(order.ref.params))
        except ValidationError:
            raise MintRefused("the scope's vault block is not valid") from None
        if block.role == self._settings.tomb_role or (block.path and not is_path(block.path)):
            raise MintRefused("the scope's vault block names a path that is not allowed")
        if problem := input_problem(block, order.public_input):
            raise MintRefused(problem)
        seconds = int((order.ref.expires_at - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise MintRefused("the lease's time is over")
        try:
            return block, seconds, self._tokens.chosen(order.ref)
        except ProviderError as error:
            raise MintRefused(str(error)) from None

    async def _note_cluster(self, order: MintOrder) -> MintOrder:
        """The first mint after a start, or after the address has moved to another cluster: nothing is sent yet."""
        refs = self.foresee()
        try:
            await order.note(refs)
        except Exception:  # noqa: BLE001 - whatever the store says
            raise MintRefused("where the credential is asked for could not be recorded") from None
        return replace(order, ref=replace(order.ref, refs={**order.ref.refs, **refs}))

    async def _create(
        self, session: Session, role: str, token: Secret | None, seconds: int, order: MintOrder
    ) -> TokenAnswer:
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
        self, session: Session, token: Secret, body: dict[str, JsonValue] | None, block: VaultBlock, order: MintOrder
    ) -> Minted:
        ref, leased = order.ref, block.kind.has_lease
        try:
            answer = await self._client.fetch(token, block.path, body)  # (5)
        except (VaultRefused, VaultLost, VaultUnreachable) as error:
            lost = isinstance(error, VaultLost)
            lost = lost or (isinstance(error, VaultRefused) and not answers.read_refused(error, block.path))
            if leased and lost:
                raise MintInDoubt(f"vault: {error} to the request for a leased secret") from None
            await self._abandon(session, ref, f"vault: {error} to the request for a secret")

        child = child_of(answer)
        refs = {**ref.refs, **({"children": [child]} if child else {})}
        credential = credential_of(block.kind, answer, ref.expires_at)
        if isinstance(credential, X509Certificate):
            refs["serial"] = credential.serial_number
        ref = replace(ref, refs=refs)
        if credential is None or (leased and not child):
            await self._abandon(session, ref, "vault: the answer is no secret of the kind that its path says")
        if child:
            await self._note(session, order, ref, refs)  # (6)
        return Minted(credential=credential, refs=refs, provider_request_id=str(answer.get("request_id", "")))

    async def _note(self, session: Session, order: MintOrder, ref: LeaseRef, refs: Mapping[str, JsonValue]) -> None:
        try:
            await order.note(refs)
        except Exception:  # noqa: BLE001 - whatever the store says, what has no record is not given out
            await self._abandon(session, ref, "what was minted could not be recorded")

    async def _abandon(self, session: Session, ref: LeaseRef, why: str) -> NoReturn:
        """Kill what was just made. Definite only when it is seen dead, for then nothing is alive or can land."""
        children = _children_of(ref)
        try:
            await self._children.revoke(session.token, children)
            await self._tokens.kill(session.token, ref)
            dead = not await self._tokens.alive(session.token, ref)
            dead = dead and not await self._children.alive(session.token, children)
        except (VaultUnreachable, VaultLost, VaultRefused):
            dead = False
        raise (MintRefused if dead else MintInDoubt)(why)

    # --- the end ---

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Children by their ids, then the token with itself, then look: a 204 is not proof."""
        async with self._asking(ref) as session:
            await self._children.revoke(session.token, _children_of(ref))
            await self._tokens.kill(session.token, ref)
            return await self._look(session, ref)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        async with self._asking(ref) as session:
            return (await self._look(session, ref)).evidence

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Occupy the token's id, killing what is there once it is on record that it is.

        A leased secret whose request may still be in flight outlives a token killed meanwhile (3 of 3, measured).
        Such a token never leaves the broker, so it is left alone until nothing can land; its death then takes
        the child along, and a listing shows that none is left.
        """
        if _may_fetch(ref) and not final:
            return Settlement(found=False)
        if "accessor" in ref.refs and not ref.found:
            return Settlement(found=True)
        async with self._asking(ref) as session:
            await self._children.revoke(session.token, _children_of(ref))
            landed = await self._tokens.find(session.token, ref)
            if not final or landed is not ref.found:
                return Settlement(found=landed)
            if not landed and not self._tokens.findable:
                strays = await self._strays(session, ref)
                return Settlement(found=False, evidence=None if strays else Evidence.EXPIRED)
            step = await self._look(session, ref)
            if step.evidence is None and (landed or step.step != ENDS_BY_TIME):
                return Settlement(found=landed)
            return Settlement(found=landed, evidence=Evidence.SEEN_DEAD if landed else Evidence.NOT_MINTED)

    async def _look(self, session: Session, ref: LeaseRef) -> Progress:
        block = _block_of(ref)
        if await self._tokens.alive(session.token, ref):
            return Progress(step="TOKEN_ALIVE")
        if await self._children.alive(session.token, _children_of(ref)):
            return Progress(step="SECRET_ALIVE")
        if await self._strays(session, ref):
            return Progress(step="SECRET_UNSURE")
        if block.kind is Kind.SSH:
            return Progress(step=ENDS_BY_TIME)
        if block.write and "serial" in ref.refs:
            listed = await self._lists.holds(block.write.mount, str(ref.refs["serial"]))
            return Progress(evidence=Evidence.PUBLISHED) if listed else Progress(step="NOT_PUBLISHED")
        return Progress(evidence=Evidence.ACCESS_ENDED if block.kind is Kind.STATIC else Evidence.SEEN_DEAD)

    async def _strays(self, session: Session, ref: LeaseRef) -> bool:
        """May a leased secret live whose id this lease's row does not know?"""
        under = _block_of(ref).leased_under
        return bool(under and not _children_of(ref) and await self._children.strays(session.token, under, ref))

    @contextlib.asynccontextmanager
    async def _asking(self, ref: LeaseRef) -> AsyncIterator[Session]:
        """A session with the cluster that minted; every failure inside becomes a ProviderError."""
        try:
            session = await self._login.session()
        except LoginFailed as error:
            raise ProviderError(str(error)) from None
        if ref.refs.get("cluster", session.cluster_id) != session.cluster_id:
            raise ProviderError("vault: another cluster answers than the one that minted", answered=True)
        try:
            yield session
        except VaultRefused as error:
            if answers.asker_dead(error):
                self._login.drop(session)
            raise ProviderError(f"vault: {error}", answered=answers.is_an_answer(error)) from None
        except (VaultUnreachable, VaultLost) as error:
            raise ProviderError(f"vault: {error}") from None

    # --- after lost state ---

    async def recover(self, sweep: Sweep) -> Swept:
        """Kill what is alive and of no live lease, as an operator. Raises ProviderError."""
        return await self._survey.recover(sweep)

    async def may_recover(self, sweep: Sweep) -> list[str]:
        """What the operator's token lacks. Raises ProviderError."""
        return await self._survey.may_recover(sweep)

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:
        """By accessor: the nonce that named the token is erased. Raises ProviderError."""
        async with self._asking(ref) as session:
            return await self._survey.recheck(ref, operator or session.token)

    # --- check ---

    async def check(self) -> list[str]:
        """Reachable, unsealed, a login that works, and a tomb role that may be used. Cheap: asked all the time."""
        session = await self._checking()
        return [session] if isinstance(session, str) else await self._rights.tomb(session.token)

    def remarks(self) -> list[str]:
        """What a namespace costs."""
        return [] if self._settings.chooses_ids else [ACCESSOR_MODE]

    async def check_scopes(self, scopes: Iterable[DeclaredScope]) -> list[str]:
        """The same, and that tokens and secrets of these scopes can be made and ended. Mints nothing."""
        session = await self._checking()
        return [session] if isinstance(session, str) else await self._rights.problems(session.token, scopes)

    async def _checking(self) -> Session | str:
        try:
            return await self._login.session()
        except LoginFailed as error:
            return f"{error}; see that {self._settings.address} is up and unsealed, and the broker's credentials"


def _unfit(made: TokenAnswer, token: Secret | None, seconds: int) -> str:
    """What keeps a new token from being handed out; "" when it is as it was asked for."""
    if token is not None and not made.token.matches(token):
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


def _may_fetch(ref: LeaseRef) -> bool:
    """May its token be fetching a leased secret whose id is not known?"""
    return bool(_block_of(ref).leased_under) and not _children_of(ref)


def _block_of(ref: LeaseRef) -> VaultBlock:
    try:
        return VaultBlock.model_validate(dict(ref.params))
    except ValidationError:
        raise ProviderError("vault: the block of this lease cannot be read", answered=True) from None
