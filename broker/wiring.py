"""The composition root: the only importer of concrete adapters, as an explicit table."""

from __future__ import annotations

import shlex
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from broker import keyring
from broker.clock import Clock, SystemClock
from broker.config import Aws, Config, Vault
from broker.config.certificates import server_certificate_problems
from broker.errors import ConfigError
from broker.guard.denials import DenialCounter
from broker.guard.guard import Guard
from broker.guard.limiter import RateLimit, RequestLimiter
from broker.guard.tiers import configured
from broker.http.readiness import Readiness
from broker.http.server import HttpServer
from broker.identity import Authenticator, CertificatePolicy, TrustStore
from broker.keyring import Keyring
from broker.leases import recovery
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.epoch import EpochKeeper
from broker.leases.refusals import Refusals
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Lease, ScopeKind
from broker.policy.holder import Policies
from broker.policy.load import load
from broker.providers.aws.scope import AwsScope
from broker.providers.base import ChecksScopes, DeclaredScope, Findings, Provider, Remarks
from broker.providers.vault.needs import needs_of
from broker.providers.vault.provision import Plan, clashes, plan_of
from broker.providers.vault.scope import ROLE, VaultScope, is_segment
from broker.providers.vault.settings import Auth, in_root
from broker.rpc import server as rpc
from broker.rpc.pipeline import Pipeline
from broker.rpc.servicer import Servicer
from broker.secret import Secret
from broker.store.anchoring import Anchoring
from broker.store.base import Store
from broker.store.mint_keys import fitting_keyring, read_again
from broker.store.sqlite import open_store

log = get_logger(__name__)

STOP_GRACE = 2.0  # seconds for calls in flight after the drain


def scope_kinds(config: Config | None = None) -> Mapping[str, ScopeKind]:
    """Every provider block that a scope map may hold; the tomb role is for no scope of a broker that has it."""
    tomb = [config.vault.tomb_role] if config and config.vault else []
    kinds: tuple[ScopeKind, ...] = (VaultScope(tomb), AwsScope())
    return {kind.name: kind for kind in kinds}


def providers(
    config: Config,
    ring: Keyring,
    installation: str,
    clock: Clock,
    epoch: Callable[[], int],
    *,
    known_children: Callable[[str], Awaitable[frozenset[str]]],
) -> dict[str, Provider]:
    """Every configured provider. Their SDKs are imported only when used."""
    table: dict[str, Provider] = {}
    if config.vault is not None:
        table["vault"] = _vault(
            config.vault, config.timings.mint_timeout, ring, installation, clock, lambda: known_children("vault")
        )
    if config.aws is not None:
        table["aws"] = _aws(config.aws, installation, clock, epoch)
    return table


def _vault(  # noqa: PLR0917 - what a provider is made of, in one order
    settings: Vault,
    mint_timeout: timedelta,
    ring: Keyring,
    installation: str,
    clock: Clock,
    known: Callable[[], Awaitable[frozenset[str]]],
) -> Provider:
    from broker.providers.vault.provider import VaultProvider
    from broker.providers.vault.settings import VaultSettings

    return VaultProvider(
        VaultSettings(
            address=settings.address,
            auth=_vault_auth(settings),
            namespace=settings.namespace or "",
            ca_file=settings.ca_file,
            tomb_role=settings.tomb_role,
            connect_timeout=settings.connect_timeout.total_seconds(),
            request_timeout=settings.request_timeout.total_seconds(),
            request_limit_seconds=settings.request_limit.total_seconds(),
            max_connections=settings.max_connections,
            mint_timeout=mint_timeout.total_seconds(),
        ),
        ring,
        installation,
        clock,
        known=known,
    )


def _vault_auth(settings: Vault) -> Auth:
    from broker.providers.vault.settings import AppRole, Cert, Kubernetes, TokenFile

    if (approle := settings.approle) is not None:
        return AppRole(role_id=approle.role_id, secret_id_file=approle.secret_id_file, mount=approle.mount)
    if (cert := settings.cert) is not None:
        return Cert(cert_file=cert.cert_file, key_file=cert.key_file, role=cert.role, mount=cert.mount)
    if (kubernetes := settings.kubernetes) is not None:
        return Kubernetes(role=kubernetes.role, jwt_file=kubernetes.jwt_file, mount=kubernetes.mount)
    assert settings.token_file is not None  # noqa: S101 - the config allows exactly one of the four
    return TokenFile(path=settings.token_file)


def _aws(settings: Aws, installation: str, clock: Clock, epoch: Callable[[], int]) -> Provider:
    from broker.providers.aws.provider import AwsProvider
    from broker.providers.aws.settings import AwsSettings

    return AwsProvider(
        AwsSettings(
            installation=installation,
            sts_region=settings.region,
            endpoint_url=settings.endpoint_url,
            iam_endpoint_url=settings.iam_endpoint_url,
            access_key_id=settings.access_key_id,
            secret_access_key_file=settings.secret_access_key_file,
            connect_timeout=settings.connect_timeout,
            read_timeout=settings.read_timeout,
            mint_workers=settings.mint_workers,
            revoke_workers=settings.revoke_workers,
        ),
        clock,
        epoch=epoch,
    )


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
        core.metrics.policy_generation(core.policies.generation)
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
        http = HttpServer(config.listen.http, registry=core.metrics.registry, not_ready=readiness.problems)
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
    table = providers(
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
            config.scopes.file, scope_kinds(config), environment=config.environment, trust_domain=config.trust_domain
        ),
        guard=Guard(configured(config.guard)),
        providers=table,
        epoch=epoch,
        metrics=metrics,
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


async def _nobody(_provider: str) -> frozenset[str]:
    return frozenset()


def declared_scopes(config: Config) -> dict[str, list[DeclaredScope]]:
    """Provider → its scopes, as the map declares them. Raises ScopeMapError."""
    scope_map = load(
        config.scopes.file, scope_kinds(config), environment=config.environment, trust_domain=config.trust_domain
    )
    found: dict[str, list[DeclaredScope]] = {}
    for scope in scope_map.scopes.values():
        found.setdefault(scope.provider, []).append(DeclaredScope(block=scope.block, ttl=scope.ttl))
    return found


async def recover(config: Config, asked: recovery.Request) -> tuple[recovery.Report, list[str]]:
    """After a restore or a loss: the daemon must be stopped, and stays frozen. Also what kept the anchor from being written.

    Raises, before anything is changed, ConfigError, ScopeMapError, NotAllowed, ProviderError, StoreError (in use).
    """
    clock, scopes = SystemClock(), declared_scopes(config)
    async with AsyncExitStack() as stack:
        store = open_store(config.store.path)
        stack.push_async_callback(store.close)
        ring, control = await fitting_keyring(store, config.store.mint_key_file)
        table = providers(config, ring, control.installation, clock, lambda: 0, known_children=_nobody)
        for provider in table.values():
            stack.push_async_callback(provider.close)
        anchoring = Anchoring(store, config.store.anchor, clock)
        report = await recovery.recover(
            store, table, scopes, asked, lost=anchoring.lost(), clock=clock, replica=socket.gethostname()
        )
        if report.unanswered:  # the old anchor goes on refusing the database
            return report, []
        try:
            await anchoring.write_now()
        except ConfigError as error:
            return report, error.problems
        return report, []


async def unfreeze(config: Config) -> bool:
    """Let the stopped broker mint again. False when it was not frozen. Raises ConfigError, StoreError."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        store = open_store(config.store.path)
        stack.push_async_callback(store.close)
        anchoring = Anchoring(store, config.store.anchor, clock)
        await anchoring.must_fit()
        changed = await store.write(lambda tx: recovery.unfreeze(tx, clock.now()))
        await anchoring.write_now()
        return changed


async def recheck(config: Config, leases: Sequence[Lease], operator: Secret | None) -> recovery.Rechecked:
    """Ask the providers again about ended leases."""
    ring = Keyring({"none": bytes(keyring.KEY_BYTES)}, "none")  # their nonces are erased
    table = providers(config, ring, "recheck", SystemClock(), lambda: 0, known_children=_nobody)
    try:
        return await recovery.recheck(leases, table, operator)
    finally:
        for provider in table.values():
            await provider.close()


async def check_live(config: Config) -> Findings:
    """What keeps the configured providers from minting, asked of themselves. Raises ConfigError, ScopeMapError."""
    declared = declared_scopes(config)
    ring = Keyring({"none": bytes(keyring.KEY_BYTES)}, "none")  # nothing is minted
    found = Findings()
    for name, provider in providers(config, ring, "check", SystemClock(), lambda: 0, known_children=_nobody).items():
        asked = (
            provider.check_scopes(declared.get(name, [])) if isinstance(provider, ChecksScopes) else provider.check()
        )
        try:
            told = await asked
        finally:
            await provider.close()
        found += [f"{name}: {problem}" for problem in told]
        if isinstance(told, Findings):
            found.remarks += [f"{name}: {remark}" for remark in told.remarks]
            found.remedy = found.remedy or told.remedy.replace("{map}", shlex.quote(str(config.scopes.file)))
    return found


def remarks(config: Config) -> list[str]:
    """What the operator should know of the configured providers, without asking them."""
    ring = Keyring({"none": bytes(keyring.KEY_BYTES)}, "none")
    table = providers(config, ring, "check", SystemClock(), lambda: 0, known_children=_nobody)
    return [
        f"{name}: {remark}"
        for name, provider in table.items()
        if isinstance(provider, Remarks)
        for remark in provider.remarks()
    ]


def vault_plan(scopes: Sequence[DeclaredScope], *, namespace: str, tomb_role: str, broker_policy: str) -> Plan:
    """What must be installed for these scopes. Raises ValueError on names that are none, or clash."""
    found = [f"{name!r} is no name of a-z 0-9 _ . -" for name in (tomb_role, broker_policy) if not ROLE.fullmatch(name)]
    parts = filter(None, namespace.strip("/").split("/"))
    found += [f"{name!r} is no name of letters, digits, '_', '.', '-'" for name in parts if not is_segment(name)]
    needs = needs_of(
        scopes,
        tomb_role=tomb_role,
        chooses_ids=in_root(namespace),
        renews=True,
        broker_policies=[broker_policy],
    )
    if found := found or clashes(needs):
        raise ValueError("; ".join(found))
    return plan_of(needs, namespace=namespace)


async def vault_drift(plan: Plan, *, address: str, token: Secret, ca_file: Path | None) -> list[str]:
    """How a live server differs from a plan. Raises ProviderError."""
    from broker.providers.vault.drift import drift

    return await drift(plan, address=address, token=token, ca_file=ca_file)
