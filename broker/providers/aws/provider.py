"""AWS STS as a provider: one AssumeRole per lease, named after the lease."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from broker.clock import Clock
from broker.model import Evidence, JsonValue
from broker.providers.aws.block import AwsBlock
from broker.providers.aws.calls import Clients, Failure, Lane
from broker.providers.aws.denies.iam import IamCall
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.denies.recovery import RoleCutOff
from broker.providers.aws.ending import Ending
from broker.providers.aws.minting import REFUSALS, Minting
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import LeaseRef, Minted, MintOrder, NoRoom, Progress, Recheck, Room, Settlement, Sweep, Swept
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
    landing_seconds = 0.0  # a deny names the session before it exists, and the bound holds for a late one too

    def __init__(
        self,
        settings: AwsSettings,
        clock: Clock,
        *,
        epoch: Callable[[], int],
        open_leases: Callable[[], Awaitable[Sequence[LeaseRef]]] = _no_leases,
    ) -> None:
        """`epoch`: who it writes as; it may change. `open_leases`: those of this provider that have not ended."""
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
        self._minting = Minting(settings, self._clients, self._mints, self._denies, clock)
        self._ending = Ending(self._denies, clock)

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
        await self._mints.close()
        await self._revokes.close()

    # --- one lease ---

    async def mint(self, order: MintOrder) -> Minted:
        """One AssumeRole."""
        return await self._minting.mint(order)

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Push, then look."""
        return await self._ending.revoke(ref)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks only."""
        return await self._ending.probe(ref)

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:  # noqa: ARG002 - of the Protocol
        """Whether it landed or not, it is denied by its name."""
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
        return await RoleCutOff(self._iam_of, self._settings.installation, self._clock).sweep(sweep)

    async def recheck(self, ref: LeaseRef, operator: Secret | None) -> Recheck:  # noqa: ARG002 - of the Protocol
        """Whether its bound has passed."""
        return self._ending.recheck(ref)

    # --- check ---

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
                f"aws: {where} refused the broker's credentials ({answer.code}): check the access key and its secret"
            ]
        return [f"aws: {where} gave no answer ({answer.code}): check endpoint, network and credentials"]

    def _iam_of(self, block: AwsBlock) -> IamCall:  # noqa: ARG002 - whom a scope's role is managed as
        return self._iam

    async def _iam(self, operation: str, **parameters: JsonValue) -> Mapping[str, JsonValue] | Failure:
        endpoint = self._settings.iam_endpoint_url or self._settings.endpoint_url
        call = partial(self._clients.call, "iam", self._settings.sts_region, endpoint, operation, **parameters)
        return await self._revokes.run(call)
