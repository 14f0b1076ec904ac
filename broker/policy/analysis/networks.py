"""Addresses that stand for all others: one for each way in which some lists of networks hold together."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from broker.policy.windows import Network, read_address

UNKNOWN = ""
_FIRST = {4: [0], 6: [0, 0xFFFF << 32, (0xFFFF << 32) + (1 << 32)]}  # IPv4 in IPv6 spelling is IPv4


def addresses(lists: Iterable[tuple[Network, ...]]) -> tuple[str, ...]:
    """One address for each cell, the unknown one first."""
    kinds = sorted({*lists}, key=str)
    found: dict[tuple[bool, ...], str] = {}
    for version, highest in ((4, 2**32), (6, 2**128)):
        ends = {*_FIRST[version]}
        for network in (network for kind in kinds for network in kind if network.version == version):
            start = int(network.network_address)
            ends |= {start, start + network.num_addresses}
        for number in sorted(end for end in ends if end < highest) if kinds else ():
            text = str(IPv4Address(number) if version == 4 else IPv6Address(number))  # noqa: PLR2004  # IPv4
            found.setdefault(cell_of(kinds, text), text)
    return (UNKNOWN, *found.values())


def cell_of(kinds: list[tuple[Network, ...]], text: str) -> tuple[bool, ...]:
    """In which of the lists an address is."""
    address = read_address(text)
    return tuple(any(address in network for network in kind) for kind in kinds)
