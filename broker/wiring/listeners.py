"""The front door and the listeners behind it, from the config: who is let in, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import grpc.aio

from broker.clock import Clock
from broker.config import Config, Limits, StaleCrl, Tls
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.identity import Authenticator, CertificatePolicy, FrontDoor, verify
from broker.identity.door import DomainSources
from broker.identity.files import DomainFiles, deny_file, domain_sources, server_files
from broker.identity.pushed import pushed_bundle, pushed_server
from broker.identity.server_pair import ServerPair
from broker.identity.source import Source
from broker.identity.workload_api import WorkloadApi
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.refusals import Refusals
from broker.rpc import limits as front
from broker.rpc import server as rpc
from broker.rpc.admission import Admit, as_agent, as_operator
from broker.rpc.methods import BROKER, OPERATOR, Service
from broker.rpc.operators.parts import Parts
from broker.rpc.operators.servicer import OperatorServicer
from broker.rpc.pipeline import Pipeline
from broker.rpc.places import Places
from broker.rpc.servicer import Servicer

OPERATOR_CONNECTIONS = 64  # in-house bound: people and their tools, not a fleet
AGENT_WAIT = timedelta(seconds=30)  # for a SPIFFE agent, which hears of a new entry within 5 to 10


def spiffe_agent(config: Config, clock: Clock) -> WorkloadApi | None:
    """What pushes the server's pair and the bundles, where there are no files of them; to be closed. Blocks.

    Raises ConfigError, and NoIdentity when it gives none in time.
    """
    if config.tls.workload_api is None:
        return None
    api = WorkloadApi(config.tls.workload_api, clock, trust_domain=config.trust_domain, spiffe_id=config.tls.spiffe_id)
    api.start(AGENT_WAIT)
    return api


def front_door(config: Config, clock: Clock, agent: WorkloadApi | None = None) -> FrontDoor:
    """Everything read and checked. Raises ConfigError."""
    tls = config.tls
    agents = {config.trust_domain: _domain(config.trust_domain, tls.client_ca_file, tls.crl_files, "agents'", agent)}
    for name, other in config.federation.items():
        agents[name] = _domain(name, other.client_ca_file, other.crl_files, f"{name}'s", agent)
    operators = {}
    if config.operators is not None:
        files = DomainFiles(bundle=config.operators.client_ca_file, crls=config.operators.crl_files)
        operators[config.trust_domain] = files.sources("operators'")
    return FrontDoor(
        agents=agents,
        operators=operators,
        deny_list=deny_file(tls.deny_file) if tls.deny_file else None,
        server=_server(tls, clock, agent),
        agent=agent,
    )


def _domain(
    name: str, bundle: Path | None, crls: Sequence[Path], whose: str, agent: WorkloadApi | None
) -> DomainSources:
    if bundle is not None:
        return DomainFiles(bundle=bundle, crls=crls).sources(whose)
    assert agent is not None  # noqa: S101 - the config has one or the other
    return domain_sources(pushed_bundle(agent, name, f"{whose} trust bundle"), crls, whose)


def _server(tls: Tls, clock: Clock, agent: WorkloadApi | None) -> Source[ServerPair]:
    if agent is not None:
        return pushed_server(agent, clock.now)
    assert tls.cert_file is not None  # noqa: S101 - the config has one or the other
    assert tls.key_file is not None  # noqa: S101
    return server_files(tls.cert_file, tls.key_file, clock.now)


def files_reserved(config: Config) -> int:
    """File descriptors that connections of agents must leave."""
    return front.reserve(config.limits, config.vault, config.aws) + OPERATOR_CONNECTIONS * bool(config.operators)


def agents_listener(  # noqa: PLR0917 - what a listener is made of, in one order
    config: Config, limits: Limits, core: Core, engine: Engine, door: FrontDoor, refusals: Refusals
) -> tuple[grpc.aio.Server, int]:
    """Unstarted, and its port. Raises ConfigError."""
    authenticator = Authenticator(door, core.clock, _policy(config))
    return rpc.build(
        listen=str(config.listen.grpc),
        setting="listen.grpc",
        credentials=rpc.credentials(door, verify.agents),
        limits=limits,
        pipeline=_pipeline(BROKER, limits, core, authenticator, refusals),
        servicer=Servicer(engine, core.policies, config.timings, core.clock, limits),
    )


def operators_listener(config: Config, limits: Limits, parts: Parts, refusals: Refusals) -> tuple[grpc.aio.Server, int]:
    """The same for operators: roots, limits and connections of its own, so that no agent stands in their way."""
    assert config.operators is not None  # noqa: S101 - asked for only where there are some
    limits = replace(limits, max_connections=OPERATOR_CONNECTIONS)
    authenticator = Authenticator(parts.door, parts.core.clock, _policy(config), side=verify.operators)
    admit = as_operator(parts.registry)
    return rpc.build(
        listen=str(config.operators.listen),
        setting="operators.listen",
        credentials=rpc.credentials(parts.door, verify.operators),
        limits=limits,
        pipeline=_pipeline(OPERATOR, limits, parts.core, authenticator, refusals, admit=admit),
        servicer=OperatorServicer(parts),
    )


def _policy(config: Config) -> CertificatePolicy:
    return CertificatePolicy(
        max_lifetime=config.tls.max_client_certificate_life, refuse_stale_crl=config.tls.stale_crl is StaleCrl.REFUSE
    )


def _pipeline(
    service: Service,
    limits: Limits,
    core: Core,
    authenticator: Authenticator,
    refusals: Refusals,
    *,
    admit: Admit = as_agent,
) -> Pipeline:
    return Pipeline(
        service,
        authenticator=authenticator,
        limiter=RequestLimiter(RateLimit(per_second=limits.request_rate, burst=limits.request_burst)),
        refusals=refusals,
        metrics=core.metrics,
        clock=core.clock,
        places=Places(room=limits.room, most=limits.max_agent_rpcs),
        max_metadata=limits.max_metadata_bytes,
        admit=admit,
    )
