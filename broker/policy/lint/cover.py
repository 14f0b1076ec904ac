"""Does one rule hold whenever another one does? Exact for what is said in the same terms, else no.

No samples: sets contain sets, networks contain networks, and a week's minutes contain a week's minutes.
"""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network, IPv6Network

from broker.policy.rules import Deny, Grant
from broker.policy.windows import Daily, Network, When, zone_name

_DAY = 24 * 60  # minutes
_WEEK = 7 * _DAY


def grant_covers(larger: Grant, smaller: Grant) -> bool:
    """Whatever `smaller` allows, `larger` allows as well."""
    return (
        set(smaller.workloads) <= set(larger.workloads)
        and set(smaller.scopes) <= set(larger.scopes)
        and _contains(larger.workflows, smaller.workflows)
        and _contains(larger.digests, smaller.digests)
        and (larger.attempts is None or (smaller.attempts is not None and smaller.attempts <= larger.attempts))
        and when_covers(larger.when, smaller.when)
    )


def deny_covers(deny: Deny, grant: Grant) -> bool:
    """Whatever the grant allows, the deny refuses."""
    return (
        (deny.workloads is None or deny.workloads >= set(grant.workloads))
        and (deny.scopes is None or deny.scopes >= set(grant.scopes))
        and _contains(deny.workflows, grant.workflows)
        and _contains(deny.digests, grant.digests)
        and when_covers(deny.when, grant.when)
    )


def when_covers(larger: When, smaller: When) -> bool:
    """`larger` holds whenever and wherever `smaller` does."""
    return (
        (larger.until is None or (smaller.until is not None and smaller.until <= larger.until))
        and _networks_cover(larger.networks, smaller.networks)
        and (larger.daily is None or (smaller.daily is not None and _daily_covers(larger.daily, smaller.daily)))
    )


def _contains(larger: frozenset[str] | None, smaller: frozenset[str] | None) -> bool:
    """None = everything."""
    return larger is None or (smaller is not None and smaller <= larger)


def _networks_cover(larger: tuple[Network, ...] | None, smaller: tuple[Network, ...] | None) -> bool:
    if larger is None:
        return True
    return smaller is not None and all(any(_inside(one, other) for other in larger) for one in smaller)


def _inside(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _daily_covers(larger: Daily, smaller: Daily) -> bool:
    """By the wall clock of one zone; the clocks of two are not compared."""
    if zone_name(larger.tz) != zone_name(smaller.tz):
        return False
    return not _minutes(smaller) & ~_minutes(larger)


@cache
def _minutes(daily: Daily) -> int:
    """The minutes of a week in which the window is open, one bit each."""
    start = daily.start.hour * 60 + daily.start.minute
    end = daily.end.hour * 60 + daily.end.minute
    length = (end - start) % _DAY
    found = 0
    for day in daily.days:
        begins = day * _DAY + start
        found |= ((1 << length) - 1) << begins
    return (found | found >> _WEEK) & ((1 << _WEEK) - 1)
