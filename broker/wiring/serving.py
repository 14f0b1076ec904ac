"""A daemon, from its config: everything is started in order, and stopped in the reverse one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker.clock import Clock, SystemClock
from broker.config import Config
from broker.guard.denials import DenialCounter
from broker.guard.tiers import rules_of
from broker.http.readiness import Readiness
from broker.http.server import HttpServer
from broker.identity import FrontDoor
from broker.leases.approving import Approving
from broker.leases.core import Core, open_refs
from broker.leases.engine import Engine
from broker.leases.epoch import EpochKeeper
from broker.leases.refusals import Refusals
from broker.log import get_logger
from broker.metrics import Metrics
from broker.operators.registry import Registry
from broker.policy.live.holder import Policies
from broker.policy.live.watch import Watcher
from broker.process import raise_file_limit
from broker.providers.aws.roles import Roles
from broker.rpc import limits as front
from broker.store.anchoring import Anchoring
from broker.store.base import Store
from broker.store.mint_keys import fitting_keyring, read_again
from broker.store.sqlite import open_store
from broker.wiring import adapters, surveying
from broker.wiring.alerting import Watched, alerting
from broker.wiring.build import Build
from broker.wiring.listeners import agents_listener, files_reserved, front_door, operators_listener, spiffe_agent
from broker.wiring.people import approvals_off, operators_parts, registry_of

log = get_logger(__name__)

STOP_GRACE = 2.0  # seconds for calls in flight after the drain


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """A broker that serves."""

    engine: Engine
    core: Core
    grpc_port: int
    http_port: int
    registry: Registry
    mint_key_file: Path

    async def reload_keys(self) -> bool:
        """Take a rotated mint key into use. True when there was one. Raises ConfigError, StoreError."""
        return await read_again(self.core.store, self.core.keyring, self.mint_key_file)


@asynccontextmanager
async def running(config: Config, *, clock: Clock | None = None, build: Build | None = None) -> AsyncIterator[Daemon]:
    """Start everything in order, and stop it in the reverse one.

    Raises ConfigError, ScopeMapError, StoreError, NoIdentity, and OSError for an http address that is taken.
    """
    clock, build = clock or SystemClock(), build or Build()
    limits = front.within(config.limits, files=raise_file_limit(), reserved=files_reserved(config))
    async with AsyncExitStack() as stack:
        agent = await asyncio.to_thread(spiffe_agent, config, clock)
        if agent is not None:
            stack.callback(agent.close)
        door = front_door(config, clock, agent)
        store = open_store(config.store.path)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        anchoring = Anchoring(store, config.store.anchor, clock, metrics)
        await anchoring.must_fit()  # before anything is written
        stack.push_async_callback(anchoring.close)
        core, registry = await _core(stack, store, config, clock, metrics, door, build)
        refusals = Refusals(core.store, clock, core.metrics, DenialCounter())
        engine = build.engine(core, refusals, door)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await core.policies.load_initial(core.store, clock)  # journalled, so in an epoch
        _remark_on_folders(config, core.policies.folders())
        watcher = Watcher(core.policies, poll=config.scopes.poll, events=config.scopes.watch)
        await stack.enter_async_context(watcher.watching())
        await stack.enter_async_context(surveying.again(core.providers, core.policies, clock))
        await stack.enter_async_context(anchoring.kept())
        await engine.settle_door()
        await registry.start()
        await stack.enter_async_context(registry.watching())
        await stack.enter_async_context(alerting(config, _watched(core, engine, door, anchoring, registry)))
        listeners = {"agents": agents_listener(config, limits, core, engine, door, refusals)}
        readiness = Readiness(core, engine, door, registry)
        stack.enter_context(readiness.watching())
        if config.operators is not None:
            parts = operators_parts(config, core, engine, door, registry, readiness)
            listeners["operators"] = operators_listener(config, limits, parts, refusals)
        http_port = await _http(stack, config, core, readiness)
        for whose, (server, port) in listeners.items():
            await server.start()
            stack.push_async_callback(server.stop, STOP_GRACE)
            log.info("serving", whom=whose, port=port, environment=config.environment)
        yield Daemon(
            engine=engine,
            core=core,
            grpc_port=listeners["agents"][1],
            http_port=http_port,
            registry=registry,
            mint_key_file=config.store.mint_key_file,
        )


def _remark_on_folders(config: Config, watched: Collection[Path]) -> None:
    """Each page of the database that is written is an event there: 25 an issue, which took a tenth of its CPU (measured)."""
    if config.scopes.watch and config.store.path.resolve().parent in watched:
        log.info(
            "the database lies in a folder of the scope map, and each write to it wakes the watch for changes; "
            "give it a folder of its own",
            folder=str(config.store.path.parent),
        )


async def _http(stack: AsyncExitStack, config: Config, core: Core, readiness: Readiness) -> int:
    """Health and metrics, given back by `stack`. The port. Raises OSError."""
    http = HttpServer(
        config.listen.http, registry=core.metrics.registry, not_ready=readiness.problems, remarks=readiness.remarks
    )
    stack.push_async_callback(http.stop)
    return await http.start()


def _watched(core: Core, engine: Engine, door: FrontDoor, anchoring: Anchoring, registry: Registry) -> Watched:
    """What alerts are about."""
    return Watched(
        core=core,
        door=door,
        anchoring=anchoring,
        door_overdue=lambda: engine.door_overdue,
        operators_problem=lambda: registry.problem,
    )


async def _core(  # noqa: PLR0917 - what it is made of, in one order
    stack: AsyncExitStack, store: Store, config: Config, clock: Clock, metrics: Metrics, door: FrontDoor, build: Build
) -> tuple[Core, Registry]:
    """Keys, policy, guard and providers, each given back by `stack`; and who operators are."""
    ring, control = await fitting_keyring(store, config.store.mint_key_file)
    epoch = EpochKeeper(store, clock, config.timings, replica=socket.gethostname())
    roles = Roles()
    table = build.providers(
        config,
        ring,
        control.installation,
        clock,
        lambda: epoch.id,
        known_children=lambda name: store.read(lambda tx: tx.known_children(name)),
        open_leases=lambda name: store.read(lambda tx: open_refs(tx, name)),
        roles=roles,
    )
    for provider in table.values():
        stack.push_async_callback(provider.close)
    policies = Policies(
        config.scopes.file,
        build.kinds(config, roles),
        environment=config.environment,
        trust_domain=config.trust_domain,
        federations=config.federation,
        verifier=adapters.map_verifier(config),
        settle=build.settle,
        metrics=metrics,
        learn=partial(surveying.survey, table),
    )
    registry = registry_of(config, store, clock, epoch)
    core = Core(
        store=store,
        clock=clock,
        timings=config.timings,
        keyring=ring,
        policies=policies,
        guard=build.guard(rules_of(config.guard, policies.limits)),
        providers=table,
        epoch=epoch,
        metrics=metrics,
        grace=config.scopes.grace,
        approving=Approving(times=config.approvals, off=approvals_off(registry, policies)),
        denies=door.denies,
    )
    return core, registry
