"""The end of what was minted: revoke, look, and find out what became of a mint in doubt.

Answers are believed only when they are exact (`answers`), and only from the cluster and namespace that minted.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from pydantic import ValidationError

from broker.model import Evidence
from broker.providers.base import Contact, LeaseRef, Progress, ProviderError, Settlement
from broker.providers.vault import answers
from broker.providers.vault.children import Children
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.published import RevocationLists
from broker.providers.vault.scope import Kind, VaultBlock, read_block
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.tokens import Tokens
from broker.providers.vault.transport import VaultError, VaultRefused

ENDS_BY_TIME = "ENDS_BY_TIME"  # its verifier looks at nothing but the time
SEALED = 503  # or without a leader: nobody is served


class Ending:
    """Every failure is a ProviderError."""

    def __init__(
        self, settings: VaultSettings, login: Login, tokens: Tokens, children: Children, lists: RevocationLists
    ) -> None:
        self._settings = settings
        self._login = login
        self._tokens = tokens
        self._children = children
        self._lists = lists

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Children by their ids, the token with itself in any case, then look: a 204 is not proof."""
        async with self.asking(ref) as session:
            failure = await self._children.try_revoke(session.token, children_of(ref), attempts=ref.attempts)
            await self._tokens.kill(session.token, ref)
            if failure:
                raise failure
            return await self._look(session, ref)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        async with self.asking(ref) as session:
            return (await self._look(session, ref)).evidence

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Occupy the token's id, killing what is there once it is on record that it is.

        A leased secret whose request may still be in flight outlives a token killed meanwhile (3 of 3, measured).
        Such a token never leaves the broker, so it is left alone until nothing can land; its death then takes
        the child along, and a listing shows that none is left.
        """
        if _may_fetch(ref) and not final:
            return Settlement(found=False, contact=Contact.NOT_ASKED)
        if "accessor" in ref.refs and not ref.found:
            return Settlement(found=True, contact=Contact.NOT_ASKED)
        async with self.asking(ref) as session:
            failure = await self._children.try_revoke(session.token, children_of(ref))
            landed = await self._tokens.find(session.token, ref)
            if landed is not ref.found:
                return Settlement(found=landed)
            if failure:
                raise failure
            return await self._settled(session, ref) if final else Settlement(found=landed)

    async def _settled(self, session: Session, ref: LeaseRef) -> Settlement:
        """Nothing can land any more, and what had landed is on record."""
        landed = ref.found
        if not landed and not self._tokens.findable:
            strays = await self._strays(session, ref)
            return Settlement(found=False, evidence=None if strays else Evidence.EXPIRED)
        step = await self._look(session, ref)
        if step.evidence is None and (landed or step.step != ENDS_BY_TIME):
            return Settlement(found=landed)
        return Settlement(found=landed, evidence=Evidence.SEEN_DEAD if landed else Evidence.NOT_MINTED)

    async def _look(self, session: Session, ref: LeaseRef) -> Progress:
        block = block_of(ref)
        if await self._tokens.alive(session.token, ref):
            return Progress(step="TOKEN_ALIVE")
        if await self._children.alive(session.token, children_of(ref)):
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
        under = block_of(ref).leased_under
        return bool(under and not children_of(ref) and await self._children.strays(session.token, under, ref))

    @contextlib.asynccontextmanager
    async def asking(self, ref: LeaseRef) -> AsyncIterator[Session]:
        """A session with the cluster that minted; every failure inside becomes a ProviderError."""
        try:
            session = await self._login.session()
        except LoginFailed as error:
            raise ProviderError(error.why, Contact.NONE) from None
        if ref.refs.get("cluster", session.cluster_id) != session.cluster_id:
            session = await self._looked_again(session)
        if ref.refs.get("cluster", session.cluster_id) != session.cluster_id:
            raise ProviderError("vault: another cluster answers than the one that minted", Contact.NOT_ASKED)
        today = self._settings.namespace_name
        if ref.refs.get("namespace", today) != today:  # there, ids and accessors of another one were never heard of
            raise ProviderError("vault: it was minted in another namespace than the configured one", Contact.NOT_ASKED)
        try:
            yield session
        except VaultRefused as error:
            if answers.asker_dead(error):
                self._login.drop(session)
            raise ProviderError(f"vault: {error}", _contact(error)) from None
        except VaultError as error:
            raise ProviderError(f"vault: {error}", Contact.NONE) from None

    async def _looked_again(self, session: Session) -> Session:
        """The cluster that minted may be back behind the address, and the login that is held another one's."""
        try:
            if await self._login.moved(session):
                return await self._login.session()
        except LoginFailed as error:
            raise ProviderError(error.why, Contact.NONE) from None
        except VaultError as error:
            raise ProviderError(f"vault: {error}", Contact.NONE) from None
        return session


def children_of(ref: LeaseRef) -> list[str]:
    """Ids of its leased secrets, as far as they are known."""
    return [str(child) for child in ref.refs.get("children", [])]


def block_of(ref: LeaseRef) -> VaultBlock:
    """Its scope's block. Raises ProviderError."""
    try:
        return read_block(ref.params)
    except ValidationError:
        raise ProviderError("vault: the block of this lease cannot be read", Contact.NOT_ASKED) from None


def _may_fetch(ref: LeaseRef) -> bool:
    """May its token be fetching a leased secret whose id is not known?"""
    return bool(block_of(ref).leased_under) and not children_of(ref)


def _contact(error: VaultRefused) -> Contact:
    if answers.is_an_answer(error):
        return Contact.ANSWERED
    return Contact.NONE if error.status == SEALED else Contact.FAILED
