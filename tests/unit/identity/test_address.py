"""Whatever the transport calls a peer: an address, or none."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.identity.address import address_of


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:53422", "127.0.0.1"),
        ("ipv6:%5B::1%5D:53422", "::1"),
        ("ipv6:[::1]:53422", "::1"),
        ("ipv6:%5B2001:DB8:0:0::7%5D:1", "2001:db8::7"),
        ("ipv6:%5B::ffff:10.1.2.3%5D:1", "10.1.2.3"),
        ("ipv6:[::ffff:0a01:0203]:1", "10.1.2.3"),
    ],
)
def test_an_address_is_found_in_its_one_spelling(peer: str, address: str) -> None:
    assert address_of(peer) == address


@pytest.mark.parametrize(
    "peer",
    [
        "",
        "unix:",
        "unix:/run/broker.sock",
        "ipv4:127.0.0.1",
        "ipv4:127.0.0.1:",
        "ipv4:127.0.0.01:1",
        "ipv4:127.0.0.256:1",
        "ipv4:127.0.0.1:1\n",
        "ipv4:127.0.0.1:1:1",
        "ipv4:127.0.0.1:\uff11",
        "ipv4:\uff1127.0.0.1:1",
        "ipv4:1",
        "IPV4:127.0.0.1:1",
        "ipv6:::1:1",
        "ipv6:%5B::1%5D",
        "ipv6:%5B::1%5D:x",
        "ipv6:%5B:::1%5D:1",
        "ipv6:%5Bfe80::1%25eth0%5D:1",
        "ipv6:%255B::1%255D:1",
        "ipv6:%5B::ffff:10.1.2.999%5D:1",
        "dns:localhost:1",
        "10.0.0.1",
        "ipv4:10.0.0.1:1,ipv4:10.0.0.2:1",
    ],
)
def test_anything_else_has_none(peer: str) -> None:
    assert address_of(peer) == ""


@given(st.one_of(st.text(), st.from_regex(r"ipv[46]:(%5B|\[)?[0-9a-f:.%]*(%5D|\])?:[0-9]*")))
def test_any_text_has_an_address_or_none(peer: str) -> None:
    found = address_of(peer)
    assert found == "" or str(ip_address(found)) == found


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_comes_back(address: IPv4Address | IPv6Address, port: int) -> None:
    if isinstance(address, IPv4Address):
        assert address_of(f"ipv4:{address}:{port}") == str(address)
        assert address_of(f"ipv6:%5B::ffff:{address}%5D:{port}") == str(address)
    else:
        assert address_of(f"ipv6:%5B{address}%5D:{port}") == str(address.ipv4_mapped or address)
