"""What providers must find out about a map's scopes, so that no map promises what cannot be done.

Each other map is asked about before it is in force. What was not heard then, or was bad, is asked again: a network
comes back, and an operator gives a right.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

from broker.clock import Clock
from broker.errors import StoreError
from broker.log import get_logger
from broker.policy.live.holder import Policies
from broker.policy.rules import Scope
from broker.policy.scope_map import ScopeMap
from broker.providers.base import DeclaredScope, Provider, Surveys

log = get_logger(__name__)

AGAIN = 300.0  # seconds


def declared(scope: Scope) -> DeclaredScope:
    """As a provider sees it."""
    return DeclaredScope(block=scope.block, ttl=scope.ttl, name=scope.name)


async def survey(providers: Mapping[str, Provider], scope_map: ScopeMap | None) -> bool:
    """True: this map may read otherwise now. None: a map was refused, perhaps by what was known."""
    changed = False
    for name, provider in _asking(providers).items():
        if scope_map is None:
            changed |= await provider.survey_again([])
        elif scopes := _of(scope_map, name):
            changed |= await provider.survey(scopes)
    return changed


@contextlib.asynccontextmanager
async def again(providers: Mapping[str, Provider], policies: Policies, clock: Clock) -> AsyncIterator[None]:
    """Meanwhile, ask again where it may help, and have the map read anew when it did."""
    task = asyncio.create_task(_again(providers, policies, clock), name="survey")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _again(providers: Mapping[str, Provider], policies: Policies, clock: Clock) -> None:
    asking = _asking(providers)
    while asking:
        await clock.sleep(AGAIN)
        try:
            changed = False
            for name, provider in asking.items():
                changed |= await provider.survey_again(_of(policies.map, name))
            if changed:
                log.info("what a provider can end early has changed; the scope map is read again")
                await policies.reload()
        except StoreError as error:
            log.warning("the scope map could not be read again", problem=str(error))
        except Exception:  # the next look may fare better
            log.exception("providers could not be asked about the scopes")


def _of(scope_map: ScopeMap, provider: str) -> list[DeclaredScope]:
    return [declared(scope) for scope in scope_map.scopes.values() if scope.provider == provider]


def _asking(providers: Mapping[str, Provider]) -> dict[str, Surveys]:
    return {name: one for name, one in providers.items() if isinstance(one, Surveys)}
