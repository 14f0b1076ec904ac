"""`make bench`: every figure of one run, as ratios, in a table and in build/bench.json."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from tests.bench import crowded, growth, plots
from tests.bench.figures import Curve, Figure
from tests.bench.report import show, write_json
from tests.bench.rounds import Bench, Plan, say
from tests.bench.setup import fsync_us, world
from tests.support.bao import find_bao
from tests.support.scratch import scratch

WIDTH = 190  # columns, where nobody is looking
PLOTS = Path("docs/images/bench")
SIZES = (100, 1_000, 10_000, 100_000)  # live leases
QUICK = Plan(rounds=1, seconds=0.15, warm_up=0, drain=50, issuing=0.15, curve=(1, 2))
QUICK_SIZES = (100, 200)
QUICK_GRANTS = (100, 400)

Group: TypeAlias = Callable[[Bench], Iterable[Figure]]
# In the order of the tables. Each measures on its own.
GROUPS: Mapping[str, Group] = {
    "echo": Bench.issue_vs_echo,
    "direct": Bench.issue_vs_direct,
    "cycle": Bench.cycle_vs_direct,
    "steps": Bench.steps,
    "aws": Bench.aws,
    "neighbours": Bench.neighbours,
    "drain": crowded.drain,
    "leases": crowded.growth,
    "sidecar": crowded.sidecar,
    "load": Bench.load,
    "memory": Bench.memory,
}
ALONE = ("grants", "import")  # without a daemon


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds of each comparison (default 5)")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    parser.add_argument("--plots", type=Path, help=f"where the plots go (default {PLOTS} for a whole run)")
    names = ",".join((*ALONE, *GROUPS))
    parser.add_argument("--only", metavar="GROUP,…", default=names, help=f"some of: {names}")
    parser.add_argument("--drain", type=int, help=f"leases that are due at once (default {Plan(rounds=1).drain:,})")
    parser.add_argument("--quick", action="store_true", help="does everything once and proves nothing")
    asked = parser.parse_args()
    asked.only = [name.strip() for name in asked.only.split(",")]
    if unknown := set(asked.only) - {*ALONE, *GROUPS}:
        parser.error(f"--only: {', '.join(sorted(unknown))}: not one of {names}")
    return asked


def run(asked: argparse.Namespace) -> tuple[dict[str, Any], list[Figure]]:
    """What was asked for, and under what circumstances."""
    start = time.monotonic()
    plan = QUICK if asked.quick else Plan(rounds=asked.rounds)
    if asked.drain:
        plan = replace(plan, drain=asked.drain)
    figures: list[Figure] = []
    if "grants" in asked.only:
        say("decide()")
        figures += growth.grants(plan.rounds, *([QUICK_GRANTS] if asked.quick else []))
    if "import" in asked.only:
        say("import")
        figures.append(growth.import_ms(plan.rounds))
    with scratch("bench") as folder:
        about = circumstances(folder)
        if groups := [group for name, group in GROUPS.items() if name in asked.only]:
            say("starting OpenBao (raft, TLS), Ceph where it is installed, the daemons, an echo and the load generator")
            with world(folder, QUICK_SIZES if asked.quick else SIZES) as everything:
                bench = Bench(world=everything, plan=plan)
                for group in groups:
                    figures += group(bench)
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
    """0 also when something was not reached: the figures are for reading."""
    asked = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is stopped then, too
    about, figures = run(asked)
    write_json(asked.json, about, figures)
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    show(console, about, figures)
    say(f"figures in {asked.json}")
    whole = not asked.quick and len(asked.only) == len(ALONE) + len(GROUPS)
    if folder := asked.plots or (PLOTS if whole else None):
        drawn = plots.draw([figure for figure in figures if isinstance(figure, Curve)], folder)
        say(f"{drawn} plots in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
