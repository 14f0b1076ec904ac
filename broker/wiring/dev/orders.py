"""What a test suite may have happen: time, refusals, failures, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

from broker.errors import ConfigError, Reason
from broker.leases.ids import new_freeze_id
from broker.leases.orders import Order
from broker.leases.selection import Selection
from broker.model import LeaseState
from broker.providers.dev.backend import Failure
from broker.store.base import Tx
from broker.store.halts import Freeze
from broker.wiring.dev.broker import DevBroker
from broker.wiring.dev.rigged import GUARDS, SAID
from broker.wiring.dev.site import FARTHEST

PATIENCE = 10.0  # seconds until what time has ended is dead
LOOK = 0.01
BY = "stepcred-broker dev"


class DevOrders:
    """Each returns when it has happened."""

    def __init__(self, broker: DevBroker) -> None:
        self._broker = broker

    async def advance(self, ahead: timedelta) -> None:
        """Time passes while everybody lives on; returns when what it has ended is dead. Raises ValueError."""
        if not timedelta(0) < ahead <= FARTHEST - self._broker.clock.ahead:
            raise ValueError(
                f"the clock goes forward, and {FARTHEST.days} days in all: its certificates live no longer"
            )
        async with self._broker.turn:
            await self._settled()  # nobody's last moment is missed by a jump
            self._broker.clock.move(ahead)
            await self._settled()

    async def expire(self, scope: str = "") -> None:
        """To the end of all that is alive, or of what is alive of a scope. Raises ValueError when nothing is."""
        ends = [one.until for one in self._broker.backend.alive() if scope in ("", one.scope)]
        if not ends:
            raise ValueError(f"nothing is alive{f' of {scope}' if scope else ''}")
        await self.advance(max(ends) - self._broker.clock.now() + timedelta(seconds=1))

    async def end_steps(self) -> None:
        """As an operator would end every step."""
        order = Order(by=BY, reason="told to")
        await self._broker.daemon.engine.orders.revoke(Selection(everything=True), order, end_steps=True)
        await self._settled()

    async def refuse(self, scope: str, reason: str, times: int | None) -> None:
        """From now on, `times` times or until `allow`. Raises ValueError."""
        self._must_be_known(scope)
        known = {one.value: one for one in (*GUARDS, *SAID, Reason.FROZEN, Reason.PROVIDER_FAILED)}
        if reason not in known:
            raise ValueError(f"{reason!r} cannot be brought about; there are {', '.join(sorted(known))}")
        if known[reason] is Reason.PROVIDER_FAILED:
            self._broker.backend.fail(scope, Failure.REFUSED, times or 1_000_000)
        elif known[reason] is Reason.FROZEN:
            if times is not None:
                raise ValueError("a freeze counts nothing: leave times out, and lift it with allow")
            await self._freeze(scope)
        else:
            self._broker.rig.plan(scope, known[reason], times)

    async def _freeze(self, scope: str) -> None:
        by, at = BY, self._broker.clock.now()
        freeze = Freeze(id=new_freeze_id(), by=by, reason="told to", at=at, scope=scope)
        await self._broker.daemon.engine.orders.freeze(freeze, Order(by=by, reason="told to"))

    async def allow(self, scope: str) -> None:
        """Nothing is refused or failing on order any more; a lock of the guard's stands."""
        self._broker.rig.allow(scope)
        for how in Failure:
            self._broker.backend.fail(scope, how, 0)
        orders, order = self._broker.daemon.engine.orders, Order(by=BY, reason="told to")
        for freeze in await self._broker.daemon.core.store.read(lambda tx: tx.freezes()):
            if freeze.scope == scope:
                await orders.unfreeze(freeze.id, order)

    def fail(self, scope: str, how: str, times: int) -> None:
        """The provider fails so many times from now on. Raises ValueError."""
        self._must_be_known(scope)
        if how not in {one.value for one in Failure}:
            raise ValueError(f"it fails as {', '.join(one.value for one in Failure)}, not {how!r}")
        self._broker.backend.fail(scope, Failure(how), times)

    def hold(self, scope: str, values: Mapping[str, str]) -> None:
        """What credentials of this scope hold from now on. Raises ValueError."""
        self._must_be_known(scope)
        self._broker.backend.values[scope] = values

    def _must_be_known(self, scope: str) -> None:
        if scope not in self._broker.map.scopes:
            raise ValueError(f"no scope is named {scope!r}; there are {', '.join(sorted(self._broker.map.scopes))}")

    async def _settled(self) -> None:
        """Until nothing is left that ends now."""
        core, until = self._broker.daemon.core, asyncio.get_running_loop().time() + PATIENCE

        def left(tx: Tx) -> bool:
            now = self._broker.clock.moment()
            dying = [one for one in tx.due_leases(now.wall, 1) if one.state is not LeaseState.INTENT]
            over = any(tx.open_step_ids(now).values())
            return bool(dying) or over or bool(tx.live_past(now))

        while await core.store.read(left):
            if asyncio.get_running_loop().time() > until:
                raise ConfigError(["what has ended is not dead after 10 s; is something told not to be revoked?"])
            core.lane.set()
            await asyncio.sleep(LOOK)
