"""Honest steps at the pace of honest steps, while another agent's step runs away and while none does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from tests.bench.brokered import Issue
from tests.bench.targets import Endpoint
from tests.runaway.client import Order

PACE = 0.05  # seconds between an agent's calls: 20 a second, where 50 are allowed
PROCESSES, THREADS = 2, 8
NICE = 10  # it stands for other machines, whose processors are not these
WITHOUT_END = 1 << 30  # requests
UNDER_WAY = 1.0  # seconds until it is, at the latest


class Paced(Issue):
    """One issue of each agent in each `PACE`."""

    async def once(self, worker: int) -> Mapping[str, float]:
        start = time.perf_counter()
        found = await super().once(worker)
        await asyncio.sleep(max(0.0, PACE - (time.perf_counter() - start)))
        return found


class Neighbours(Paced):
    """`beset`: the endpoint's last agent runs away meanwhile."""

    def __init__(self, endpoint: Endpoint, *, beset: bool) -> None:
        *honest, runaway = endpoint.agents
        super().__init__(replace(endpoint, agents=tuple(honest)))
        self._addr = endpoint.addr
        self._runaway = runaway
        self._beset = beset
        self._processes: list[subprocess.Popen[str]] = []

    async def prepare(self, workers: int) -> None:
        await super().prepare(workers)
        if self._beset:
            self._processes = [self._start(number) for number in range(PROCESSES)]
            await asyncio.sleep(UNDER_WAY)

    async def finish(self) -> None:
        """Raises RuntimeError when there was no runaway in the end."""
        gone = [process.poll() for process in self._processes if process.poll() is not None]
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
        if gone:
            raise RuntimeError(f"the runaway ended by itself: {gone}")
        await super().finish()

    def _start(self, seed: int) -> subprocess.Popen[str]:
        one = self._runaway
        order = Order(
            addr=self._addr,
            certificates=((one.cert, one.key, one.ca),),
            requests=WITHOUT_END,
            threads=THREADS,
            per_connection=100,
            seed=seed,
            handle_file=str(Path(tempfile.gettempdir()) / f"stepcred-bench-{os.getpid()}-{time.monotonic_ns()}"),
            handle="",
            new_runs=False,
        )
        argv = ["nice", f"-n{NICE}", sys.executable, "-m", "tests.runaway.client"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stdin is not None
        with process.stdin:
            json.dump(asdict(order), process.stdin)
        return process
