"""Messages of 12 kB that unfold to 12 MB."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator

from tests.attack.target import Target
from tests.attack.wire import block_of, call, flood, headers_of, message

CALLS = 4000
PEERS = 4
AT_ONCE = 10
UNFOLDED = 12_000_000  # bytes


async def attack(target: Target) -> Counter[str]:
    gzipped = message(gzip.compress(bytes(UNFOLDED)), compressed=True)
    deflated = message(zlib.compress(bytes(UNFOLDED)), compressed=True)
    with_gzip, with_deflate = (block_of(headers_of("WhoAmI", grpc_encoding=name)) for name in ("gzip", "deflate"))

    def batch(ids: Iterator[int]) -> bytes:
        return b"".join(
            call(next(ids), with_gzip, gzipped) + call(next(ids), with_deflate, deflated) for _ in range(AT_ONCE // 2)
        )

    return await flood(target, batch, batches=target.scaled(CALLS) // PEERS // AT_ONCE, peers=PEERS)
