"""The daemon as it is, over a provider that answers at once, or slowly for one role; without one mechanism if told so."""

from __future__ import annotations

import asyncio
import os
import resource
import sys

from broker.__main__ import main
from broker.providers.base import Minted, MintOrder, Provider
from broker.wiring import adapters
from tests.attack.mutants import MUTANTS
from tests.bench.null_broker import NullProvider

MUTANT, FILES = (f"STEPCRED_ATTACK_{name}" for name in ("MUTANT", "FILES"))
SLOW = "slow"  # the token role, and so the scope
SLOW_SECONDS = 4.0  # below the mint timeout


class SlowProvider(NullProvider):
    """Its tokens are dead at once, too."""

    async def mint(self, order: MintOrder) -> Minted:
        if order.ref.params["role"] == SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        return await super().mint(order)


def providers(*_: object, **__: object) -> dict[str, Provider]:
    """Stands for `broker.wiring.adapters.providers`."""
    return {SlowProvider.name: SlowProvider()}


if __name__ == "__main__":
    setattr(adapters, "providers", providers)  # noqa: B010 - deliberate: the one seam that this process replaces
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    if files := os.environ.get(FILES):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(files), int(files)))
    sys.exit(main())
