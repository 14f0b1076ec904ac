"""The IP address in the transport's name of a peer. Pure and total: what is not understood has none."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import unquote

# As gRPC 1.85 writes them (measured): "ipv4:127.0.0.1:53422", "ipv6:%5B::1%5D:53422"; older ones leave the brackets be.
_IPV4 = re.compile(r"ipv4:([0-9.]{7,15}):[0-9]{1,5}", re.ASCII)
_IPV6 = re.compile(r"ipv6:\[([0-9A-Fa-f:.]{2,45})\]:[0-9]{1,5}", re.ASCII)


def address_of(peer: str) -> str:
    """The canonical text of the address, "" when there is none.

    An IPv4 address that a dual-stack socket shows as IPv6 is IPv4 again, so that a network has one spelling. A
    link-local one with its interface has none: it says nothing to another machine.
    """
    try:
        if found := _IPV4.fullmatch(peer):
            return str(IPv4Address(found[1]))
        if found := _IPV6.fullmatch(unquote(peer)):
            address = IPv6Address(found[1])
            return str(address.ipv4_mapped or address)
    except ValueError:
        pass
    return ""
