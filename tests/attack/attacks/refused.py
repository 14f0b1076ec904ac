"""100,000 requests of one agent, each of which is refused: unknown handles, foreign scopes, more than its rate."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from stepcred.v1 import broker_pb2 as pb
from tests.attack.target import Target
from tests.attack.wire import GONE, block_of, call, headers_of, message, peer, streams

CALLS = 100_000
PEERS = 4
AT_ONCE = 28  # in flight on one connection: a little below what the daemon allows
HANDLE = "a" * 26


def requests() -> list[tuple[bytes, bytes]]:
    """(header block, message) of each kind."""
    asked = {
        "Heartbeat": pb.HeartbeatRequest(step_handle=HANDLE),
        "IssueCredential": pb.IssueCredentialRequest(request_id="x", step_handle=HANDLE, scope="scope0"),
        "EndStep": pb.EndStepRequest(request_id="f8a1b6d0-0000-4000-8000-000000000000", step_handle=HANDLE),
        "CheckAccess": pb.CheckAccessRequest(name=pb.StepName(workflow="../x", run="r", step="s"), scopes=["a"]),
    }
    return [(block_of(headers_of(method)), message(request.SerializeToString())) for method, request in asked.items()]


async def attack(target: Target) -> Counter[str]:
    kinds, told = requests(), Counter[str]()

    async def one(calls: int) -> None:
        while calls > 0:
            places, under_way = asyncio.Semaphore(AT_ONCE), set[int]()

            def ended(stream: int, places: asyncio.Semaphore = places, under_way: set[int] = under_way) -> None:
                if stream in under_way:
                    under_way.remove(stream)
                    places.release()

            try:
                async with peer(target, deaf=True) as connected:
                    told["connections"] += 1
                    listening = asyncio.create_task(connected.listen(ended))
                    try:
                        for stream in streams():
                            if calls <= 0:
                                break
                            async with asyncio.timeout(20):
                                await places.acquire()
                            calls -= 1
                            under_way.add(stream)
                            await connected.send(call(stream, *kinds[calls % len(kinds)]))
                            told["calls"] += 1
                    finally:
                        told.update(connected.seen)
                        listening.cancel()
            except GONE:
                told["thrown out"] += 1
                await asyncio.sleep(0.1)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(one(target.scaled(CALLS) // PEERS) for _ in range(PEERS)))
    return told
