"""`python -m tests.attack.attacker NAME TARGET`: one attack in a process of its own; what it did, on standard output.

Begun anew until its time is over; each time is bounded in count by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import uvloop

from tests.attack.attacks import ATTACKS, ONCE
from tests.attack.target import Target
from tests.support.processes import allow_files

NICE = 10  # an attacker has machines of its own: here its work must not be what slows the honest down
FILES = 20_000


def main() -> int:
    name, path = sys.argv[1:]
    os.nice(NICE)
    allow_files(FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = runner.run(attack(name, Target.read(Path(path))))
    print(json.dumps(told))
    return 0


async def attack(name: str, target: Target) -> Counter[str]:
    told: Counter[str] = Counter()
    end = time.monotonic() + target.seconds
    while (left := end - time.monotonic()) > 0:
        told += await ATTACKS[name](replace(target, seconds=left))
        told["times"] += 1
        if name in ONCE:
            break
    return told


if __name__ == "__main__":
    sys.exit(main())
