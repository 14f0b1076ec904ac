"""What many leases do: to an issue, to the memory, when they all end at once; and many reads of one."""

from __future__ import annotations

from typing import Any

from broker.leases.lane import BULKHEAD
from tests.bench.crowd import Crowds, standing
from tests.bench.figures import Curve, Line, Measured, Ratio, Spread, Value, latency, percentile, tail, throughput
from tests.bench.load import Sample
from tests.bench.neighbours import PACE
from tests.bench.rounds import ONE, Bench, say
from tests.bench.setup import rss_mb
from tests.bench.targets import AGENTS, crowd_name

READERS = 16
POINTS = 200  # of one drain's line
WHOLE_ROUNDS = 2.0  # samples' time: the reaper goes round once a second, and none may fall between two of its rounds
LONGEST = 15.0  # seconds that a sweep is waited for


def growth(bench: Bench) -> list[Ratio | Value | Curve]:
    """An issue beside few and many live leases, and the memory of the daemon that has the most."""
    sizes = sorted(bench.world.crowds)
    few, most = sizes[0], sizes[-1]
    say(f"{', '.join(f'{size:,}' for size in sizes)} live leases: writing the databases, starting the daemons")
    with standing(bench.world.crowds, settle=bench.plan.seconds) as crowds:
        with crowds.awake(most) as pid:
            crowds.work_off(most, longest=LONGEST * bench.plan.seconds)
            idle = rss_mb(pid)
        found = _issue_beside(bench, crowds, sizes)
        memory = _memory(bench, crowds, most, idle)
    sides = {size: Measured(side=crowd_name(size), part="issue", samples=found[size]) for size in sizes}
    what = f"p50 of an issue beside {most:,} live leases / beside {few:,}"
    medians = {size: side.medians() for size, side in sides.items()}
    ratios = {size: [many / fewest for many, fewest in zip(medians[size], medians[few], strict=True)] for size in sizes}
    curve = Curve(
        key="curve.leases",
        what="An issue beside many live leases (null provider, one call in flight)",
        x="live leases in the database",
        panels={
            f"p50, times that beside {few:,}": (
                Line.of("issue", {float(size): values for size, values in ratios.items()}),
            ),
            "p50 in ms": (Line.of("issue", {float(size): values for size, values in medians.items()}),),
            "p99 in ms": (Line.of("issue", {float(size): side.tails() for size, side in sides.items()}),),
        },
    )
    return [latency("growth.leases", what, ONE, ours=sides[most], theirs=sides[few]), memory, curve]


def _issue_beside(bench: Bench, crowds: Crowds, sizes: list[int]) -> dict[int, list[Sample]]:
    """One daemon at a time, forwards and backwards in turn."""
    found: dict[int, list[Sample]] = {size: [] for size in sizes}
    for number in bench.numbers:
        say(f"issue beside {', '.join(f'{size:,}' for size in sizes)} live leases: round {bench.named(number)}")
        for size in sizes if number % 2 else sizes[::-1]:
            with crowds.awake(size) as pid:
                seconds = bench.plan.seconds * WHOLE_ROUNDS
                watch = {crowd_name(size): pid}
                sample = bench.world.load.sample(crowd_name(size), concurrency=ONE, seconds=seconds, watch=watch)
            if number > 0:
                found[size].append(sample)
    return found


def _memory(bench: Bench, crowds: Crowds, size: int, idle: float) -> Value:
    say(f"memory with {size:,} live leases: reaper, sweep and scrape")
    with crowds.awake(size) as pid:
        crowds.sweep(size)
        crowds.scrape(size)
        crowds.work_off(size, longest=LONGEST * bench.plan.seconds)
        live = crowds.live(size)
        resident, peak = rss_mb(pid), rss_mb(pid, "VmHWM")
    assert live >= size, f"{size - live} leases have ended"
    return Value(
        key="rss_mb_100k",
        what=f"the daemon's resident memory with {size:,} live leases, after issues, reaper, sweep of a new map, scrape",
        unit="MB",
        value=Spread.of([resident]),
        detail={"idle": idle, "peak": peak, "live": live},
    )


def drain(bench: Bench) -> list[Ratio | Curve]:
    """All due at once, against a tight client; and what those feel who issue meanwhile."""
    count, seconds = bench.plan.drain, bench.plan.issuing
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "theirs": []}
    for number in range(1, bench.plan.rounds + 1):
        say(f"{count:,} leases due at once, and a tight client: round {number} of {bench.plan.rounds}")
        for whose in ("ours", "theirs") if number % 2 else ("theirs", "ours"):
            found[whose].append(bench.world.load.drain(whose, count=count, seconds=seconds))

    def side(whose: str, name: str, *, field: str = "revoked", part: str = "revoked") -> Measured:
        return Measured(side=name, part=part, samples=[Sample(**one[field]) for one in found[whose]])

    rates = {"ours": side("ours", "drain"), "theirs": side("theirs", "tight client")}
    issuing = {
        "ours": side("ours", "during the drain", field="during", part="issue"),
        "theirs": side("ours", "before it", field="before", part="issue"),
    }
    pace = f"p99 of issuing, {AGENTS} agents, {1 / PACE:g} a second each: while {count:,} leases are drained / before"
    what = f"{count:,} leases due at once: proven revocations per second / a tight client doing the same calls"
    return [
        throughput("drain", what, BULKHEAD, **rates),
        tail("drain.issue_p99", pace, AGENTS, **issuing),
        _drain_curve(found["ours"][-1], found["theirs"][-1], count),
    ]


def _drain_curve(ours: dict[str, Any], theirs: dict[str, Any], count: int) -> Curve:
    """Of the last round: what was dead when, and each second's issues."""
    issues: dict[int, list[float]] = {}
    for at, took in ours["issues"]:
        issues.setdefault(int(at // 1), []).append(took)
    x = tuple(second + 0.5 for second in sorted(issues))
    slow = tuple(percentile(issues[second], 0.99) for second in sorted(issues))
    usual = tuple(percentile(issues[second], 0.5) for second in sorted(issues))
    return Curve(
        key="curve.drain",
        what=f"{count:,} leases that are due at once (the last round)",
        x="seconds since they were due",
        panels={
            "revoked, with proof": (_risen("broker", ours["timeline"]), _risen("tight client", theirs["timeline"])),
            "issue meanwhile, in ms": (Line(side="p50", x=x, y=usual), Line(side="p99 of each second", x=x, y=slow)),
        },
    )


def _risen(side: str, timeline: list[float]) -> Line:
    step = max(1, len(timeline) // POINTS)
    numbers = [*range(0, len(timeline), step), len(timeline) - 1]
    return Line(side=side, x=tuple(timeline[one] for one in numbers), y=tuple(float(one + 1) for one in numbers))


def sidecar(bench: Bench) -> list[Value]:
    """Reads of one lease from a sidecar's cache."""
    with bench.world.sidecar.running() as pid:
        samples = bench.alternate("reads", concurrency=READERS, watch={"sidecar": pid})["reads"]
    reads = Measured(side="reads", part="read", samples=samples)
    summary = reads.summary()
    return [
        Value(
            key="sidecar.reads",
            what=f"reads of the container-credentials endpoint, {READERS} in flight; bound by the sidecar's CPU",
            unit="/s",
            value=Spread.of(reads.rates()),
            detail={
                "p50_ms": Spread.of(reads.medians()).median,
                "p99_ms": Spread.of(reads.tails()).median,
                "sidecar_us": summary.cpu_us["sidecar"],
                "load_us": summary.cpu_us["load"],
            },
        )
    ]
