"""A daemon, from its config: everything is started in order, and stopped in the reverse one."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.clock import Clock, SystemClock
from broker.config import Config
from broker.config.certificates import server_certificate_problems
from broker.errors import ConfigError
from broker.guard.denials import DenialCounter
from broker.guard.guard import Guard
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.guard.tiers import configured
from broker.http.readiness import Readiness
from broker.http.server import HttpServer
from broker.identity import Authenticator, CertificatePolicy, TrustStore
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.epoch import EpochKeeper
from broker.leases.refusals import Refusals
from broker.log import get_logger
from broker.metrics import Metrics
from broker.policy.live.holder import SETTLE, Policies
from broker.policy.live.watch import Watcher
from broker.rpc import server as rpc
from broker.rpc.pipeline import Pipeline
from broker.rpc.servicer import Servicer
from broker.store.anchoring import Anchoring
from broker.store.base import Store
from broker.store.mint_keys import fitting_keyring, read_again
from broker.store.sqlite import open_store
from broker.wiring import adapters

log = get_logger(__name__)

STOP_GRACE = 2.0  # seconds for calls in flight after the drain


@dataclass(frozen=True, kw_only=True, slots=True)
class Daemon:
    """A broker that serves."""

    engine: Engine
    core: Core
    trust: TrustStore
    grpc_port: int
    http_port: int
    mint_key_file: Path

    async def reload_keys(self) -> bool:
        """Take a rotated mint key into use. True when there was one. Raises ConfigError, StoreError."""
        return await read_again(self.core.store, self.core.keyring, self.mint_key_file)


@asynccontextmanager
async def running(config: Config, *, clock: Clock | None = None) -> AsyncIterator[Daemon]:
    """Start everything in order, and stop it in the reverse one.

    Raises ConfigError, ScopeMapError, StoreError, and OSError for an http address that is taken.
    """
    clock = clock or SystemClock()
    if problems := server_certificate_problems(config.tls, clock.now()):
        raise ConfigError(problems)
    trust = TrustStore(config.tls.client_ca_file)
    async with AsyncExitStack() as stack:
        store = open_store(config.store.path)
        stack.push_async_callback(store.close)
        metrics = Metrics()
        anchoring = Anchoring(store, config.store.anchor, clock, metrics)
        await anchoring.must_fit()  # before anything is written
        stack.push_async_callback(anchoring.close)
        core = await _core(stack, store, config, clock, metrics)
        refusals = Refusals(core.store, clock, core.metrics, DenialCounter())
        engine = Engine(core, refusals)
        stack.push_async_callback(engine.stop)
        await engine.start()
        await core.policies.load_initial(core.store, clock)  # journalled, so in an epoch
        watcher = Watcher(core.policies, poll=config.scopes.poll, events=config.scopes.watch)
        await stack.enter_async_context(watcher.watching())
        await stack.enter_async_context(anchoring.kept())
        grpc_server, grpc_port = rpc.build(
            listen=str(config.listen.grpc),
            credentials=rpc.credentials(config.tls, trust),
            limits=config.limits,
            pipeline=_pipeline(config, core, trust, refusals),
            servicer=Servicer(engine, core.policies, config.timings, clock),
        )
        readiness = Readiness(core, engine)
        stack.enter_context(readiness.watching())
        http = HttpServer(
            config.listen.http, registry=core.metrics.registry, not_ready=readiness.problems, remarks=readiness.remarks
        )
        stack.push_async_callback(http.stop)
        http_port = await http.start()
        await grpc_server.start()
        stack.push_async_callback(grpc_server.stop, STOP_GRACE)
        log.info("serving", address=f"{config.listen.grpc.host}:{grpc_port}", environment=config.environment)
        yield Daemon(
            engine=engine,
            core=core,
            trust=trust,
            grpc_port=grpc_port,
            http_port=http_port,
            mint_key_file=config.store.mint_key_file,
        )


async def _core(stack: AsyncExitStack, store: Store, config: Config, clock: Clock, metrics: Metrics) -> Core:
    """Keys, policy, guard and providers, each given back by `stack`."""
    ring, control = await fitting_keyring(store, config.store.mint_key_file)
    epoch = EpochKeeper(store, clock, config.timings, replica=socket.gethostname())
    table = adapters.providers(
        config,
        ring,
        control.installation,
        clock,
        lambda: epoch.id,
        known_children=lambda name: store.read(lambda tx: tx.known_children(name)),
    )
    for provider in table.values():
        stack.push_async_callback(provider.close)
    return Core(
        store=store,
        clock=clock,
        timings=config.timings,
        keyring=ring,
        policies=Policies(
            config.scopes.file,
            adapters.scope_kinds(config),
            environment=config.environment,
            trust_domain=config.trust_domain,
            federations=(),
            verifier=adapters.map_verifier(config),
            settle=SETTLE,
            metrics=metrics,
        ),
        guard=Guard(configured(config.guard)),
        providers=table,
        epoch=epoch,
        metrics=metrics,
        grace=config.scopes.grace,
    )


def _pipeline(config: Config, core: Core, trust: TrustStore, refusals: Refusals) -> Pipeline:
    """Who is let in, and how often."""
    policy = CertificatePolicy(trust_domain=config.trust_domain, max_lifetime=config.tls.max_client_certificate_life)
    limits = config.limits
    return Pipeline(
        authenticator=Authenticator(trust, core.clock, policy),
        limiter=RequestLimiter(RateLimit(per_second=limits.request_rate, burst=limits.request_burst)),
        refusals=refusals,
        metrics=core.metrics,
        clock=core.clock,
        max_metadata=limits.max_metadata_bytes,
    )
