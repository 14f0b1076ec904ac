"""May the broker be sent work?"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence

from broker.identity.door import FrontDoor
from broker.leases.core import Core
from broker.leases.engine import Engine
from broker.log import get_logger
from broker.operators.registry import Registry
from broker.providers.base import Provider

PROBE_EVERY = 15.0  # seconds between looks at providers that are well
PROBE_AGAIN = 1.0  # seconds until the next look when one was not

log = get_logger(__name__)


class Readiness:
    """What `/readyz` answers, from looks taken in the background: a probe costs nothing and waits for nobody."""

    def __init__(
        self, core: Core, engine: Engine, door: FrontDoor | None = None, registry: Registry | None = None
    ) -> None:
        self._core = core
        self._door = door
        self._registry = registry
        self._engine = engine
        self._looked = False
        self._provider_problems: dict[str, list[str]] = {}  # by provider, those that are well too

    def problems(self) -> list[str]:
        """Empty when the broker can do its work."""
        found = [
            problem if problem.startswith(f"{name}: ") else f"{name}: {problem}"
            for name, problems in self._provider_problems.items()
            for problem in problems
        ]
        if not self._looked:
            found.append("the providers have not been looked at yet")
        if self._engine.draining:
            found.append("the broker is stopping")
        if self._core.store.sparing:
            found.append("the disk is full: no new steps and leases")
        if not self._core.epoch.fresh():
            found.append("the broker has lost its right to write")
        return found

    def provider_problems(self) -> Mapping[str, Sequence[str]]:
        """Why each cannot be used now; from the latest look."""
        return self._provider_problems

    def remarks(self) -> list[str]:
        """What keeps nobody from working and must be looked at. Without names: strangers may read it."""
        policies, found = self._core.policies, []
        if policies.last_problem:
            found.append("the scope map on disk is refused; the last good one is in force")
        elif policies.teams_refused:
            found.append("files of teams are refused; their last good ones are in force")
        if self._door and self._door.remarks(self._core.clock.now()):
            found.append("the front door needs a look: a file is refused, or a list or certificate runs out")
        if self._registry and self._registry.problem:
            found.append("the operators file on disk is refused; the last good one is in force, or nobody has a role")
        if self._engine.door_overdue:
            found.append("the front door's files cannot be read: no denial or revocation in them is seen")
        return found

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look every now and then, until the block ends."""
        task = asyncio.create_task(self._watch(), name="readiness")
        try:
            yield
        finally:
            task.cancel()

    async def _watch(self) -> None:
        while True:
            found = {name: await self._look(name, provider) for name, provider in self._core.providers.items()}
            for name, problems in found.items():
                for problem in set(problems) - set(self._provider_problems.get(name, ())):
                    log.warning("provider is not ready", provider=name, problem=problem)
            self._provider_problems, self._looked = found, True
            await self._core.clock.sleep(PROBE_AGAIN if any(found.values()) else PROBE_EVERY)

    @staticmethod
    async def _look(name: str, provider: Provider) -> list[str]:
        try:
            return list(await provider.check())
        except Exception:
            log.exception("provider check failed", provider=name)
            return ["the check itself failed; see the log"]
