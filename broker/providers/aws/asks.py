"""Where a scope's calls go and as whom; and questions to AWS that are about no lease, few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from broker.providers.aws.calls import Clients, Hub
from broker.providers.aws.denies.iam import Answer
from broker.providers.aws.lanes import Lane
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.settings import AwsSettings

Call: TypeAlias = Callable[[], Answer]  # blocks; for a lane

AT_ONCE = 4  # of them; a lane's own workers may be fewer


class Asks:
    """STS in the lane of mints, everything else in that of revocations."""

    def __init__(self, settings: AwsSettings, clients: Clients, *, mints: Lane, revokes: Lane) -> None:
        self._settings = settings
        self._clients = clients
        self._mints = mints
        self._revokes = revokes
        self._free = asyncio.Semaphore(min(AT_ONCE, settings.mint_workers, settings.revoke_workers))

    async def sts(self, block: AwsBlock, operation: str, **parameters: Any) -> Answer:
        """As a mint of this block would."""
        return await self._ask(self._mints, at_sts(self._clients, self._settings, block, operation, **parameters))

    async def iam(self, block: AwsBlock, operation: str, **parameters: Any) -> Answer:
        """As a deny of this block would."""
        return await self._ask(self._revokes, at_iam(self._clients, self._settings, block, operation, **parameters))

    async def own(self, service: str, operation: str, **parameters: Any) -> Answer:
        """As the broker itself."""
        settings = self._settings
        endpoint = _iam_endpoint(settings) if service == "iam" else settings.endpoint_url
        lane = self._mints if service == "sts" else self._revokes
        call = partial(self._clients.call, service, settings.sts_region, endpoint, operation, **parameters)
        return await self._ask(lane, call)

    async def _ask(self, lane: Lane, call: Call) -> Answer:
        async with self._free:
            return await lane.run(call)


def place_of(settings: AwsSettings, block: AwsBlock) -> tuple[Hub, str, str, bool]:
    """Who makes this scope's sessions, and where: region, endpoint, whether the one for FIPS."""
    region = block.sts_region or settings.sts_region
    endpoint = block.sts_endpoint or settings.endpoint_url
    return Hub.of(block.via, block.via_external_id, fips=block.fips), region, endpoint, block.fips


def at_sts(clients: Clients, settings: AwsSettings, block: AwsBlock, operation: str, **parameters: Any) -> Call:
    """One call to where this scope's sessions are made, as whoever makes them."""
    _, region, endpoint, _ = place_of(settings, block)
    who = _through(block)
    return partial(clients.call, "sts", region, endpoint, operation, fips=block.fips, **who, **parameters)


def at_iam(clients: Clients, settings: AwsSettings, block: AwsBlock, operation: str, **parameters: Any) -> Call:
    """One call to where this scope's role is managed, as whoever manages it."""
    who = _through(block)
    return partial(clients.call, "iam", settings.sts_region, _iam_endpoint(settings), operation, **who, **parameters)


def _iam_endpoint(settings: AwsSettings) -> str:
    return settings.iam_endpoint_url or settings.endpoint_url


def _through(block: AwsBlock) -> dict[str, Any]:
    """The role that the broker goes through for this scope, if there is one."""
    return {"via": block.via, "via_external_id": block.via_external_id or ""} if block.via else {}
