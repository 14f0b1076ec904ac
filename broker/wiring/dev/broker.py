"""A broker that can be restarted, begun anew, moved in time, and told to refuse. Nothing of it outlives its folder."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from broker.clock import MovableClock
from broker.config import Address
from broker.errors import ConfigError, Reason
from broker.leases.ids import new_freeze_id
from broker.leases.orders import Order
from broker.leases.selection import Selection
from broker.model import JsonValue, LeaseState, ScopeKind, past_deadline
from broker.policy.scope_map import ScopeMap
from broker.providers.aws.roles import Roles
from broker.providers.base import Provider
from broker.providers.dev.backend import Backend, Failure
from broker.providers.dev.provider import DevProvider
from broker.store.base import Tx
from broker.store.halts import Freeze
from broker.wiring.build import Build
from broker.wiring.dev import maps
from broker.wiring.dev.agents import Named, agents_of, describe
from broker.wiring.dev.events import Event, Reading
from broker.wiring.dev.rigged import GUARDS, SAID, Rig, RiggedEngine, RiggedGuard
from broker.wiring.dev.site import FARTHEST, Site
from broker.wiring.serving import Daemon, running

SETTLE = 0.05  # seconds between two readings of the map: an editor's save is over by then
PATIENCE = 10.0  # seconds until what time has ended is dead
LOOK = 0.01
STEPS_END_BY = "stepcred-broker dev"


class DevBroker:
    """Used from one event loop; `start` comes first."""

    def __init__(
        self,
        folder: Path,
        map_file: Path,
        *,
        listen: Address,
        http: Address,
        values: Mapping[str, Mapping[str, str]],
        tell: Callable[[Event], None],
    ) -> None:
        """`values`: scope → what its credentials hold, from the start and after each reset. `tell`: of each event, once."""
        self._folder = folder
        self._given = map_file
        self._clock = MovableClock()
        self._backend = Backend(now=self._clock.now)
        self._rig = Rig()
        self._reading = Reading()
        self._turn = asyncio.Lock()
        self._look = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._daemon: Daemon | None = None
        self._listen, self._http = listen, http
        self._site: Site | None = None
        self._values = values
        self.tell = tell
        self.events: list[Event] = []  # since the last reset

    @property
    def site(self) -> Site:
        """Where everything lies. Raises RuntimeError before the start."""
        if self._site is None:
            raise RuntimeError("start comes first")
        return self._site

    @property
    def daemon(self) -> Daemon:
        """What serves. Raises RuntimeError while nothing does."""
        if self._daemon is None:
            raise RuntimeError("the broker is not running")
        return self._daemon

    @property
    def map(self) -> ScopeMap:
        """In force."""
        return self.daemon.core.policies.map

    @property
    def addr(self) -> str:
        """Where agents connect."""
        return str(self._listen)

    # --- its life ---

    async def start(self) -> None:
        """Serve the map that was given. Raises ScopeMapError, ConfigError, OSError."""
        await self._place(*await self._found(self._given))
        await self._serve()

    async def _found(self, path: Path) -> tuple[Path, ScopeMap]:
        return path, await asyncio.to_thread(maps.load_dev_map, path)

    async def _place(self, path: Path, found: ScopeMap) -> None:
        make = partial(Site.make, self._folder, path, found, listen=self._listen, http=self._http)
        self._site = await asyncio.to_thread(make)

    async def _serve(self) -> None:
        self._backend.values.update(self._values)
        daemon = await self._stack.enter_async_context(
            running(self.site.config(), clock=self._clock, build=self._build())
        )
        self._daemon = daemon
        self._listen = replace(self._listen, port=daemon.grpc_port)
        self._http = replace(self._http, port=daemon.http_port)
        self._site = replace(self.site, listen=self._listen, http=self._http)

    def _build(self) -> Build:
        table: dict[str, Provider] = {name: DevProvider(name, self._backend) for name in maps.kinds()}

        def providers(*_parts: object, **_more: object) -> dict[str, Provider]:
            return table

        return Build(
            kinds=_kinds,
            providers=providers,
            guard=lambda rules: RiggedGuard(rules, self._rig),
            engine=lambda core, refusals, door: RiggedEngine(core, refusals, door, self._rig),
            settle=SETTLE,
        )

    async def stop(self, *, revoke: bool) -> None:
        """Drain and give everything back; `revoke`: open steps end first."""
        if self._daemon is not None:
            await self._daemon.engine.drain(revoke=revoke)
            await self.look()
            self._daemon = None
            await self._stack.aclose()

    async def restart(self) -> None:
        """The process is stopped and started again: steps, leases and the last good map stay."""
        async with self._turn:
            await self.stop(revoke=False)
            await self._serve()

    async def reset(self, text: str | None = None) -> None:
        """Everything is forgotten, the clock runs with the machine again; with `text` by another map, of one file.

        Raises ScopeMapError, ConfigError: then nothing is done.
        """
        async with self._turn:
            path = self._given if text is None else await asyncio.to_thread(self._written, text)
            found = await self._found(path)
            await self.stop(revoke=False)
            self.site.forget()
            self._backend.clear()
            self._rig.clear()
            self._clock.reset()
            self._reading.restart()
            self.events.clear()
            await self._place(*found)
            await self._serve()

    def _written(self, text: str) -> Path:
        """In a folder of its own: the one that is in force is being watched."""
        path = Path(tempfile.mkdtemp(prefix="map-", dir=self._folder)) / "scopes.yaml"
        path.write_text(text)
        return path

    # --- what is looked at ---

    async def look(self) -> None:
        """Tell what has happened since the last look."""
        async with self._look:
            if self._daemon is None:
                return
            found = await self._reading.more(self._daemon.core.store)
            self.events += found
        for event in found:
            self.tell(event)

    async def state(self) -> dict[str, JsonValue]:
        """What happened, and what is alive."""
        await self.look()
        steps = await self.daemon.core.store.read(lambda tx: tx.open_steps())
        alive = [
            {"scope": one.scope, "lease_id": one.lease_id, "agent": one.agent, "until": one.until.isoformat()}
            for one in self._backend.alive()
        ]
        return {
            "now": self._clock.now().isoformat(),
            "events": [event.to_json() for event in self.events],
            "alive": alive,
            "open_steps": [
                {"workflow": one.key.workflow, "run": one.key.run, "step": one.key.step, "agent": one.key.agent}
                for one in steps
            ],
            "map_problem": self.daemon.core.policies.last_problem,
        }

    def accepts(self, value: str) -> bool:
        """Would what the credentials are for let this one in?"""
        return self._backend.accepts(value)

    def agents(self) -> list[Named]:
        """Whom the map speaks of."""
        return agents_of(self.map, self._clock.now())

    def describe(self, spiffe_id: str) -> Named:
        """What the map says of an agent."""
        return describe(self.map, spiffe_id, self._clock.now())

    # --- what is ordered ---

    async def advance(self, ahead: timedelta) -> None:
        """Time passes while everybody lives on; returns when what it has ended is dead. Raises ValueError."""
        if not timedelta(0) < ahead <= FARTHEST - self._clock.ahead:
            raise ValueError(
                f"the clock goes forward, and {FARTHEST.days} days in all: its certificates live no longer"
            )
        async with self._turn:
            await self._settled()  # nobody's last moment is missed by a jump
            self._clock.move(ahead)
            await self._settled()

    async def expire(self, scope: str = "") -> None:
        """To the end of all that is alive, or of what is alive of a scope. Raises ValueError when nothing is."""
        ends = [one.until for one in self._backend.alive() if scope in ("", one.scope)]
        if not ends:
            raise ValueError(f"nothing is alive{f' of {scope}' if scope else ''}")
        await self.advance(max(ends) - self._clock.now() + timedelta(seconds=1))

    async def end_steps(self) -> None:
        """As an operator would end every step."""
        order = Order(by=STEPS_END_BY, reason="told to")
        await self.daemon.engine.orders.revoke(Selection(everything=True), order, end_steps=True)
        await self._settled()

    async def refuse(self, scope: str, reason: str, times: int | None) -> None:
        """From now on, `times` times or until `allow`. Raises ValueError."""
        self._must_be_known(scope)
        known = {one.value: one for one in (*GUARDS, *SAID, Reason.FROZEN, Reason.PROVIDER_FAILED)}
        if reason not in known:
            raise ValueError(f"{reason!r} cannot be brought about; there are {', '.join(sorted(known))}")
        if known[reason] is Reason.PROVIDER_FAILED:
            self._backend.fail(scope, Failure.REFUSED, times or 1_000_000)
        elif known[reason] is Reason.FROZEN:
            if times is not None:
                raise ValueError("a freeze counts nothing: leave times out, and lift it with allow")
            await self._freeze(scope)
        else:
            self._rig.plan(scope, known[reason], times)

    async def _freeze(self, scope: str) -> None:
        by, at = STEPS_END_BY, self._clock.now()
        freeze = Freeze(id=new_freeze_id(), by=by, reason="told to", at=at, scope=scope)
        await self.daemon.engine.orders.freeze(freeze, Order(by=by, reason="told to"))

    async def allow(self, scope: str) -> None:
        """Nothing is refused or failing on order any more; a lock of the guard's stands."""
        self._rig.allow(scope)
        for how in Failure:
            self._backend.fail(scope, how, 0)
        orders, order = self.daemon.engine.orders, Order(by=STEPS_END_BY, reason="told to")
        for freeze in await self.daemon.core.store.read(lambda tx: tx.freezes()):
            if freeze.scope == scope:
                await orders.unfreeze(freeze.id, order)

    def fail(self, scope: str, how: str, times: int) -> None:
        """The provider fails so many times from now on. Raises ValueError."""
        self._must_be_known(scope)
        if how not in {one.value for one in Failure}:
            raise ValueError(f"it fails as {', '.join(one.value for one in Failure)}, not {how!r}")
        self._backend.fail(scope, Failure(how), times)

    def hold(self, scope: str, values: Mapping[str, str]) -> None:
        """What credentials of this scope hold from now on. Raises ValueError."""
        self._must_be_known(scope)
        self._backend.values[scope] = values

    def _must_be_known(self, scope: str) -> None:
        if scope not in self.map.scopes:
            raise ValueError(f"no scope is named {scope!r}; there are {', '.join(sorted(self.map.scopes))}")

    async def _settled(self) -> None:
        """Until nothing is left that ends now."""
        core, until = self.daemon.core, asyncio.get_running_loop().time() + PATIENCE

        def left(tx: Tx) -> bool:
            now = self._clock.moment()
            dying = [one for one in tx.due_leases(now.wall, 1) if one.state is not LeaseState.INTENT]
            over = any(past_deadline(step, now) >= timedelta(0) for step in tx.open_steps())
            return bool(dying) or over or bool(tx.live_past(now))

        while await core.store.read(left):
            if asyncio.get_running_loop().time() > until:
                raise ConfigError(["what has ended is not dead after 10 s; is something told not to be revoked?"])
            core.lane.set()
            await asyncio.sleep(LOOK)


def _kinds(_config: object, _roles: Roles) -> Mapping[str, ScopeKind]:
    return maps.kinds()
