"""What commands do without a daemon: ask the providers, recover, look again."""

from __future__ import annotations

import shlex
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

from broker import keyring
from broker.clock import SystemClock
from broker.config import Config
from broker.errors import ConfigError
from broker.keyring import Keyring
from broker.leases import recovery
from broker.model import Lease
from broker.policy.live.source import Source
from broker.policy.scope_map import ScopeMap
from broker.providers.aws import provision as aws_provision
from broker.providers.aws.provision import Plan as AwsPlan
from broker.providers.base import ChecksScopes, DeclaredScope, Findings, KnowsTime, LeaseRef, Provider, Remarks
from broker.providers.vault.needs import needs_of
from broker.providers.vault.provision import Plan, clashes, plan_of
from broker.providers.vault.scope import ROLE, is_segment
from broker.providers.vault.settings import in_root
from broker.secret import Secret
from broker.store.anchoring import Anchoring
from broker.store.mint_keys import fitting_keyring, remember
from broker.store.sqlite import open_store
from broker.wiring import adapters
from broker.wiring.surveying import declared

_CLOCK_REMARK = timedelta(seconds=5)


async def _none(_provider: str) -> Sequence[LeaseRef]:
    return ()


async def _nobody(_provider: str) -> frozenset[str]:
    return frozenset()


def scope_map(config: Config) -> ScopeMap:
    """The one that the config names, signed where it must be, every file good. Raises ConfigError, ScopeMapError."""
    source = Source(
        path=config.scopes.file,
        kinds=adapters.scope_kinds(config),
        environment=config.environment,
        trust_domain=config.trust_domain,
        federations=config.federation,
        verifier=adapters.map_verifier(config),
    )
    return source.load(SystemClock().now()).map


def declared_scopes(config: Config) -> dict[str, list[DeclaredScope]]:
    """Provider → its scopes, as the map declares them. Raises ScopeMapError."""
    found: dict[str, list[DeclaredScope]] = {}
    for scope in scope_map(config).scopes.values():
        found.setdefault(scope.provider, []).append(declared(scope))
    return found


async def recover(config: Config, asked: recovery.Request) -> tuple[recovery.Report, list[str]]:
    """After a restore or a loss: the daemon must be stopped, and stays frozen. Also what kept the anchor from being written.

    Raises, before anything is changed, ConfigError, ScopeMapError, NotAllowed, ProviderError, StoreError (in use).
    """
    clock, scopes = SystemClock(), declared_scopes(config)
    async with AsyncExitStack() as stack:
        store = open_store(config.store.path)
        stack.push_async_callback(store.close)
        ring, control = await fitting_keyring(store, config.store.mint_key_file, recovering=True)
        table = adapters.providers(
            config, ring, control.installation, clock, lambda: 0, known_children=_nobody, open_leases=_none
        )
        for provider in table.values():
            stack.push_async_callback(provider.close)
        anchoring = Anchoring(store, config.store.anchor, clock)
        try:
            report = await recovery.recover(
                store, table, scopes, asked, lost=anchoring.lost(), clock=clock, replica=socket.gethostname()
            )
        except BaseException:
            store.forsake()
            raise
        if report.unanswered:  # the old anchor, or the key, goes on refusing the database
            return report, []
        await remember(store, ring, config.store.mint_key_file)
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


@asynccontextmanager
async def _to_be_asked(config: Config) -> AsyncIterator[dict[str, Provider]]:
    """Every provider, for questions only: nothing is minted, and nonces of ended leases are erased."""
    ring = Keyring({"none": bytes(keyring.KEY_BYTES)}, "none")
    table = adapters.providers(
        config, ring, "none", SystemClock(), lambda: 0, known_children=_nobody, open_leases=_none
    )
    async with AsyncExitStack() as stack:
        for provider in table.values():
            stack.push_async_callback(provider.close)
        yield table


async def recheck(config: Config, leases: Sequence[Lease], operator: Secret | None) -> recovery.Rechecked:
    """Ask the providers again about ended leases."""
    async with _to_be_asked(config) as table:
        return await recovery.recheck(leases, table, operator)


async def check_live(config: Config) -> Findings:
    """What keeps the configured providers from minting, asked of themselves. Raises ConfigError, ScopeMapError."""
    declared = declared_scopes(config)
    found = Findings()
    async with _to_be_asked(config) as table:
        for name, provider in table.items():
            if isinstance(provider, ChecksScopes):
                told = await provider.check_scopes(declared.get(name, []))
            else:
                told = await provider.check()
            found += [f"{name}: {problem}" for problem in told]
            said = provider.remarks() if isinstance(provider, Remarks) else []
            if isinstance(told, Findings):
                said = [*said, *told.remarks]
                found.remedy = found.remedy or told.remedy.replace("{map}", shlex.quote(str(config.scopes.file)))
            found.remarks += [f"{name}: {remark}" for remark in said]
            _compare_clocks(name, provider, config.timings.clock_skew, found)
    return found


def _compare_clocks(name: str, provider: Provider, allowed: timedelta, found: Findings) -> None:
    """With the `Date` of its last answer, which is cut to the second: below `_CLOCK_REMARK` nothing is certain."""
    heard = provider.time_heard() if isinstance(provider, KnowsTime) else None
    if heard is None:
        return
    off = SystemClock().now() - heard
    text = (
        f"{name}: this machine's clock is {abs(off).total_seconds():.0f} s {'ahead' if off > timedelta() else 'behind'}"
    )
    if abs(off) > allowed:
        found.append(f"{text}; leases would end at the wrong moment: timedatectl set-ntp true")
    elif abs(off) > _CLOCK_REMARK:
        found.remarks.append(text)


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
        logs_in=True,
        broker_policies=[broker_policy],
    )
    if found := found or clashes(needs):
        raise ValueError("; ".join(found))
    return plan_of(needs, namespace=namespace)


def aws_plan(scopes: Sequence[DeclaredScope], *, broker_arn: str, broker_policy: str) -> AwsPlan:
    """What must be at AWS for these scopes. Raises ValueError on names that are none, or do not fit one another."""
    return aws_provision.plan_of(scopes, broker_arn=broker_arn, broker_policy=broker_policy)


async def vault_drift(plan: Plan, *, address: str, token: Secret, ca_file: Path | None) -> list[str]:
    """How a live server differs from a plan. Raises ProviderError."""
    from broker.providers.vault.drift import drift

    return await drift(plan, address=address, token=token, ca_file=ca_file)
