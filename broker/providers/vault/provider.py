"""Vault and OpenBao: one token per lease; everything else hangs from it.

`minting` makes, `ending` ends and looks, `survey` finds what the store has forgotten.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime

from pydantic import ValidationError

from broker.clock import Clock
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.model import Evidence, JsonValue
from broker.providers.base import (
    DeclaredScope,
    LeaseRef,
    Minted,
    MintOrder,
    Progress,
    Recheck,
    Settlement,
    Sweep,
    Swept,
)
from broker.providers.heard import HeardTime
from broker.providers.vault.children import Children
from broker.providers.vault.client import VaultClient
from broker.providers.vault.credentials import input_problem
from broker.providers.vault.ending import Ending
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.minting import Minting
from broker.providers.vault.names import token_id
from broker.providers.vault.published import RevocationLists
from broker.providers.vault.rights import Rights
from broker.providers.vault.scope import read_block
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.survey import Survey
from broker.providers.vault.tokens import AccessorTokens, NamedTokens, Tokens
from broker.providers.vault.transport import Transport, VaultRefused
from broker.secret import Secret

ACCESSOR_MODE = (
    "in a namespace the server chooses token ids: leases are ended by accessor, for which the broker's policy has a "
    "right over every token of the namespace, and a mint whose answer was lost waits for its whole life to pass"
)


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
        known: Callable[[], Awaitable[frozenset[str]]],
    ) -> None:
        """`known`: ids of the leased secrets that some live lease names; asked anew each time."""
        if problems := settings.problems():
            raise ConfigError(problems)
        self.landing_seconds = settings.request_limit_seconds
        self._settings = settings
        self._clock = clock
        self._heard = HeardTime(clock)
        self._transport = Transport(settings, heard=self._heard)
        self._mints = self._transport.another()  # those that hang delay no end
        self._client = VaultClient(self._transport)
        self._login = Login(self._client, settings.auth, clock)
        self._tokens: Tokens = (
            NamedTokens(self._client, settings, lambda ref: token_id(keyring, installation, ref))
            if settings.chooses_ids
            else AccessorTokens(self._client)
        )
        children = Children(self._client, settings, clock, self._heard, known)
        lists = RevocationLists(self._transport)
        self._minting = Minting(
            VaultClient(self._mints),
            settings,
            clock=clock,
            heard=self._heard,
            login=self._login,
            tokens=self._tokens,
            children=children,
        )
        self._ending = Ending(settings, self._login, self._tokens, children, lists)
        self._rights = Rights(self._client, settings)
        self._survey = Survey(self._client, clock, self._heard, lists)

    def time_heard(self) -> datetime | None:
        """The server's time: `KnowsTime`."""
        return self._heard.now()

    def login_left(self) -> float | None:
        """The broker's own token: `KnowsLogin`."""
        return self._login.left()

    def login_ends(self) -> datetime | None:
        """The same: `KnowsLogin`."""
        return self._login.ends()

    def foresee(self) -> Mapping[str, JsonValue]:
        """`Foresees`: a mint in doubt is looked for where it was asked for, and by that server's clock."""
        return self._minting.foresee(self._login.held)

    async def close(self) -> None:
        await self._login.close()
        await self._mints.close()
        await self._transport.close()

    # --- one lease ---

    def input_problem(self, params: Mapping[str, JsonValue], public_input: str) -> str:
        """Before the intent; `mint` looks again. A block that is not valid is the mint's to refuse."""
        try:
            return input_problem(read_block(params), public_input)
        except ValidationError:
            return ""

    async def mint(self, order: MintOrder) -> Minted:
        """One attempt within the mint timeout."""
        return await self._minting.mint(order)

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Push, then look."""
        return await self._ending.revoke(ref)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        return await self._ending.probe(ref)

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Find out whether it landed, and end it."""
        return await self._ending.settle(ref, final=final)

    # --- after lost state ---

    async def recover(self, sweep: Sweep) -> Swept:
        """Kill what is alive and of no live lease, as an operator. Raises ProviderError."""
        return await self._survey.recover(sweep)

    async def may_recover(self, sweep: Sweep) -> list[str]:
        """What the operator's token lacks. Raises ProviderError."""
        return await self._survey.may_recover(sweep)

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:
        """By accessor: the nonce that named the token is erased. Raises ProviderError."""
        async with self._ending.asking(ref) as session:
            return await self._survey.recheck(ref, session.token if operator is None else operator)

    # --- check ---

    async def check(self) -> list[str]:
        """Reachable, unsealed, a login that works, and a tomb role that may be used. Cheap: asked all the time."""
        session = await self._checking()
        if isinstance(session, str):
            return [session]
        try:
            return await self._rights.tomb(session.token)
        except VaultRefused as error:
            self._login.drop(session)  # the server was put back in time, or is another one
            return [f"vault: {error} to the broker's login; it logs in anew"]

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
