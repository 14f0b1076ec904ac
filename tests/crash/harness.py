"""Kill the daemon again and again, under load, and look each time at what is alive."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from broker.journal.chain import verify
from broker.store.base import tail
from tests.crash.armed_broker import BACKOFF, MUTANT, NTH, POINT
from tests.crash.audit import Audit, Findings
from tests.crash.backend import Backend
from tests.crash.load import Load
from tests.crash.points import POINTS
from tests.crash.site import LANDING, SILENCE, Site
from tests.support.processes import stop, wait_until

WORKERS = 12
NAMED = 0.75  # share of kills at a named point; the others at a random instant
READY = 30.0  # seconds for a start
PATIENCE = 2.5  # seconds of load within which a point is reached; else the kill falls on a random instant
REST = 150.0  # seconds for everything to end: an orphan is one after two looks, up to a minute apart
EVERY = 10  # kills per line of progress


class NotAtRest(Exception):
    """Leases have not ended in time, or the journal is broken: a failure although nothing may be alive."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One life of the daemon. Without a point it ends `after` seconds of load."""

    point: str
    nth: int
    after: float


def plans(kills: int, seed: int) -> Iterator[Plan]:
    """Every point in turn, in an order of its own, among random instants."""
    rng = random.Random(seed)
    points: list[str] = []
    for _ in range(kills):
        points = points or rng.sample(sorted(POINTS), len(POINTS))
        point = points.pop() if rng.random() < NAMED else ""
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
            if not await asyncio.to_thread(self._ready, process):
                self.reached[plan.point] += 1
                return
            async with self._load.running():
                look = asyncio.create_task(asyncio.to_thread(self._audit.look))
                if await _exits(process, within=PATIENCE if plan.point else plan.after):
                    self.reached[plan.point] += 1
                else:
                    process.send_signal(signal.SIGKILL)
                    await asyncio.to_thread(process.wait, 10)
                await look

    async def rest(self) -> None:
        """A last life, unharmed: every step ends, or falls silent, and what is in doubt is settled. Raises NotAtRest."""
        with self._daemon(None) as process:
            if not await asyncio.to_thread(self._ready, process):
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
        with self._site.deployment.store() as store:
            if problems := store.read(lambda tx: verify(tail(tx))):
                raise NotAtRest(f"the journal's chain is broken: {problems[:3]}")

    @contextmanager
    def _daemon(self, plan: Plan | None) -> Iterator[subprocess.Popen[bytes]]:
        """Started, maybe not ready; dead at the end."""
        deployment = self._site.deployment
        env = {**os.environ, MUTANT: self._mutant}
        if plan is None:
            env[BACKOFF] = "2"  # seconds: nothing but patience is saved
        elif plan.point:
            env |= {POINT: plan.point, NTH: str(plan.nth)}
        with deployment.log.open("ab") as log:
            process = subprocess.Popen(deployment.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
        try:
            yield process
        finally:
            stop(process, signal.SIGKILL)

    def _ready(self, process: subprocess.Popen[bytes]) -> bool:
        """False when it killed itself on the way. Any other end is a failure of the harness."""
        wait_until(lambda: process.poll() is not None or self._site.deployment.ready(), within=READY, what="the daemon")
        code = process.poll()
        if code not in (None, -signal.SIGKILL):
            raise RuntimeError(f"the daemon ended with {code}:\n{self._site.deployment.log.read_text()[-3000:]}")
        return code is None


async def _exits(process: subprocess.Popen[bytes], *, within: float) -> bool:
    deadline = time.monotonic() + within
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
