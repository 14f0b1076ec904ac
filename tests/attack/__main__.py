"""`python -m tests.attack`: exit code 1 when an attack did more than it may."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from tests.attack.attacks import ATTACKS
from tests.attack.harness import SIZES, Harness
from tests.attack.mutants import MUTANTS
from tests.attack.report import show, write_json
from tests.support.processes import allow_files
from tests.support.scratch import scratch

WIDTH = 150  # columns, where nobody is looking


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="long")
    parser.add_argument("--seed", type=int, default=1, help="chooses what is malformed, and how")
    parser.add_argument("--only", nargs="+", choices=sorted(ATTACKS), default=[*ATTACKS], help="these attacks")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="a broken daemon: it must be found out")
    parser.add_argument("--json", type=Path, default=Path("build/attack.json"), help="where the figures go")
    parser.add_argument("--safety", action="store_true", help="latency is shown, not judged")
    parser.add_argument("--no-memory", action="store_true", help="do not wait for memory to come back")
    asked = parser.parse_args()
    allow_files(20_000)
    start = time.monotonic()
    with scratch("attack") as folder:
        harness = Harness(
            folder, SIZES[asked.size], seed=asked.seed, mutant=asked.mutant, memory=not asked.no_memory, say=_say
        )
        asyncio.run(harness.run(asked.only))
    about = {
        "size": asked.size,
        "seed": asked.seed,
        "mutant": asked.mutant or "none",
        "seconds": round(time.monotonic() - start),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "grpcio": version("grpcio"),
    }
    write_json(asked.json, about, harness.rows)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    show(console, about, harness.rows)
    return int(any(row.problems or (row.slow and not asked.safety) for row in harness.rows))


def _say(text: str) -> None:
    print(f"attack: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
