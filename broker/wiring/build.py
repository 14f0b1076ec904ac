"""What a daemon is made of, where that may be something else: the dev broker mints stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.config import Config
from broker.guard.guard import Guard
from broker.guard.tiers import TierRules
from broker.identity import FrontDoor
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.leases.refusals import Refusals
from broker.model import ScopeKind, Tier
from broker.policy.live.holder import SETTLE
from broker.providers.aws.roles import Roles
from broker.providers.base import Provider
from broker.wiring import adapters


def _real_kinds(config: Config, roles: Roles) -> Mapping[str, ScopeKind]:
    return adapters.scope_kinds(config, roles)


def _real_providers(*parts: object, **more: object) -> dict[str, Provider]:
    table: Callable[..., dict[str, Provider]] = adapters.providers
    return table(*parts, **more)


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """As it serves in earnest, unless said otherwise. `providers` is called as `adapters.providers` is."""

    kinds: Callable[[Config, Roles], Mapping[str, ScopeKind]] = _real_kinds
    providers: Callable[..., dict[str, Provider]] = _real_providers
    guard: Callable[[Callable[[Tier], TierRules]], Guard] = Guard
    engine: Callable[[Core, Refusals, FrontDoor], Engine] = Engine
    settle: float = SETTLE  # seconds between two readings of the scope map
