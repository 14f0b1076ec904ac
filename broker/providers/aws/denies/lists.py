"""Ending one session early: an inline deny on its role that names it.

A role has one such policy per (installation, epoch), written and named by this process only, so that a paused older
broker cannot undo a newer one's denies: it writes another policy. A new epoch copies nothing: the
predecessor's policy goes on denying, and is deleted after its last bound, which the policy itself tells.

A deny takes AWS seconds to minutes to reach every region, so a written entry is progress, not evidence.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime

from broker.clock import Clock
from broker.model import LEASE_ID, JsonValue
from broker.providers.aws.denies.iam import IamCall
from broker.providers.aws.denies.looking import names_of
from broker.providers.aws.denies.role import DenyResult, RoleDenies, relies
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import LeaseRef, NoRoom, ProviderError, Room


class DenyList:
    """The lists of all roles."""

    def __init__(
        self,
        *,
        iam: Callable[[AwsBlock], IamCall],
        settings: AwsSettings,
        epoch: Callable[[], int],
        clock: Clock,
        heard: Callable[[], datetime | None],
        open_leases: Callable[[], Awaitable[Sequence[LeaseRef]]],
    ) -> None:
        """`iam`: as whoever a scope's roles are managed. `heard`: AWS's time now, see `HeardTime`."""
        self._iam = iam
        self._settings = settings
        self._epoch = epoch
        self._clock = clock
        self._heard = heard
        self._open_leases = open_leases
        self._writer = secrets.token_hex(4)
        self._roles: dict[tuple[str, int], RoleDenies] = {}

    async def reserve(self, block: AwsBlock, ref: LeaseRef) -> None:
        """Before the mint: a place for its end, if the lease promises one. Raises MintRefused."""
        if relies(ref, block):
            await self._role(block).reserve(block, ref)

    def release(self, block: AwsBlock, ref: LeaseRef) -> None:
        """Its mint was refused: its place is free."""
        role = self._roles.get((block.role_arn, self._epoch()))
        if role is not None:
            role.release(ref.lease_id)

    def no_room(self, params: Mapping[str, JsonValue], agent: str) -> NoRoom | None:
        """Why a mint would be refused for want of a place, as far as is known without asking."""
        if params.get("revoke") == "bound":  # asked at each issue: most need not be read for it
            return None
        block = block_of(params)
        if block is None or block.stored:
            return None
        role = self._roles.get((block.role_arn, self._epoch()))
        return None if role is None else role.no_room(block, agent)

    async def deny(self, block: AwsBlock, ref: LeaseRef, *, may_cut: bool) -> DenyResult:
        """Deny the session of this lease until its bound. Idempotent.

        `may_cut`: the scope's choice to end all older sessions when the list is full may be used.
        Raises ProviderError when it was not done: ask again.
        """
        if not LEASE_ID.fullmatch(ref.lease_id):  # it becomes part of a pattern: "*" would deny everybody
            raise ProviderError("not a lease id")
        return await self._role(block).deny(block, ref, may_cut=may_cut)

    def rooms(self) -> Mapping[str, Room]:
        """Of each role that was used, by ARN."""
        epoch = self._epoch()
        rooms = {arn: role.taken() for (arn, of), role in self._roles.items() if of == epoch}
        return {arn: room for arn, room in rooms.items() if room is not None}

    async def close(self) -> None:
        """Let writes under way finish."""
        for role in self._roles.values():
            await role.settled()

    def _role(self, block: AwsBlock) -> RoleDenies:
        key = (block.role_arn, self._epoch())
        if key not in self._roles:
            # An epoch that is over writes no more; what it has in flight ends by itself.
            self._roles = {one: role for one, role in self._roles.items() if one[1] == key[1]}
            self._roles[key] = RoleDenies(
                iam=self._iam(block),
                block=block,
                names=names_of(self._settings.installation, key[1], self._writer),
                settings=self._settings,
                clock=self._clock,
                heard=self._heard,
                open_leases=self._open_leases,
            )
        return self._roles[key]
