"""What keeps the broker from minting and ending, found before the first lease; and what it may do too much.

Nothing is changed: writes are tried with what AWS cannot take, and roles are assumed with a session policy whose bound
lies in the past, so that the session may do nothing. `iam:SimulatePrincipalPolicy` would say more, but asking it is a
right that a narrow broker does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from broker.clock import Clock
from broker.providers.aws.asks import Asks
from broker.providers.aws.check.caller import Caller, through, who
from broker.providers.aws.check.excess import too_much
from broker.providers.aws.check.lookat import Wanted, look_at
from broker.providers.aws.check.rehearsal import Rehearsal, filled
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.scopes.compile import timestamp
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import DeclaredScope, Findings
from broker.providers.heard import HeardTime

REMEDY = "stepcred-broker scopes provision {map} --provider aws --format json --broker-arn "


class Rights:
    """Asks as the broker."""

    def __init__(
        self, settings: AwsSettings, asks: Asks, clock: Clock, heard: HeardTime, ends_at: Callable[[], datetime | None]
    ) -> None:
        self._settings = settings
        self._asks = asks
        self._clock = clock
        self._heard = heard
        self._ends_at = ends_at  # the broker's credentials, as far as is known

    async def problems(self, scopes: Iterable[DeclaredScope]) -> Findings:
        """Every one; empty when all of these scopes can be minted and ended, and nothing else."""
        found = Findings()
        caller = await who(self._asks, self._settings, self._off(), found)
        if caller is None:
            return found
        if (ends := self._ends_at()) is not None:
            left = (ends - self._clock.now()).total_seconds() / 60
            found.remarks.append(
                f"its credentials end at {timestamp(ends)}, in {left:.0f} minutes, unless they are renewed"
            )
        wanted, unread = _by_role(scopes)
        found += unread
        for more in await asyncio.gather(*(self._role(caller, one) for one in wanted), too_much(self._asks, caller)):
            found += more
            found.remarks += more.remarks
        if found and caller.arn:
            found.remedy = REMEDY + caller.principal
        return found

    async def _role(self, caller: Caller, wanted: Wanted) -> Findings:
        """One role, and each of its scopes in turn: their problems are told together."""
        caller = through(wanted.block.via, caller)
        seen, found = await look_at(self._asks, self._settings, caller, wanted)
        rehearsal = Rehearsal(self._asks, self._clock, self._off)
        for scope, block in wanted.scopes:
            await rehearsal.of(scope, block, caller, seen, found)
        return found

    def _off(self) -> timedelta | None:
        """How far this machine's clock is ahead of AWS's, as far as is known."""
        heard = self._heard.now()
        return self._clock.now() - heard if heard is not None else None


def _by_role(scopes: Iterable[DeclaredScope]) -> tuple[list[Wanted], list[str]]:
    """In the order of the map; templates filled with something."""
    held: dict[tuple[str, str], list[tuple[DeclaredScope, AwsBlock]]] = {}
    unread = []
    for scope in scopes:
        block = block_of(filled(scope.block))
        if block is None:
            unread.append(f"scope {scope.name}: its aws block cannot be read")
            continue
        held.setdefault((block.via or "", block.role_arn), []).append((scope, block))
    return [Wanted(scopes=tuple(of)) for of in held.values()], unread
