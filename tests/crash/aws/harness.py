"""Kill the daemon again and again, with answers lost and late, and hold each session against what is said of it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

from tests.crash.aws.judge import ENDS_WITHIN, LATE_UNDOES, STALE, Findings, Judge
from tests.crash.aws.load import Load
from tests.crash.aws.points import POINTS
from tests.crash.aws.site import SILENCE, TTL, Site
from tests.crash.lives import EVERY, NotAtRest, Plan, check_journal, daemon, dies, points_in_turn, ready
from tests.support.processes import stop
from tests.support.proxy import Fault, response

WORKERS = 4  # more fill the roles with the lists of dead daemons
NAMED = 0.5  # share of kills at a named point
LONG_LIFE = 0.1  # share of lives that are long enough for probes to prove something
LOOK_EVERY = 1.0  # seconds
FAULTY = 2.0  # seconds of the last life
BACKOFF_AT_REST = "5"  # seconds
PUT, ASSUME = "Action=PutRolePolicy", "Action=AssumeRole"
UNAVAILABLE = response("503 Service Unavailable", b"")
FAULTS = (
    *((Fault.CUT, what) for what in (PUT, ASSUME)),
    *((Fault.LATE, what) for what in (PUT, ASSUME)),
    *((Fault.HELD, what) for what in (PUT, ASSUME)),
    *[(Fault.REPLACE, PUT)] * 3,  # lost on the way: nothing is written
)


def plans(kills: int, seed: int) -> Iterator[Plan]:
    """Every point in turn, in an order of its own, among random instants."""
    rng = random.Random(seed)
    for point in itertools.islice(points_in_turn(rng, POINTS, NAMED), kills):
        after = rng.uniform(10, 16) if not point and rng.random() < LONG_LIFE else rng.uniform(0.2, 2.5)
        yield Plan(point=point, nth=rng.choice((1, 1, 2, 5)), after=after)


class Harness:
    """One run."""

    def __init__(self, site: Site, *, seed: int, mutant: str, say: Callable[[str], None]) -> None:
        self._site = site
        self._mutant = mutant
        self._say = say
        self._seed = seed
        self._faults = random.Random(seed + 1)
        self._load = Load(site, WORKERS, seed)
        self.findings = Findings()
        self.judge = Judge(site, self._load.known, self.findings)
        self.reached: Counter[str] = Counter()
        self.kills = 0
        self._started = time.monotonic()

    async def run(self, kills: int) -> None:
        """All lives but the last."""
        for plan in plans(kills, self._seed):
            await self._life(plan)
            self.kills += 1
            if self.kills % EVERY == 0 or self.kills == kills:
                self._tell(kills)

    async def rest(self, *, whole: bool) -> None:
        """A last life, which nobody ends. `whole`: until every session's bound is over. Raises NotAtRest."""
        with self._daemon(None) as process:
            if not await ready(process, self._site.deployment):
                raise NotAtRest("the daemon did not start")
            since = time.monotonic()
            async with self._looking(since):
                async with self._load.running(), self._faulting():
                    await asyncio.sleep(FAULTY)
                async with self._load.finishing():
                    await self._until_ended(since)
                # The last writes are lost: no later one mends it.
                self._site.front.inject(Fault.REPLACE, PUT, times=3, answer=UNAVAILABLE)
                await self._load.leave()
                await self._until_ended(since)
                if whole:
                    await self._until_over()
            await self._site.front.late_done()
            await self._site.front.landed()
            stop(process, signal.SIGKILL)  # a drain would wait for what only its bound ends
        await asyncio.to_thread(self.judge.at_the_end)
        check_journal(self._site.deployment)

    def close(self) -> None:
        self.judge.close()

    async def _life(self, plan: Plan) -> None:
        with self._daemon(plan) as process:
            if not await ready(process, self._site.deployment):
                self.reached[plan.point] += 1
                return
            async with self._looking(time.monotonic()), self._load.running(), self._faulting():
                if await dies(process, plan):
                    self.reached[plan.point] += 1

    @contextlib.asynccontextmanager
    async def _looking(self, since: float) -> AsyncIterator[None]:
        """All the time, and once more at the end."""
        over = asyncio.Event()

        async def look() -> None:
            while not over.is_set():
                await asyncio.to_thread(self.judge.look, since)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), LOOK_EVERY)

        task = asyncio.create_task(look())
        try:
            yield
        finally:
            over.set()
            await task

    @contextlib.asynccontextmanager
    async def _faulting(self) -> AsyncIterator[None]:
        """Now and then an answer is lost, or a request late."""

        async def inject() -> None:
            while True:
                fault, what = self._faults.choice(FAULTS)
                delay = self._faults.uniform(0.5, 5)
                self._site.front.inject(fault, what, delay=delay, answer=UNAVAILABLE)
                await asyncio.sleep(self._faults.uniform(0.3, 1.2))

        task = asyncio.create_task(inject())
        try:
            yield
        finally:
            task.cancel()
            self._site.front.inject(Fault.NONE)

    async def _until_ended(self, since: float) -> None:
        """Whatever should end has, or the judge has said why not."""
        deadline = time.monotonic() + ENDS_WITHIN + SILENCE + LATE_UNDOES
        while await asyncio.to_thread(self.judge.look, since):
            if time.monotonic() > deadline or self.findings.any:
                return
            await asyncio.sleep(LOOK_EVERY / 2)

    async def _until_over(self) -> None:
        """Every bound, and every lease."""
        await asyncio.sleep(max(TTL.values()) + STALE)
        deadline = time.monotonic() + max(TTL.values())
        while left := await asyncio.to_thread(self.judge.open_leases):
            if time.monotonic() > deadline:
                states = Counter(f"{one.state.value} {one.scope}: {one.last_problem}" for one in left.values())
                raise NotAtRest(f"leases that have not ended: {dict(states)}")
            await asyncio.sleep(LOOK_EVERY)

    def _tell(self, kills: int) -> None:
        front, known = self._site.front, self._load.known
        self._say(
            f"{self.kills} of {kills} kills in {time.monotonic() - self._started:.0f} s, {self.reached.total()} at "
            f"{len(self.reached)} named points; {known.rounds} steps, {len(front.sessions)} sessions "
            f"({len(front.sessions) - len(known.delivered)} lost), {front.puts} deny writes, {self.judge.tried} tries; "
            f"refused: {known.refused}; roles: {[front.characters(role) for role in self._site.roles.values()]}; "
            f"{self.findings}"
        )

    def _daemon(self, plan: Plan | None) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return daemon(self._site.deployment, plan, mutant=self._mutant, backoff=BACKOFF_AT_REST)
