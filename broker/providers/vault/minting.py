"""One mint: a token through the scope's role, and what that token fetches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

from pydantic import ValidationError

from broker.clock import Clock
from broker.model import JsonValue, VaultToken, X509Certificate
from broker.providers.base import LeaseRef, Minted, MintInDoubt, MintOrder, MintRefused, ProviderError
from broker.providers.heard import HeardTime
from broker.providers.vault import answers
from broker.providers.vault.children import SENT_AT, Children
from broker.providers.vault.client import TokenAnswer, VaultClient
from broker.providers.vault.credentials import body_of, child_of, credential_of, input_problem, life_of
from broker.providers.vault.ending import children_of
from broker.providers.vault.login import Login, LoginFailed, Session
from broker.providers.vault.scope import Kind, VaultBlock, is_path, read_block
from broker.providers.vault.settings import VaultSettings
from broker.providers.vault.tokens import Tokens, end_at_hand
from broker.providers.vault.transport import VaultError, VaultLost, VaultRefused, VaultUnreachable
from broker.secret import Secret

TTL_SLACK = 1  # seconds by which the server may round a life down


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """Everything but the create. `token`: the id that was chosen; None when the server chooses."""

    session: Session
    order: MintOrder
    block: VaultBlock
    seconds: int
    token: Secret | None


class Minting:
    """`client`: over connections of its own, so that mints that hang hold up no end. Raises as `Provider.mint`."""

    def __init__(
        self,
        client: VaultClient,
        settings: VaultSettings,
        *,
        clock: Clock,
        heard: HeardTime,
        login: Login,
        tokens: Tokens,
        children: Children,
    ) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._heard = heard
        self._login = login
        self._tokens = tokens
        self._children = children

    def foresee(self, session: Session | None) -> dict[str, JsonValue]:
        """Where it is asked for, and when by that server's clock: a doubt is settled nowhere else."""
        heard = self._heard.now()
        refs: dict[str, JsonValue] = {"namespace": self._settings.namespace_name}
        refs |= {"cluster": session.cluster_id} if session else {}
        return refs | ({SENT_AT: heard.isoformat()} if heard else {})

    async def mint(self, order: MintOrder) -> Minted:
        """One attempt within the mint timeout.

        1. Everything that can be wrong without asking is found first, and where it is asked for is on record.
        2. One create. Refused on the allow-list, or never sent: nothing was made.
        3. The token is what was asked for, or it is killed at once.
        4. What only the record can find again, or prove, is durable before the broker goes on.
        5. One read or write, with the lease's own token.
        6. The child's lease id is durable before anybody may have the secret.
        """
        deadline = asyncio.get_running_loop().time() + self._settings.mint_timeout
        ready = None
        try:
            async with asyncio.timeout_at(deadline):
                ready = await self._prepare(order)  # (1)
                return await self._make(ready)  # (2-6)
        except TimeoutError:
            if ready is None:
                raise MintRefused("vault: no time was left to ask for a token") from None
            raise MintInDoubt("vault: the mint took too long") from None

    async def _prepare(self, order: MintOrder) -> _Ready:
        block = self._checked(order)
        seconds = int((order.ref.expires_at - self._clock.now()).total_seconds())
        if seconds <= 0:
            raise MintRefused("the lease's time is over")
        try:
            token = self._tokens.chosen(order.ref)
            session = await self._login.session()
        except ProviderError as error:
            raise MintRefused(str(error)) from None
        except LoginFailed as error:
            raise MintRefused(error.why) from None
        refs = order.ref.refs
        if (refs.get("cluster"), refs.get("namespace")) != (session.cluster_id, self._settings.namespace_name):
            order = await self._note_where(order, self.foresee(session))
        return _Ready(session=session, order=order, block=block, seconds=seconds, token=token)

    def _checked(self, order: MintOrder) -> VaultBlock:
        try:
            block = read_block(order.ref.params)
        except ValidationError:
            raise MintRefused("the scope's vault block is not valid") from None
        if block.role == self._settings.tomb_role or (block.path and not is_path(block.path)):
            raise MintRefused("the scope's vault block names a path that is not allowed")
        if problem := input_problem(block, order.public_input):
            raise MintRefused(problem)
        return block

    async def _note_where(self, order: MintOrder, refs: Mapping[str, JsonValue]) -> MintOrder:
        """The first mint after a start, or after the address has moved to another cluster: nothing is sent yet."""
        try:
            await order.note(refs)
        except Exception:  # noqa: BLE001 - whatever the store says
            raise MintRefused("where the credential is asked for could not be recorded") from None
        return replace(order, ref=replace(order.ref, refs={**order.ref.refs, **refs}))

    async def _make(self, ready: _Ready) -> Minted:
        session, order, block = ready.session, ready.order, ready.block
        made = await self._create(ready)  # (2)
        refs = {"accessor": made.accessor, **{one: order.ref.refs[one] for one in ("cluster", "namespace")}}
        problem = _unfit(made, ready.token, ready.seconds)
        if block.kind is Kind.TOKEN and ready.token is not None and not problem:
            return self._token(made, refs)
        ref = replace(order.ref, refs={**order.ref.refs, **refs})
        if problem:  # (3)
            stranger = ready.token is not None and not made.token.matches(ready.token)
            await self._abandon(session, ref, problem, made.token if stranger else None)
        if ready.token is None or block.kind is Kind.SSH:  # (4)
            await self._note(session, order, ref, refs)
        if block.kind is Kind.TOKEN:
            return self._token(made, refs)
        return await self._fetch(replace(ready, order=replace(order, ref=ref)), made.token)

    def _token(self, made: TokenAnswer, refs: Mapping[str, JsonValue]) -> Minted:
        settings = self._settings
        credential = VaultToken(token=made.token, address=settings.address, namespace=settings.namespace)
        return Minted(credential=credential, refs=refs, provider_request_id=made.request_id)

    async def _create(self, ready: _Ready) -> TokenAnswer:
        order, role = ready.order, ready.block.role
        meta = {
            "lease_id": order.ref.lease_id,
            "agent": order.agent,
            "workflow": order.workflow,
            "run": order.run,
            "step": order.step,
        }
        try:
            return await self._client.create(ready.session.token, role, ready.token, seconds=ready.seconds, meta=meta)
        except VaultUnreachable as error:
            raise MintRefused(f"vault: {error}") from None
        except VaultLost as error:
            raise MintInDoubt(f"vault: {error}") from None
        except VaultRefused as error:
            if answers.asker_dead(error):
                self._login.drop(ready.session)
            failure = MintRefused if answers.create_refused(error, role) else MintInDoubt
            raise failure(f"vault: {error} to the creation of a token") from None

    async def _fetch(self, ready: _Ready, token: Secret) -> Minted:
        session, order, block = ready.session, ready.order, ready.block
        ref, leased = order.ref, block.kind.has_lease
        try:
            answer = await self._client.fetch(  # (5)
                token, block.path, body_of(block, order.public_input, ready.seconds)
            )
        except VaultError as error:
            lost = isinstance(error, VaultLost)
            lost = lost or (isinstance(error, VaultRefused) and not answers.read_refused(error, block.path))
            if leased and lost:
                raise MintInDoubt(f"vault: {error} to the request for a leased secret") from None
            await self._abandon(session, ref, f"vault: {error} to the request for a secret")

        child = child_of(answer)
        refs = {**ref.refs, **({"children": [child]} if child else {})}
        credential = credential_of(block.kind, answer, ref.expires_at, attributes=block.attributes)
        if isinstance(credential, X509Certificate):
            refs["serial"] = credential.serial_number
        ref = replace(ref, refs=refs)
        if child:
            await self._note(session, order, ref, refs)  # (6)
        if problem := _unfit_lease(block.kind, child, life_of(answer), ready.seconds):
            await self._abandon(session, ref, problem)
        if credential is None:
            await self._abandon(session, ref, "vault: the answer is no secret of the kind that its path says")
        return Minted(credential=credential, refs=refs, provider_request_id=str(answer.get("request_id", "")))

    async def _note(self, session: Session, order: MintOrder, ref: LeaseRef, refs: Mapping[str, JsonValue]) -> None:
        try:
            await order.note(refs)
        except Exception:  # noqa: BLE001 - whatever the store says, what has no record is not given out
            await self._abandon(session, ref, "what was minted could not be recorded")

    async def _abandon(self, session: Session, ref: LeaseRef, why: str, made: Secret | None = None) -> NoReturn:
        """Kill what was just made. Definite only when it is seen dead, for then nothing is alive or can land.

        `made`: the token itself, where its id is not the one that the record leads to.
        """
        asker, children = session.token, children_of(ref)
        failure = await self._children.try_revoke(asker, children)
        try:
            dead = made is None or await end_at_hand(self._client, asker, made)
            await self._tokens.kill(asker, ref)
            dead = dead and not failure and not await self._tokens.alive(asker, ref)
            dead = dead and not await self._children.alive(asker, children)
        except VaultError:
            dead = False
        raise (MintRefused if dead else MintInDoubt)(why)


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


def _unfit_lease(kind: Kind, child: str, life: int, seconds: int) -> str:
    """What keeps an answer's lease from being this scope's; `life` and `seconds` as they are and must be."""
    if kind.has_lease and not child:
        return "vault: the answer is no secret of the kind that its path says"
    if child and not kind.has_lease:
        return "vault: the answer gives a lease, which this kind of scope cannot end"
    if kind is Kind.LEASED and life < seconds - TTL_SLACK:
        return "vault: the secrets engine gives it a shorter life than the scope's ttl"
    return ""
