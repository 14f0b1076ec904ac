"""Kill the daemon again and again, under load, and look each time at what is alive."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tests.crash.audit import Audit, Findings
from tests.crash.backend import Backend
from tests.crash.lives import EVERY, NotAtRest, Plan, check_journal, daemon, dies, points_in_turn, ready
from tests.crash.load import Load
from tests.crash.points import POINTS
from tests.crash.site import LANDING, SILENCE, Site
from tests.support.processes import stop

WORKERS = 12
NAMED = 0.75  # share of kills at a named point; the others at a random instant
REST = 150.0  # seconds for everything to end: an orphan is one after two looks, up to a minute apart
BACKOFF_AT_REST = "2"  # seconds


def plans(kills: int, seed: int) -> Iterator[Plan]:
    """Every point in turn, in an order of its own, among random instants."""
    rng = random.Random(seed)
    for point in itertools.islice(points_in_turn(rng, POINTS, NAMED), kills):
        yield Plan(point=point, nth=rng.choice((1, 1, 2, 5, 9)), after=rng.uniform(0, 1.2))


class Harness:
    """One run."""

    def __init__(self, site: Site, *, seed: int, mutant: str, say: Callable[[str], None]) -> None:
        self._site = site
        self._mutant = mutant
        self._say = say
        self._started = time.monotonic()
        self._load = Load(site, WORKERS, seed)
        self._backend = Backend(site)
        self.findings = Findings()
        self._audit = Audit(site, self._backend, self._load.deliveries, self.findings)
        self.reached: Counter[str] = Counter()
        self.kills = 0

    async def run(self, kills: int, seed: int) -> None:
        """All lives."""
        for plan in plans(kills, seed):
            await self._life(plan)
            self.kills += 1
            alive = await asyncio.to_thread(self._audit.look)
            if self.kills % EVERY == 0 or self.kills == kills:
                seconds = time.monotonic() - self._started
                self._say(
                    f"{self.kills} of {kills} kills in {seconds:.0f} s, {self.reached.total()} at "
                    f"{len(self.reached)} named points; {self._load.rounds} steps; "
                    f"{len(alive)} alive, {alive.tombs} tombs; {self.findings}"
                )

    def close(self) -> None:
        self._backend.close()

    async def _life(self, plan: Plan) -> None:
        with self._daemon(plan) as process:
            if not await ready(process, self._site.deployment):
                self.reached[plan.point] += 1
                return
            async with self._load.running():
                look = asyncio.create_task(asyncio.to_thread(self._audit.look))
                if await dies(process, plan):
                    self.reached[plan.point] += 1
                await look

    async def rest(self) -> None:
        """A last life, unharmed: every step ends, or falls silent, and what is in doubt is settled. Raises NotAtRest."""
        with self._daemon(None) as process:
            if not await ready(process, self._site.deployment):
                raise NotAtRest("the daemon did not start")
            await self._load.finish()
            deadline = time.monotonic() + REST + SILENCE + LANDING
            while (known := await asyncio.to_thread(self._audit.known)).leases:
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.2)
            stop(process)
        await asyncio.to_thread(self._audit.at_rest)
        self.findings.duplicate |= self._load.deliveries.twice()
        if known.leases:
            states = Counter(
                f"{lease.state.value} {lease.scope}: {lease.last_problem}" for lease in known.leases.values()
            )
            raise NotAtRest(f"leases that have not ended: {dict(states)}")
        check_journal(self._site.deployment)

    def _daemon(self, plan: Plan | None) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return daemon(self._site.deployment, plan, mutant=self._mutant, backoff=BACKOFF_AT_REST)
