"""The load generator, a process of its own: `python -m tests.bench.load TARGETS`.

Reads one JSON order per line, and answers each. `{"side", "concurrency", "seconds"}` with a sample, in a closed loop: each of the
`concurrency` workers sends its next call when the last one is answered, until the time is over. `{"drain", "count", "seconds"}`
with what one drain found.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tests.bench.targets import Targets, crowd_name, read_targets

TICKS = os.sysconf("SC_CLK_TCK")


class Side(Protocol):
    """Something to be measured. Only `once` is timed."""

    async def prepare(self, workers: int) -> None: ...

    async def once(self, worker: int) -> Mapping[str, float]:
        """One operation; seconds of each part of it worth knowing."""
        ...

    async def finish(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What one order found."""

    ops: int
    seconds: float
    parts_ms: dict[str, list[float]]
    cpu_seconds: dict[str, float]  # by process


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; resolution 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def cpu_by(watch: Mapping[str, int]) -> dict[str, float]:
    """The same of several, by name."""
    return {name: cpu_seconds(pid) for name, pid in watch.items()}


async def measure(side: Side, *, concurrency: int, seconds: float, watch: Mapping[str, int]) -> Sample:
    """Prepare, run for the time given, finish; the first error ends it."""
    await side.prepare(concurrency)
    sample = await run(side, concurrency=concurrency, seconds=seconds, watch=watch)
    await side.finish()
    return sample


async def run(side: Side, *, concurrency: int, seconds: float, watch: Mapping[str, int]) -> Sample:
    """What is measured of it."""
    parts: defaultdict[str, list[float]] = defaultdict(list)
    ops = 0

    async def work(worker: int) -> None:
        nonlocal ops
        while time.perf_counter() < until:
            for name, took in (await side.once(worker)).items():
                parts[name].append(took * 1000)
            ops += 1

    before = cpu_by(watch)
    start = time.perf_counter()
    until = start + seconds
    async with asyncio.TaskGroup() as group:
        for worker in range(concurrency):
            group.create_task(work(worker))
    took = time.perf_counter() - start
    used = {name: now - before[name] for name, now in cpu_by(watch).items()}
    return Sample(ops=ops, seconds=took, parts_ms=dict(parts), cpu_seconds=used)


def sides(targets: Targets) -> dict[str, Callable[[], Side]]:
    """Every side by name."""
    from tests.bench.aws import AssumeRole, Sts, ceph_scope
    from tests.bench.brokered import Issue, SdkCycle, StepLife
    from tests.bench.direct import Create, HvacCycle, Kill
    from tests.bench.neighbours import Neighbours
    from tests.bench.reads import Reads

    step = targets.vault.agents[0]
    found: dict[str, Callable[[], Side]] = {
        "echo": lambda: Issue(targets.echo, opens=False),
        "null": lambda: Issue(targets.null),
        "stub": lambda: Issue(targets.stub),
        "vault": lambda: Issue(targets.vault),
        "step": lambda: StepLife(targets.vault),
        "cycle": lambda: SdkCycle(targets.vault),
        "calm": lambda: Neighbours(targets.limited, beset=False),
        "beset": lambda: Neighbours(targets.limited, beset=True),
        "create": lambda: Create(targets.direct, step, login_each=False),
        "login_create": lambda: Create(targets.direct, step, login_each=True),
        "kill": lambda: Kill(targets.direct, step),
        "hvac_cycle": lambda: HvacCycle(targets.direct, step),
        "sts": lambda: Issue(targets.aws, proven=False),
        "boto3": lambda: AssumeRole(Sts(**targets.sts)),
        "reads": lambda: Reads(targets.sidecar),
    }
    for size, crowd in targets.crowds.items():
        found[crowd_name(size)] = partial(Issue, crowd)
    if targets.ceph:
        found["sts_ceph"] = lambda: Issue(targets.aws, proven=False, scope=ceph_scope)
        found["boto3_ceph"] = lambda: AssumeRole(Sts(**targets.ceph))
        found["denied"] = lambda: StepLife(targets.aws, denied=True)
    return found


async def serve(targets: Targets) -> None:
    known = sides(targets)
    watch = {**targets.watch, "load": os.getpid()}
    made: dict[str, Side] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = json.loads(line)
        if "drain" in order:
            found = await drained(order, targets, watch)
        else:
            name = order["side"]
            if name not in made:
                made[name] = known[name]()
            watched = watch | order.get("watch", {})
            sample = await measure(
                made[name], concurrency=order["concurrency"], seconds=order["seconds"], watch=watched
            )
            found = asdict(sample)
        print(json.dumps(found), flush=True)


async def drained(order: Mapping[str, Any], targets: Targets, watch: Mapping[str, int]) -> dict[str, Any]:
    """`{"drain": "ours" or "theirs", "count", "seconds"}`."""
    from tests.bench.drain import Drain

    drain = Drain(targets, watch)
    ours = order["drain"] == "ours"
    found = await (drain.ours(order["count"], order["seconds"]) if ours else drain.theirs(order["count"]))
    return asdict(found)


if __name__ == "__main__":
    asyncio.run(serve(read_targets(Path(sys.argv[1]))))
