"""Ending a session: denied by its name on its role, or left to its bound. The evidence is time, or a probe's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.clock import Clock
from broker.model import Evidence, JsonValue
from broker.providers.aws.denies.ages import SKEW
from broker.providers.aws.denies.lists import DenyList
from broker.providers.aws.denies.role import Denied, DenyResult
from broker.providers.aws.probes import Prober
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.scopes.compile import timestamp
from broker.providers.base import (
    DENY_WRITTEN_AT,
    Contact,
    CutOff,
    LeaseRef,
    Progress,
    ProviderError,
    Recheck,
    Settlement,
    Standing,
)


class Ending:
    """Of sessions that were seen, and of those that may exist."""

    def __init__(self, denies: DenyList, prober: Prober, clock: Clock) -> None:
        self._denies = denies
        self._prober = prober
        self._clock = clock

    async def revoke(self, ref: LeaseRef) -> Progress:
        """Deny the session on its role, unless only its time may end it. The evidence is its probe's, if it has one."""
        return await self._deny(ref, may_cut=True)

    async def _deny(self, ref: LeaseRef, *, may_cut: bool) -> Progress:
        block = block_of(ref.params)
        if block is None:
            raise ProviderError("the lease's aws block cannot be read")
        if block.stored:  # the value lives on; its session was dropped after the read
            return Progress(evidence=Evidence.ACCESS_ENDED, contact=Contact.NOT_ASKED)
        if block.revoke == "bound":
            return Progress(step=Denied.WAITING_FOR_BOUND.value, contact=Contact.NOT_ASKED)
        if block.probe is not None:
            await self._prober.before_deny(ref.lease_id)
        result = await self._denies.deny(block, ref, may_cut=may_cut)
        progress = _progress(block, result)
        if block.probe is None or result.at is None:
            return progress
        look = await self._prober.after_deny(ref.lease_id)
        step = f"{progress.step}, {look.hopeless.value}" if look.hopeless else progress.step
        again = None if look.evidence else look.again or progress.again
        return replace(progress, evidence=look.evidence, step=step, again=again)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        """Looks, once its deny is written and when it is time to; None without a probe."""
        if DENY_WRITTEN_AT not in ref.refs:
            return None
        return (await self._prober.after_deny(ref.lease_id)).evidence

    async def settle(self, ref: LeaseRef) -> Settlement:
        """Deny the session by its name, seen or not. Only time is evidence, and time is the engine's."""
        progress = await self._deny(ref, may_cut=False)  # a settlement does not tell what else was cut off
        return Settlement(found=False, refs=progress.refs, contact=progress.contact)

    def recheck(self, ref: LeaseRef) -> Recheck:
        """Only time can be looked at again: nothing else of a session is kept."""
        if self._clock.now() > ref.expires_at + SKEW:
            return Recheck(standing=Standing.DEAD, why="its bound has passed")
        return Recheck(standing=Standing.UNKNOWN, why="AWS cannot be asked about a session; its bound has not passed")


def _progress(block: AwsBlock, result: DenyResult) -> Progress:
    refs: Mapping[str, JsonValue] = {}
    if result.at is not None:
        refs = {"deny_policy": result.policy, DENY_WRITTEN_AT: timestamp(result.at)}
    cut = CutOff(param="role_arn", value=block.role_arn, before=result.cut.before) if result.cut else None
    contact = Contact.ANSWERED if result.asked else Contact.NOT_ASKED
    return Progress(step=result.state.value, refs=refs, again=result.again, cut_off=cut, contact=contact)
