"""A tier's numbers for the guard: those that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from broker.config import TIER_DEFAULTS
from broker.model import Tier
from broker.policy.durations import format_duration
from broker.policy.language.schema.entries import TierEntry

_OF_LOCKS = ("lock", "on_lock", "compensate")


def tier_mistakes(name: object, entry: TierEntry) -> Iterator[tuple[str, str]]:
    """As (key, what is wrong with it)."""
    if name == Tier.LOW.value:
        for key in _OF_LOCKS:
            if getattr(entry, key) is not None:
                yield key, "tier low never locks: its budget comes back with time"
    first = entry.cool_down or TIER_DEFAULTS[Tier.LOW]["cool_down"]  # the same in all tiers
    longest = entry.max_cool_down or TIER_DEFAULTS[Tier.LOW]["max_cool_down"]
    if first > longest:
        key = "cool_down" if entry.cool_down else "max_cool_down"
        yield (
            key,
            f"cool_down is {format_duration(first)}, and max_cool_down {format_duration(longest)}: it must not be longer",
        )
