"""Whoever holds a step is killed by SIGKILL: nobody ends the step, and everything is dead within the silence bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from broker.model import EndReason
from tests.e2e.world import LOAD, Site, journal
from tests.support.daemon import Deployment
from tests.support.processes import wait_until

HEARTBEAT, SILENCE = 0.5, 2.0  # seconds
BOUND = SILENCE + HEARTBEAT + 5.0  # I5: dead within 5 s of the step's end; and the machine is shared
STEPCRED = Path(sys.executable).parent / "stepcred"

pytestmark = pytest.mark.usefixtures("untouched")

IN_PYTHON = """
import pathlib, sys, time, stepcred
with stepcred.connect() as broker, broker.step(scopes=["token", "kv"]) as step:
    step.credential("token")
    step.issue("kv")
    pathlib.Path(sys.argv[1]).touch()
    time.sleep(60)
"""
IN_ASYNCIO = """
import asyncio, pathlib, sys, stepcred
async def main():
    async with stepcred.aio.connect() as broker, broker.step(scopes=["token", "kv"]) as step:
        await step.credential("token")
        await step.issue("kv")
        pathlib.Path(sys.argv[1]).touch()
        await asyncio.sleep(60)
asyncio.run(main())
"""
AROUND = ["exec", "--scope", "token", "--", "sh", "-c", 'touch "$0" && exec sleep 60']

# What it is started with, and how many credentials it then holds.
STEPS = {
    "sdk": ([sys.executable, "-c", IN_PYTHON], 2),
    "asyncio": ([sys.executable, "-c", IN_ASYNCIO], 2),
    "exec": ([str(STEPCRED), *AROUND], 1),
}


@pytest.fixture(scope="module")
def broker(site: Site) -> Iterator[Deployment]:
    deployment = site.deployment(timings={"heartbeat": f"{HEARTBEAT * 1000:g}ms", "silence_bound": f"{SILENCE:g}s"})
    with deployment.daemon():
        yield deployment


@pytest.mark.parametrize("kind", STEPS)
def test_everything_of_a_killed_step_is_dead_within_the_silence_bound(
    site: Site, broker: Deployment, tmp_path: Path, kind: str
) -> None:
    begun, run = tmp_path / "begun", f"killed-{kind}"
    argv, holds = STEPS[kind]
    step = subprocess.Popen([*argv, str(begun)], env=environment(broker, run), start_new_session=True)
    try:
        wait_until(begun.exists, within=20, what="the step holds its credentials")
        assert len(site.live_tokens()) == holds
        os.kill(step.pid, signal.SIGKILL)
        step.wait(5)
        wait_until(lambda: not site.live_tokens(), within=BOUND, what="everything of it is dead")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)  # exec's child lives on, without credentials
    (ended,) = [record for record in journal(broker, "STEP_ENDED") if record["run"] == run]
    assert ended["reason"] == EndReason.SILENT.value


def environment(broker: Deployment, run: str) -> Mapping[str, str]:
    names = {"STEPCRED_WORKFLOW": "nightly", "STEPCRED_RUN": run, "STEPCRED_STEP": "load"}
    return {**os.environ, **broker.env(broker.agent(LOAD)), **names}
