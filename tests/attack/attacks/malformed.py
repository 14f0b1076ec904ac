"""Bytes that are no request: of protobuf, of gRPC's framing, of HTTP/2, of the method's name."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator

from stepcred.v1 import broker_pb2 as pb
from tests.attack.target import Target
from tests.attack.wire import block_of, call, flood, headers_of, message

CALLS = 40_000
PEERS = 2
AT_ONCE = 20
METHODS = ("BeginStep", "IssueCredential", "Heartbeat", "RevokeLease", "EndStep", "WhoAmI", "CheckAccess")


def bent(rng: random.Random) -> bytes:
    """An honest message with some bytes that are not, or no message at all."""
    name = pb.StepName(workflow="w0", run="r", step="load")
    body = bytearray(pb.BeginStepRequest(request_id="x" * 36, name=name, scopes=["a"] * 8).SerializeToString())
    for _ in range(rng.randint(1, 8)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body) if rng.random() < 0.7 else rng.randbytes(rng.randint(0, 400))


async def attack(target: Target) -> Counter[str]:
    rng = random.Random(target.seed)
    blocks = [block_of(headers_of(method)) for method in (*METHODS, "", "No/Such", "WhoAmI/../EndStep", "%00")]

    def protobuf(ids: Iterator[int]) -> bytes:
        return b"".join(call(next(ids), rng.choice(blocks), message(bent(rng))) for _ in range(AT_ONCE))

    def framing(ids: Iterator[int]) -> bytes:
        """Lengths that lie, flags that are none, two messages in a call for one."""
        made = []
        for _ in range(AT_ONCE):
            body = bent(rng)
            lied = bytes([rng.choice((0, 1, 2, 255))]) + rng.randbytes(4) + body
            made.append(call(next(ids), rng.choice(blocks), rng.choice((lied, message(body) * 2, body[:3]))))
        return b"".join(made)

    def frames(_ids: Iterator[int]) -> bytes:
        """Frames of any kind on any stream."""
        made = []
        for _ in range(AT_ONCE):
            payload = rng.randbytes(rng.randint(0, 100))
            head = len(payload).to_bytes(3, "big") + bytes([rng.randrange(12), rng.randrange(256)])
            made.append(head + rng.randrange(1 << 31).to_bytes(4, "big") + payload)
        return b"".join(made)

    batches = target.scaled(CALLS) // 3 // PEERS // AT_ONCE
    kinds = (protobuf, framing, frames)
    counts = await asyncio.gather(*(flood(target, kind, batches=batches, peers=PEERS) for kind in kinds))
    return sum(counts, Counter())
