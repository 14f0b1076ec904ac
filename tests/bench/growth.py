"""What does not need the daemon: `decide()` at many grants, and what importing the SDK costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from math import isqrt

from broker.policy.decision import AccessRequest, Allowed
from broker.policy.language.load import parse
from broker.policy.scope_map import ScopeMap
from broker.wiring.adapters import scope_kinds
from tests.bench.figures import Curve, Line, Spread, Value

NOW = datetime(2026, 6, 1, tzinfo=UTC)
STRIDE = 7919  # a prime: neighbours in the list of questions are not neighbours in the map

# Settled before the clock starts: everything that grpc brings along is there in a step that talks to anything.
IMPORT = (
    "import time; s = time.perf_counter(); import grpc; t = time.perf_counter(); import stepcred; "
    "u = time.perf_counter(); stepcred.connect; print(t - s, u - t, time.perf_counter() - t)"
)


def map_of(grants: int) -> tuple[ScopeMap, list[AccessRequest]]:
    """A map with a square number of grants, each for one workload and scope, and a question that fits each."""
    side = isqrt(grants)
    workloads = [f'  w{i}: {{id: "spiffe://dev.local/workflow/{{workflow}}/step/s{i}"}}' for i in range(side)]
    scopes = [f"  x{i}: {{vault: {{role: r{i}}}, ttl: 10m, tier: low}}" for i in range(side)]
    rules = [
        f'  g{i}-{j}: {{workloads: [w{i}], workflows: ["*"], scopes: [x{j}]}}' for i in range(side) for j in range(side)
    ]
    head = ["version: 1", "environment: dev", "trust_domain: dev.local"]
    text = "\n".join([*head, "workloads:", *workloads, "scopes:", *scopes, "grants:", *rules, ""])
    asked = [
        AccessRequest(
            agent=f"spiffe://dev.local/workflow/etl/step/s{i}",
            workflow="etl",
            run="1",
            step=f"s{i}",
            scope=f"x{j}",
            now=NOW,
        )
        for i in range(side)
        for j in range(side)
    ]
    return parse(text, "bench.yaml", scope_kinds()), asked


def decide_us(scope_map: ScopeMap, asked: list[AccessRequest], times: int) -> float:
    """Microseconds of CPU for one decision, over `times` different questions; what other processes take is not in it."""
    questions = [asked[k * STRIDE % len(asked)] for k in range(times)]
    assert all(isinstance(scope_map.decide(question), Allowed) for question in questions[:100])
    start = time.thread_time()
    for question in questions:
        scope_map.decide(question)
    return (time.thread_time() - start) / times * 1e6


def grants(rounds: int, sizes: Sequence[int] = (100, 900, 2_500, 10_000), *, times: int = 5_000) -> list[Value | Curve]:
    """`growth.grants`: the cost of a decision at the most grants over that at the fewest, all sizes alternating."""
    start = time.perf_counter()
    maps = [map_of(size) for size in sizes]
    loading = time.perf_counter() - start
    found = [[decide_us(*one, times) for one in maps] for _ in range(rounds + 1)][1:]
    took = {float(size): list(column) for size, column in zip(sizes, zip(*found, strict=True), strict=True)}
    few, many = min(sizes), max(sizes)
    ratios = {size: [a / b for a, b in zip(us, took[few], strict=True)] for size, us in took.items()}
    value = Value(
        key="growth.grants",
        what=f"CPU of decide() at {many:,} grants against {few:,}",
        unit="x",
        value=Spread.of(ratios[many]),
        detail={
            "few": few,
            "many": many,
            "few_us": Spread.of(took[few]).median,
            "many_us": Spread.of(took[many]).median,
            "load_seconds": loading,
        },
    )
    curve = Curve(
        key="curve.grants",
        what="decide() over many grants",
        x="grants in the scope map",
        panels={
            f"CPU of a decision, times that at {few:,}": (Line.of("decide()", ratios),),
            "CPU of a decision in µs": (Line.of("decide()", took),),
        },
    )
    return [value, curve]


def import_ms(rounds: int) -> Value:
    """`import_ms`: a new interpreter each time, what `stepcred.connect` needs beyond `import grpc`."""

    def once() -> list[float]:
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True, timeout=60)
        return [float(seconds) * 1000 for seconds in done.stdout.split()]

    found = [once() for _ in range(rounds + 1)][1:]
    grpc, bare, whole = (Spread.of(column) for column in zip(*found, strict=True))
    return Value(
        key="import_ms",
        what="import stepcred, with connect, beyond import grpc",
        unit="ms",
        value=whole,
        detail={
            "without connect": bare.median,
            "import grpc": grpc.median,
            "of import grpc": Spread.of([ours / theirs for theirs, _, ours in found]).median,
        },
    )
