"""How long a refusal takes, by what it is about: `python -m tests.bench.strangers [CALLS]`.

A report, and no test: that the *work* is the same is asserted in tests/unit/rpc/test_strangers.py. One process, one
agent, SQLite with its fsyncs, every kind in turn so that noise falls on all alike. 1.00 = the unknown one.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio

from broker import log
from broker.config import Limits
from broker.guard.limiter import RateLimit
from stepcred.v1 import broker_pb2 as pb
from tests.fakes.world import OTHER, agent, new_id
from tests.unit.rpc.conftest import Edge, edge_of

CALLS = 300  # of each kind


async def _kinds(edge: Edge) -> dict[str, dict[str, Callable[[], Any]]]:
    """What is asked → whose it is → the call. `other` asks; `load` owns."""
    broker, stub = edge.broker, edge.stub(edge.ca.agent(OTHER))
    theirs = await broker.begin(run="r1")
    lease = await broker.issue(theirs.handle)
    mine = await broker.begin(["plain", "no-such", "elevated"], who=agent(OTHER), run="r2")
    await broker.load_map(broker.map_text.replace("concurrent: supersede", "when: {until: 2020-01-01}"))
    unknown = "a" * len(theirs.handle)

    def issue(handle: str, scope: str) -> Callable[[], Any]:
        return lambda: stub.IssueCredential(
            pb.IssueCredentialRequest(request_id=new_id(), step_handle=handle, scope=scope)
        )

    def check(scope: str) -> Callable[[], Any]:
        name = pb.StepName(workflow="nightly", run="r", step="load")
        return lambda: stub.CheckAccess(pb.CheckAccessRequest(name=name, scopes=[scope]))

    def beat(handle: str) -> Callable[[], Any]:
        return lambda: stub.Heartbeat(pb.HeartbeatRequest(step_handle=handle))

    def revoke(handle: str, lease_id: str) -> Callable[[], Any]:
        return lambda: stub.RevokeLease(
            pb.RevokeLeaseRequest(request_id=new_id(), step_handle=handle, lease_id=lease_id)
        )

    def end(handle: str) -> Callable[[], Any]:
        return lambda: stub.EndStep(pb.EndStepRequest(request_id=new_id(), step_handle=handle))

    scopes = {"unknown": "no-such", "another's": "elevated", "known, refused": "plain"}
    leases = {"unknown": "a" * 16, "another's": lease.lease.id}
    handles = {"unknown": unknown, "another's": theirs.handle}
    return {
        "IssueCredential, scope": {whose: issue(mine.handle, scope) for whose, scope in scopes.items()},
        "CheckAccess, scope": {whose: check(scope) for whose, scope in scopes.items()},
        "IssueCredential, handle": {whose: issue(handle, "plain") for whose, handle in handles.items()},
        "Heartbeat, handle": {whose: beat(handle) for whose, handle in handles.items()},
        "EndStep, handle": {whose: end(handle) for whose, handle in handles.items()},
        "RevokeLease, handle": {whose: revoke(handle, "a" * 16) for whose, handle in handles.items()},
        "RevokeLease, lease": {whose: revoke(mine.handle, lease_id) for whose, lease_id in leases.items()},
    }


async def _took(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call()
    return time.perf_counter() - begun


async def _measure(calls: int) -> None:
    limit = RateLimit(per_second=1e6, burst=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        async with edge_of(Path(folder), limits=Limits(), limit=limit, sqlite=True) as edge:
            for what, kinds in (await _kinds(edge)).items():
                times: dict[str, list[float]] = {whose: [] for whose in kinds}
                for number in range(calls):
                    order = list(kinds) if number % 2 else list(reversed(kinds))
                    for whose in order:
                        times[whose].append(await _took(kinds[whose]))
                medians = {whose: statistics.median(taken) for whose, taken in times.items()}
                ratios = "  ".join(f"{whose} {median / medians['unknown']:.3f}" for whose, median in medians.items())
                spread = statistics.quantiles(times["unknown"], n=4)
                print(
                    f"{what:26} {1000 * medians['unknown']:.2f} ms "
                    f"(quartiles {1000 * spread[0]:.2f}-{1000 * spread[2]:.2f})  {ratios}"
                )


if __name__ == "__main__":
    log.configure("error")
    asyncio.run(_measure(int(sys.argv[1]) if len(sys.argv) > 1 else CALLS))
