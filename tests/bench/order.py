"""The load generator's other end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tests.bench.load import Sample
from tests.support.processes import stop


class Load:
    """Sends orders to it. Each raises RuntimeError when it has died; what it said is on stderr."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._orders: IO[str] = process.stdin
        self._answers: IO[str] = process.stdout

    def sample(self, side: str, *, concurrency: int, seconds: float, watch: Mapping[str, int] | None = None) -> Sample:
        """One side for so long. `watch`: further processes whose CPU is read, by pid."""
        order = {"side": side, "concurrency": concurrency, "seconds": seconds, "watch": dict(watch or {})}
        return Sample(**self._ask(order, what=side))

    def drain(self, whose: str, *, count: int, seconds: float) -> dict[str, Any]:
        """One drain of "ours" or "theirs", as JSON of tests.bench.drain.Drained."""
        return self._ask({"drain": whose, "count": count, "seconds": seconds}, what=f"the drain of {whose}")

    def _ask(self, order: Mapping[str, Any], *, what: str) -> dict[str, Any]:
        print(json.dumps(order), file=self._orders, flush=True)
        answer = self._answers.readline()
        if not answer:
            raise RuntimeError(f"the load generator ended while measuring {what}")
        found: dict[str, Any] = json.loads(answer)
        return found


@contextlib.contextmanager
def load_generator(targets: Path) -> Iterator[Load]:
    """From its start to its end."""
    argv = [sys.executable, "-m", "tests.bench.load", str(targets)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield Load(process)
    finally:
        if process.stdin:
            process.stdin.close()  # it ends by itself then
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        stop(process)  # type: ignore[arg-type]  # a Popen of text
