"""Ending a session: denied by its name on its role, or left to its bound. The evidence is time, or a probe's."""

from __future__ import annotations

from collections.abc import Mapping

from broker.clock import Clock
from broker.model import Evidence, JsonValue
from broker.providers.aws.block import block_of
from broker.providers.aws.compile import timestamp
from broker.providers.aws.cutoff import SKEW
from broker.providers.aws.denylist import Denied, DenyList
from broker.providers.base import (
    DENY_WRITTEN_AT,
    LeaseRef,
    Progress,
    ProviderError,
    Recheck,
    Settlement,
    Standing,
)


class Ending:
    """Of sessions that were seen, and of those that may exist."""

    def __init__(self, denies: DenyList, clock: Clock) -> None:
        self._denies = denies
        self._clock = clock

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Deny the session on its role, unless only its time may end it. Never evidence."""
        block = block_of(ref.params)
        if block is None:
            raise ProviderError("the lease's aws block cannot be read")
        if block.revoke == "bound":
            return Progress(step=Denied.WAITING_FOR_BOUND.value)
        result = await self._denies.deny(block, ref.lease_id, ref.expires_at)
        refs: Mapping[str, JsonValue] = {}
        if result.at is not None:
            refs = {"deny_policy": result.policy, DENY_WRITTEN_AT: timestamp(result.at)}
        return Progress(step=result.state.value, refs=refs)

    async def probe(self, ref: LeaseRef) -> Evidence | None:  # noqa: ARG002 - of the Protocol
        """Nothing proves a session dead before its bound: the broker keeps no credential to try."""
        return None

    async def settle(self, ref: LeaseRef) -> Settlement:
        """Deny the session by its name, seen or not. Only time is evidence, and time is the engine's."""
        progress = await self.revoke(ref)
        return Settlement(found=False, refs=progress.refs)

    def recheck(self, ref: LeaseRef) -> Recheck:
        """Only time can be looked at again: nothing else of a session is kept."""
        if self._clock.now() > ref.expires_at + SKEW:
            return Recheck(standing=Standing.DEAD, why="its bound has passed")
        return Recheck(standing=Standing.UNKNOWN, why="AWS cannot be asked about a session; its bound has not passed")
