"""One hash chain per epoch: each record's hash covers the one before, so that nothing can be taken out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

EMPTY = b"\0" * 32  # before the first record of the first chain


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A stored record. (chain, seq) orders them: chain = epoch, seq counts from 0 (GENESIS)."""

    chain: int
    seq: int
    body: str
    prev: bytes
    hash: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Head:
    """The end of a chain."""

    chain: int
    seq: int
    hash: bytes


def link(prev: bytes, chain: int, seq: int, body: str) -> bytes:
    """SHA-256 over predecessor, position and body."""
    position = chain.to_bytes(8, "big") + seq.to_bytes(8, "big")
    return hashlib.sha256(prev + position + body.encode()).digest()


def verify(entries: Iterable[Entry]) -> list[str]:
    """Every break found, in order of (chain, seq); empty when the chain holds.

    A chain's GENESIS (seq 0) has the hash of the previous chain's last record as `prev`.
    """
    problems: list[str] = []
    last: Entry | None = None
    for entry in entries:
        where = f"record {entry.chain}/{entry.seq}"
        new_chain = last is None or entry.chain != last.chain
        expected_seq = 0 if new_chain or last is None else last.seq + 1
        expected_prev = EMPTY if last is None else last.hash
        if entry.seq != expected_seq:
            problems.append(f"{where}: expected seq {expected_seq}; records are missing")
        if entry.prev != expected_prev:
            problems.append(f"{where}: does not follow the record before it")
        if entry.hash != link(entry.prev, entry.chain, entry.seq, entry.body):
            problems.append(f"{where}: its text was changed")
        last = entry
    return problems
