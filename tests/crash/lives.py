"""The lives of a daemon that is killed again and again: when each ends, its process, and what holds after the last."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from broker.journal.chain import verify
from broker.store.base import tail
from tests.crash.armed_broker import BACKOFF, MUTANT, NTH, POINT
from tests.support.daemon import Deployment
from tests.support.processes import stop, wait_until

READY = 30.0  # seconds for a start
PATIENCE = 2.5  # seconds of load within which a point is reached; else the kill falls on a random instant
EVERY = 10  # kills per line of progress


class NotAtRest(Exception):
    """Leases have not ended in time, or the journal is broken: a failure although nothing may be alive."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One life of the daemon. Without a point it ends `after` seconds of load."""

    point: str
    nth: int
    after: float


def points_in_turn(rng: random.Random, points: Collection[str], named: float) -> Iterator[str]:
    """Without an end: every point, in an order of its own, among random instants (""). `named`: the points' share."""
    left: list[str] = []
    while True:
        left = left or rng.sample(sorted(points), len(points))
        yield left.pop() if rng.random() < named else ""


@contextmanager
def daemon(
    deployment: Deployment, plan: Plan | None, *, mutant: str, backoff: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Started, maybe not ready; dead at the end. `backoff`: seconds, in the life without a plan."""
    env = {**os.environ, MUTANT: mutant}
    if plan is None:
        env[BACKOFF] = backoff  # nothing but patience is saved
    elif plan.point:
        env |= {POINT: plan.point, NTH: str(plan.nth)}
    with deployment.log.open("ab") as log:
        process = subprocess.Popen(deployment.argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
    try:
        yield process
    finally:
        stop(process, signal.SIGKILL)


async def ready(process: subprocess.Popen[bytes], deployment: Deployment) -> bool:
    """False when it killed itself on the way. Any other end is a failure of the harness."""
    await asyncio.to_thread(
        wait_until,
        lambda: process.poll() is not None or deployment.ready(),
        within=READY,
        what="the daemon",
    )
    code = process.poll()
    if code not in (None, -signal.SIGKILL):
        raise RuntimeError(f"the daemon ended with {code}:\n{deployment.log.read_text()[-3000:]}")
    return code is None


async def dies(process: subprocess.Popen[bytes], plan: Plan) -> bool:
    """Under load. True: at its point, by itself; else it is killed."""
    deadline = time.monotonic() + (PATIENCE if plan.point else plan.after)
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, 10)
            return False
        await asyncio.sleep(0.01)
    return True


def check_journal(deployment: Deployment) -> None:
    """Raises NotAtRest."""
    with deployment.store() as store:
        if problems := store.read(lambda tx: verify(tail(tx))):
            raise NotAtRest(f"the journal's chain is broken: {problems[:3]}")
