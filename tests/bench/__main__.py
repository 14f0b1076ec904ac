"""`make bench`: every figure of one run, as ratios, in a table and in build/bench.json."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench import growth
from tests.bench.report import Figure, show, write_json
from tests.bench.rounds import Bench, Plan, say
from tests.bench.setup import fsync_us, world
from tests.support.bao import find_bao
from tests.support.scratch import scratch

WIDTH = 150  # columns, where nobody is looking


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each comparison (default 5)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--only-aws", action="store_true", help="nothing but the figures at STS")
    parser.add_argument("--quick", action="store_true", help="does everything once and proves nothing")
    return parser.parse_args()


def run_aws(plan: Plan) -> tuple[dict[str, Any], list[Figure]]:
    """The figures at STS alone."""
    start = time.monotonic()
    with scratch("bench") as folder:
        about = circumstances(folder)
        with world(folder) as everything:
            figures: list[Figure] = [*Bench(world=everything, plan=plan).aws()]
    return about | {"seconds": round(time.monotonic() - start)}, figures


def run(plan: Plan, *, many_grants: int) -> tuple[dict[str, Any], list[Figure]]:
    """All figures, and under what circumstances."""
    start = time.monotonic()
    say("decide() and import")
    figures: list[Figure] = [growth.grants(plan.rounds, many=many_grants), growth.import_ms(plan.rounds)]
    with scratch("bench") as folder:
        about = circumstances(folder)
        say("starting OpenBao (raft, TLS), Ceph where it is installed, three daemons, an echo and the load generator")
        with world(folder) as everything:
            bench = Bench(world=everything, plan=plan)
            figures = [
                *bench.issue_vs_echo(),
                *bench.issue_vs_direct(),
                *bench.cycle_vs_direct(),
                *bench.steps(),
                *bench.aws(),
                *bench.neighbours(),
                *figures,
                *bench.memory(),
            ]
    return about | {"seconds": round(time.monotonic() - start)}, figures


def circumstances(folder: Path) -> dict[str, Any]:
    """What an absolute figure means nothing without."""
    bao = subprocess.run([find_bao(), "version"], capture_output=True, text=True, check=True, timeout=30)
    return {
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "openbao": bao.stdout.split()[1],
        "fsync_us": round(fsync_us(folder)),
    }


def main() -> int:
    asked = arguments()
    if asked.only_aws:
        about, figures = run_aws(Plan(rounds=asked.rounds))
    elif asked.quick:
        about, figures = run(Plan(rounds=1, seconds=0.15, warm_up=0), many_grants=400)
    else:
        about, figures = run(Plan(rounds=asked.rounds), many_grants=10_000)
    write_json(asked.json, about, figures)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    show(console, about, figures)
    say(f"figures in {asked.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
