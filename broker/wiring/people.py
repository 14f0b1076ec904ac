"""What people need of the daemon, from the config."""

from __future__ import annotations

from collections.abc import Callable

from broker.clock import Clock
from broker.config import Config
from broker.http.readiness import Readiness
from broker.identity import FrontDoor
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.epoch import EpochKeeper
from broker.operators.desk import Desk
from broker.operators.duties import why_off
from broker.operators.registry import Registry, operators_source
from broker.operators.second_factor import SecondFactors
from broker.policy.live.holder import Policies
from broker.rpc.operators.parts import Parts
from broker.store.base import Store


def registry_of(config: Config, store: Store, clock: Clock, epoch: EpochKeeper) -> Registry:
    """Who operators are. Blocks; a file that is bad is looked at again later."""
    operators = config.operators
    source = None
    if operators is not None and operators.file is not None:
        source = operators_source(
            operators.file,
            operators.second_factor_key_file,
            trust_domain=config.trust_domain,
            keys=config.scopes.keys,
        )
    return Registry(source, store, clock, epoch.fence)


def approvals_off(registry: Registry, policies: Policies) -> Callable[[], str]:
    """Why nothing that was approved may be used under the map in force; "" when it may."""

    def why() -> str:
        return why_off(registry.current.signers(policies.signers, may_approve=policies.map.signers_may_approve))

    return why


def operators_parts(  # noqa: PLR0917 - what they work with, in one order
    config: Config, core: Core, engine: Engine, door: FrontDoor, registry: Registry, readiness: Readiness
) -> Parts:
    """What the operators' methods work with."""
    return Parts(
        core=core,
        door=door,
        registry=registry,
        desk=Desk(core, engine.orders, registry, SecondFactors(lambda: registry.current.key)),
        environment=config.environment,
        problems=lambda: [*readiness.problems(), *readiness.remarks()],
        provider_problems=readiness.provider_problems,
    )
