"""Instants and addresses that stand for all others: whatever else is tried, lies as one of them does."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random

import pytest
from hypothesis import given, settings

from broker.policy.analysis import networks, times
from broker.policy.analysis.cells import TooManyCombinations, Walker
from broker.policy.windows import EVERY_DAY, Daily, When, zone
from tests.support.examples import examples
from tests.unit.policy.analysis.worlds import NOW, seeds
from tests.unit.policy.maps import a_map

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]
LIMITS = [
    NOW + timedelta(days=30, hours=3),
    NOW + timedelta(days=200),
    NOW + timedelta(minutes=2),
    NOW - timedelta(days=9),
]


def some_when(random: Random) -> When:
    start, end = random.sample([time(0), time(1, 59), time(2), time(2, 30), time(3), time(6), time(22)], 2)
    days = frozenset(random.sample(range(7), random.randint(1, 3))) if random.randrange(3) == 0 else EVERY_DAY
    daily = Daily(start=start, end=end, tz=zone(random.choice(ZONES)), days=days)
    return When(until=random.choice([None, None, *LIMITS]), daily=random.choice([daily, daily, None]))


CHANGES = [  # of the clocks, in these zones
    datetime(2026, 3, 8, 7, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
]


def moments(random: Random) -> list[datetime]:
    """Near what matters: changes of the clocks, ends, windows; and anywhere."""
    found = []
    for _ in range(300):
        near = random.choice([NOW, *CHANGES, *LIMITS]) + timedelta(minutes=random.randint(-300, 300))
        far = NOW + timedelta(minutes=random.randint(0, 380 * 1440))
        found.append(random.choice([near, near, far]) + timedelta(seconds=random.choice([0, 0, 1, 30, 59])))
    return [moment for moment in found if moment >= NOW]


def lie(whens: list[When], instant: datetime) -> tuple[object, ...]:
    """Whether each holds, for at least a minute, and which ends before which."""
    looks = [when.look(instant) for when in whens]
    ends = [datetime.max.replace(tzinfo=UTC) if end is None else end for _, end in looks]
    minute = [end - instant >= timedelta(seconds=60) for end in ends]
    order = [[one < other for one in ends] for other in ends]
    return tuple(phase for phase, _ in looks), tuple(minute), str(order)


@settings(max_examples=examples(75, long=300), deadline=None)
@given(seeds)
def test_every_instant_lies_to_the_conditions_as_one_of_the_chosen_does(random: Random) -> None:
    whens = [some_when(random) for _ in range(random.randint(1, 3))]
    cells = {lie(whens, instant) for instant in times.instants(whens, NOW)}
    for moment in moments(random):
        assert lie(whens, moment) in cells, moment


def test_the_clocks_of_a_zone_are_known_to_change() -> None:
    found = times.clock_changes(zone("Europe/Berlin"), NOW, NOW + timedelta(days=300))
    assert found == (CHANGES[1], CHANGES[4])
    assert times.clock_changes(UTC, NOW, NOW + timedelta(days=300)) == ()


def test_the_chosen_instants_are_few_and_from_now_on() -> None:
    daily = Daily(start=time(22), end=time(6), tz=UTC)
    chosen = times.instants([When(), When(daily=daily), When(until=NOW - timedelta(days=1))], NOW)
    assert len(chosen) <= 4
    assert min(chosen) >= NOW
    assert times.instants([], None)
    assert times.instants([When(until=datetime(9999, 12, 31, tzinfo=UTC), daily=daily)], None)
    assert times.instants([When(until=datetime(1, 1, 1, tzinfo=UTC), daily=daily)], None)


NETWORKS = [ip_network(text) for text in ("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32", "::/90")]


@settings(max_examples=examples(40, long=150), deadline=None)
@given(seeds)
def test_every_address_lies_in_the_networks_as_one_of_the_chosen_does(random: Random) -> None:
    lists = sorted({tuple(random.sample(NETWORKS, random.randint(1, 2))) for _ in range(random.randint(0, 3))}, key=str)
    chosen = networks.addresses(lists)
    assert chosen[0] == networks.UNKNOWN
    cells = {networks.cell_of(lists, address) for address in chosen[1:]} or {()}
    bases = [int(network.network_address) for network in NETWORKS]
    for _ in range(100):
        number = random.choice([*bases, 2**32 - 1, 0xFFFF << 32, random.getrandbits(32)]) + random.randint(0, 3)
        assert networks.cell_of(lists, str(IPv4Address(number % 2**32))) in cells
        assert networks.cell_of(lists, str(IPv6Address(random.choice([number, random.getrandbits(128)])))) in cells


def test_more_questions_than_allowed_are_not_sampled() -> None:
    scope_map = a_map("grants:\n  g: {workloads: [load], workflows: ['*'], scopes: [orders]}\n")
    walker = Walker((scope_map,), since=NOW, limit=2)
    with pytest.raises(TooManyCombinations, match="too many combinations to answer exactly"):
        list(walker.cells("orders", scope_map.workloads["load"].pattern))
