"""The runaway itself: its processes, and what came of all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tests.runaway.client import Done, Order
from tests.support.certs import Creds
from tests.support.daemon import Deployment

PROCESSES, THREADS = 3, 6
PER_CONNECTION = 40
PATIENCE = 600  # seconds


@dataclass
class Storm:
    """Running from its making on."""

    deployment: Deployment
    certificates: Sequence[Creds]
    requests: int
    new_runs: bool = False
    handle: str = ""
    seed: int = 1
    per_connection: int = PER_CONNECTION

    def __post_init__(self) -> None:
        self._processes = [self._start(self.seed * PROCESSES + number) for number in range(PROCESSES)]

    def finished(self) -> Done:
        """Wait until every request has been answered."""
        whole = Done()
        for process in self._processes:
            out, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0
            told = json.loads(out)
            whole.outcomes += Counter(told["outcomes"])
            whole.spelled += Counter(told["spelled"])
        return whole

    def _start(self, seed: int) -> subprocess.Popen[str]:
        files = tuple((str(one.cert), str(one.key), str(one.ca)) for one in self.certificates)
        order = Order(
            addr=self.deployment.addr,
            handle_file=str(self.deployment.folder / f"handle{self.seed}"),
            certificates=files,
            requests=self.requests // PROCESSES,
            threads=THREADS,
            per_connection=self.per_connection,
            seed=seed,
            handle=self.handle,
            new_runs=self.new_runs,
        )
        argv = [sys.executable, "-m", "tests.runaway.client"]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with process.stdin:
            json.dump(asdict(order), process.stdin)
        process.stdin = None  # or `communicate` would flush it
        return process
