"""A broker that can be restarted, begun anew, moved in time, and told to refuse. Nothing of it outlives its folder."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

from broker.clock import MovableClock
from broker.config import Address
from broker.model import JsonValue, ScopeKind
from broker.policy.scope_map import ScopeMap
from broker.providers.aws.roles import Roles
from broker.providers.base import Provider
from broker.providers.dev.backend import Backend
from broker.providers.dev.provider import DevProvider
from broker.wiring.build import Build
from broker.wiring.dev import maps
from broker.wiring.dev.agents import Named, agents_of, describe
from broker.wiring.dev.events import Event, Reading
from broker.wiring.dev.rigged import Rig, RiggedEngine, RiggedGuard
from broker.wiring.dev.site import Site
from broker.wiring.serving import Daemon, running

SETTLE = 0.05  # seconds between two readings of the map: an editor's save is over by then


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
        self.clock = MovableClock()
        self.backend = Backend(now=self.clock.now)
        self.rig = Rig()
        self._reading = Reading()
        self.turn = asyncio.Lock()
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
        self.backend.values.update(self._values)
        daemon = await self._stack.enter_async_context(
            running(self.site.config(), clock=self.clock, build=self._build())
        )
        self._daemon = daemon
        self._listen = replace(self._listen, port=daemon.grpc_port)
        self._http = replace(self._http, port=daemon.http_port)
        self._site = replace(self.site, listen=self._listen, http=self._http)

    def _build(self) -> Build:
        table: dict[str, Provider] = {name: DevProvider(name, self.backend) for name in maps.kinds()}

        def providers(*_parts: object, **_more: object) -> dict[str, Provider]:
            return table

        return Build(
            kinds=_kinds,
            providers=providers,
            guard=lambda rules: RiggedGuard(rules, self.rig),
            engine=lambda core, refusals, door: RiggedEngine(core, refusals, door, self.rig),
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
        async with self.turn:
            await self.stop(revoke=False)
            await self._serve()

    async def reset(self, text: str | None = None) -> None:
        """Everything is forgotten, the clock runs with the machine again; with `text` by another map, of one file.

        Raises ScopeMapError, ConfigError: then nothing is done.
        """
        async with self.turn:
            path = self._given if text is None else await asyncio.to_thread(self._written, text)
            found = await self._found(path)
            await self.stop(revoke=False)
            self.site.forget()
            self.backend.clear()
            self.rig.clear()
            self.clock.reset()
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
            for one in self.backend.alive()
        ]
        return {
            "now": self.clock.now().isoformat(),
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
        return self.backend.accepts(value)

    def agents(self) -> list[Named]:
        """Whom the map speaks of."""
        return agents_of(self.map, self.clock.now())

    def describe(self, spiffe_id: str) -> Named:
        """What the map says of an agent."""
        return describe(self.map, spiffe_id, self.clock.now())


def _kinds(_config: object, _roles: Roles) -> Mapping[str, ScopeKind]:
    return maps.kinds()
