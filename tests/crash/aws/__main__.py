"""`python -m tests.crash.aws [--kills N] [--seed S]`: exit code 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tests.crash.aws.harness import Harness
from tests.crash.aws.mutants import MUTANTS
from tests.crash.aws.site import cluster, site
from tests.crash.lives import NotAtRest
from tests.support.ceph import MISSING, CephServer, find_ceph


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.aws", description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument(
        "--seed", type=int, default=1, help="chooses points, faults and instants; the load has its own timing"
    )
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), default="", help="run a broken daemon: it must be found out"
    )
    parser.add_argument("--keep", action="store_true", help="leave logs and database in build/")
    parser.add_argument("--short", action="store_true", help="do not wait until every session's bound is over")
    asked = parser.parse_args()
    _say(f"{asked.kills} kills, seed {asked.seed}{', mutant ' + asked.mutant if asked.mutant else ''}")
    if not find_ceph():
        _say(MISSING)
        return 1
    with cluster(keep=asked.keep) as (server, folder):
        return asyncio.run(_run(server, folder, asked))


async def _run(server: CephServer, folder: Path, asked: argparse.Namespace) -> int:
    async with site(server, folder, seed=asked.seed) as ready:
        harness = Harness(ready, seed=asked.seed, mutant=asked.mutant, say=_say)
        failed = False
        try:
            await harness.run(asked.kills)
            await harness.rest(whole=not asked.short)
        except NotAtRest as error:
            failed = True
            _say(str(error))
        finally:
            harness.close()
    for kind, found in sorted(harness.findings.of.items()):
        for one in sorted(found)[:20]:
            _say(f"{kind}: {one}")
    _say(f"{harness.kills} kills, {harness.findings}")
    return int(failed or harness.findings.any)


def _say(text: str) -> None:
    print(f"crash: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
