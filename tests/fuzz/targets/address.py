"""The transport's name of a peer: an address in its one spelling, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from broker.identity.address import address_of
from tests.fuzz.target import Check, Target

SEEDS = (
    "ipv4:127.0.0.1:53422",
    "ipv6:%5B::1%5D:53422",
    "ipv6:[::ffff:10.0.0.1]:1",
    "ipv6:[fe80::1%25eth0]:1",
    "ipv4:010.1.1.1:1",
    "unix:/run/x",
    "",
)


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    def check(data: bytes) -> None:
        found = address_of(data.decode("utf-8", "surrogateescape"))
        if not found:
            return
        address = ip_address(found)
        assert str(address) == found
        assert getattr(address, "ipv4_mapped", None) is None, "one network has two spellings"
        assert getattr(address, "scope_id", None) is None

    yield check


TARGET = Target(
    ready=ready,
    seeds=lambda: [one.encode() for one in SEEDS],
    words=(b"ipv4:", b"ipv6:", b"%5B", b"%5D", b"::ffff:", b"%25", b"[", b"]", b"fe80::"),
    max_bytes=200,
)
