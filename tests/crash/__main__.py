"""`python -m tests.crash [--kills N] [--seed S]`: exit code 1 when anything was found."""

from __future__ import annotations

import argparse
import asyncio
import sys

from tests.crash.harness import Harness
from tests.crash.lives import NotAtRest
from tests.crash.mutants import MUTANTS
from tests.crash.site import Site, site


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="chooses points and instants; the load has its own timing")
    parser.add_argument(
        "--mutant", choices=sorted(MUTANTS), default="", help="run a broken daemon: it must be found out"
    )
    parser.add_argument("--keep", action="store_true", help="leave logs and database in build/")
    parser.add_argument("--no-rest", action="store_true", help="do not wait for everything to end")
    asked = parser.parse_args()
    _say(f"{asked.kills} kills, seed {asked.seed}{', mutant ' + asked.mutant if asked.mutant else ''}")
    with site(keep=asked.keep) as ready:
        return asyncio.run(_run(ready, asked))


async def _run(ready: Site, asked: argparse.Namespace) -> int:
    if ready.pg is None:
        _say("no PostgreSQL here: tokens only")
    harness = Harness(ready, seed=asked.seed, mutant=asked.mutant, say=_say)
    failed = False
    try:
        await harness.run(asked.kills, asked.seed)
        if not asked.no_rest:
            await harness.rest()
    except NotAtRest as error:
        failed = True
        _say(str(error))
    finally:
        harness.close()
    findings = harness.findings
    for kind in ("unknown", "duplicate", "leaked", "forgotten"):
        for one in sorted(getattr(findings, kind))[:20]:
            _say(f"{kind}: {one}")
    if findings.forgotten:
        _say(f"OpenBao forgot {len(findings.forgotten)} logins: no lease, nobody was told, they end with their ttl")
    _say(f"{harness.kills} kills, {findings}")
    return int(failed or findings.any)


def _say(text: str) -> None:
    print(f"crash: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
