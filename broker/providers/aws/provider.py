"""AWS STS as a provider: one AssumeRole per lease, named after the lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

from broker.clock import Clock
from broker.model import AwsSession, Evidence, JsonValue
from broker.providers.aws.asks import Asks, at_iam
from broker.providers.aws.assume.calls import AssumeRole
from broker.providers.aws.calls import Clients, Failure
from broker.providers.aws.check.rights import Rights
from broker.providers.aws.denies.iam import IamCall, safe
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.denies.recovery import RoleCutOff
from broker.providers.aws.ending import Ending
from broker.providers.aws.lanes import Lane
from broker.providers.aws.minting import REFUSALS, Minting
from broker.providers.aws.probes import PROBES, Prober
from broker.providers.aws.roles import Roles, Survey
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.sessions import SessionCalls
from broker.providers.aws.settings import AwsSettings
from broker.providers.aws.static import Static
from broker.providers.base import (
    DeclaredScope,
    Findings,
    LeaseRef,
    Minted,
    MintOrder,
    MintRefused,
    NoRoom,
    Progress,
    Recheck,
    Room,
    Settlement,
    Sweep,
    Swept,
)
from broker.providers.heard import HeardTime
from broker.secret import Secret


async def _no_leases() -> Sequence[LeaseRef]:
    return ()


class AwsProvider:
    """Provider of `broker.providers.base`, with most of its further powers.

    A session cannot be taken back. It ends at the bound in its policy, or earlier by a deny on its role, which takes
    AWS seconds to minutes: so `revoke` reports progress, and the evidence is a probe's, or the engine's own, EXPIRED
    once the bound has passed.
    """

    name = "aws"
    ends_at_once = 64  # one write of a role's policy denies all who wait for it; probes, 8 at a time, take 100 ms each
    landing_seconds = 0.0  # a deny names the session before it exists, and the bound holds for a late one too

    def __init__(
        self,
        settings: AwsSettings,
        clock: Clock,
        *,
        epoch: Callable[[], int],
        roles: Roles | None = None,
        open_leases: Callable[[], Awaitable[Sequence[LeaseRef]]] = _no_leases,
    ) -> None:
        """`epoch`: who it writes as; it may change. `open_leases`: those of this provider that have not ended.

        `roles`: where it notes what its ScopeKind must know.
        """
        self._settings = settings
        self._clock = clock
        self._heard = HeardTime(clock)
        self._clients = Clients(settings, self._heard, clock)
        patience = settings.connect_timeout.total_seconds()
        self._mints = Lane("mint", settings.mint_workers, patience)
        self._revokes = Lane("revoke", settings.revoke_workers, patience)
        self._denies = DenyList(
            iam=self._iam_of,
            settings=settings,
            epoch=epoch,
            clock=clock,
            heard=self._heard.now,
            open_leases=open_leases,
        )
        self._sts = AssumeRole(settings, self._clients, self._mints, self._heard, clock)
        self._minting = Minting(settings, self._sts, self._denies, clock)
        self._roles = roles or Roles()
        self._asks = Asks(settings, self._clients, mints=self._mints, revokes=self._revokes)
        self._survey = Survey(self._roles, self._asks.iam)
        self._probes = SessionCalls("probe", replace(settings, **PROBES))
        self._prober = Prober(self._probes.call, clock)
        self._reads = SessionCalls("read", settings)
        limit = settings.connect_timeout + settings.read_timeout
        self._static = Static(self._minting.mint, self._reads.call, clock, self._heard.now, limit=limit)
        self._ending = Ending(self._denies, self._prober, clock)

    def time_heard(self) -> datetime | None:
        """AWS's time: `KnowsTime`."""
        return self._heard.now()

    def login_left(self) -> float | None:
        """The broker's own credentials: `KnowsLogin`."""
        return self._clients.identity.left()

    def login_ends(self) -> datetime | None:
        """The same: `KnowsLogin`."""
        return self._clients.identity.ends_at

    async def close(self) -> None:
        await self._denies.close()
        self._prober.close()
        for lane in (self._mints, self._revokes, self._probes, self._reads):
            await lane.close()
        await self._sts.close()

    # --- one lease ---

    async def mint(self, order: MintOrder) -> Minted:
        """One AssumeRole, and for a static scope one read with it."""
        block = block_of(order.ref.params)
        if block is None:
            raise MintRefused("the scope's aws block is not valid")
        self._roles.must_keep_promise(order.ref, block)
        if block.stored:
            return await self._static.mint(order, block)
        minted = await self._minting.mint(order, block)
        if block.probe and isinstance(minted.credential, AwsSession):
            self._prober.keep(order.ref, block.probe.call, block.probe.arguments, minted.credential)
        return minted

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Push, then look."""
        return await self._ending.revoke(ref)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        return await self._ending.probe(ref)

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        """Whether it landed or not, a session is denied by its name; a stored value was never handed out."""
        block = block_of(ref.params)
        if block is not None and block.stored:
            return self._static.settle(ref, final=final)
        return await self._ending.settle(ref)

    def no_room(self, params: Mapping[str, JsonValue], agent: str) -> NoRoom | None:
        """Of the role's deny list: `HasRoom`."""
        return self._denies.no_room(params, agent)

    def rooms(self) -> Mapping[str, Room]:
        """Of each role: `KnowsRoom`."""
        return self._denies.rooms()

    # --- after lost state ---

    async def may_recover(self, sweep: Sweep) -> list[str]:  # noqa: ARG002 - of the Protocol
        """It needs no more than the broker has; what a role refuses is told with the role."""
        return []

    async def recover(self, sweep: Sweep) -> Swept:
        """Deny every session that is older than now, on each role of these scopes."""
        return await RoleCutOff(self._iam_of, self._settings.installation, self._clock, self._heard.now).sweep(sweep)

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:  # noqa: ARG002 - of the Protocol
        """Whether its bound has passed."""
        return self._ending.recheck(ref)

    # --- check ---

    async def survey(self, scopes: Iterable[DeclaredScope]) -> bool:
        """Which roles' policies the broker may write: `Surveys`."""
        return await self._survey.of(scopes)

    async def survey_again(self, scopes: Iterable[DeclaredScope]) -> bool:
        """About roles that it may not write, or that nothing is known of."""
        return await self._survey.again(scopes)

    async def check_scopes(self, scopes: Iterable[DeclaredScope]) -> Findings:
        """Who the broker is, what it may do with each role, and what it may do too much."""
        rights = Rights(self._settings, self._asks, self._clock, self._heard, self.login_ends)
        return await rights.problems(scopes)

    async def check(self) -> list[str]:
        """Is STS there, and does it know the broker's key?"""
        region, endpoint = self._settings.sts_region, self._settings.endpoint_url
        answer = await self._mints.run(partial(self._clients.call, "sts", region, endpoint, "get_caller_identity"))
        if not isinstance(answer, Failure) or answer.status == 405:  # noqa: PLR2004 - Ceph's STS has no such call
            return []
        if answer.why:
            return [f"aws: {answer.why}"]
        where = endpoint or f"STS in {region}"
        if (answer.status, answer.code) in REFUSALS:
            return [
                f"aws: {where} refused the broker's credentials ({safe(answer)}): check the access key and its secret"
            ]
        return [f"aws: {where} gave no answer ({safe(answer)}): check region, endpoint, network and credentials"]

    def _iam_of(self, block: AwsBlock) -> IamCall:
        """As whom a scope's role is managed: the broker itself, or the role that it goes through."""

        async def call(operation: str, **parameters: JsonValue) -> Mapping[str, JsonValue] | Failure:
            return await self._revokes.run(at_iam(self._clients, self._settings, block, operation, **parameters))

        return call
