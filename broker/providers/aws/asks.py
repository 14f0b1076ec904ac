"""Questions to AWS that are about no lease: few at a time, and to where a scope's own calls would go."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from broker.providers.aws.calls import Clients, Lane
from broker.providers.aws.denies.iam import Answer
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.settings import AwsSettings

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
        region = block.sts_region or self._settings.sts_region
        endpoint = block.sts_endpoint or self._settings.endpoint_url
        fips = {"fips": True} if block.fips else {}
        return await self._call(self._mints, "sts", region, endpoint, operation, **through(block), **fips, **parameters)

    async def iam(self, block: AwsBlock, operation: str, **parameters: Any) -> Answer:
        """As a deny of this block would."""
        return await self.own("iam", operation, **through(block), **parameters)

    async def own(self, service: str, operation: str, **parameters: Any) -> Answer:
        """As the broker itself."""
        endpoint = self._settings.endpoint_url
        if service == "iam":
            endpoint = self._settings.iam_endpoint_url or endpoint
        lane = self._mints if service == "sts" else self._revokes
        return await self._call(lane, service, self._settings.sts_region, endpoint, operation, **parameters)

    async def _call(self, lane: Lane, service: str, region: str, endpoint: str, operation: str, **given: Any) -> Answer:
        async with self._free:
            return await lane.run(partial(self._clients.call, service, region, endpoint, operation, **given))


def through(block: AwsBlock) -> dict[str, Any]:
    """For `Clients.call`: the role that the broker goes through for this scope, if there is one."""
    return {"via": block.via, "via_external_id": block.via_external_id or ""} if block.via else {}
