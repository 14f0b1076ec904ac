"""`python -m tests.reloads [--reloads N] [--seed S]`: exit code 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
from pathlib import Path

from tests.reloads.armed_broker import MUTANTS
from tests.reloads.harness import Harness
from tests.support.bao import openbao


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reloads", description=__doc__)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument(
        "--seed", type=int, default=1, help="chooses what is broken, and how; the load has its own timing"
    )
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="a broken daemon: it must be found out")
    parser.add_argument("--until", default="", metavar="REGEX", help="stop at the first finding that matches")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reloads-") as name, openbao(Path(name)) as bao:
        harness = Harness(bao, Path(name), seed=asked.seed, mutant=asked.mutant, until=asked.until)
        asyncio.run(harness.run(asked.reloads))
        findings = harness.findings
        for kind in ("wrong", "lost", "leaked"):
            sought = [one for one in getattr(findings, kind) if asked.until and re.search(asked.until, one)]
            for one in [*sought, *getattr(findings, kind)][:10]:
                print(f"{kind}: {one}")
        print("answers: " + ", ".join(f"{count} {what}" for what, count in sorted(harness.answers.items())))
        if harness.excused:
            print(f"{harness.excused} half-written files stood too long to be told from whole ones")
        print(f"reloads: {findings}")
    return int(findings.any)


if __name__ == "__main__":
    sys.exit(main())
