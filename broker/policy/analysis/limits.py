"""What the guard allows a tier, in two maps: which one lets more be done?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from broker.config import TIER_DEFAULTS, Guard
from broker.model import OnLock, Tier
from broker.policy.durations import format_duration
from broker.policy.language.parts import TierRule

BUILT_IN = Guard()  # nothing set by a deployment
_MORE_IS_WIDER = ("budget", "hourly", "ceiling_factor")
_LESS_IS_WIDER = ("refill", "lock", "cool_down", "max_cool_down")
_REACH = {kind: number for number, kind in enumerate(OnLock)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One number that differs."""

    attribute: str
    wider: bool
    before: str
    after: str


def moves(tier: Tier, before: TierRule | None, after: TierRule | None, site: Guard) -> Iterator[Move]:
    """Every number of the guard that differs; what a map leaves out is the `site`'s, or built in."""
    old, new = _numbers(tier, before, site), _numbers(tier, after, site)
    for name in (*_MORE_IS_WIDER, *_LESS_IS_WIDER):
        was, is_now = old[name], new[name]
        if was != is_now:
            wider = (_size(is_now) > _size(was)) is (name in _MORE_IS_WIDER)
            yield Move(attribute=name, wider=wider, before=_text(was), after=_text(is_now))
    yield from _halts(before, after)


def _numbers(tier: Tier, rule: TierRule | None, site: Guard) -> dict[str, int | timedelta]:
    found = {**TIER_DEFAULTS[tier], **site.of(tier).changes(), **(rule.limits.changes() if rule else {})}
    return {name: timedelta.max if value is None else value for name, value in found.items()}


def _halts(before: TierRule | None, after: TierRule | None) -> Iterator[Move]:
    """What a lock ends, and who is told of it: another receiver may do nothing."""
    old, new = (rule.on_lock if rule else OnLock.STEP for rule in (before, after))
    if old is not new:
        yield Move(attribute="on_lock", wider=_REACH[new] < _REACH[old], before=old.value, after=new.value)
    was, is_now = (rule.compensate if rule else "" for rule in (before, after))
    if was != is_now:
        yield Move(attribute="compensate", wider=bool(was), before=was or "none", after=is_now or "none")


def _size(value: int | timedelta) -> float:
    return value if isinstance(value, int) else value.total_seconds()


def _text(value: int | timedelta) -> str:
    if isinstance(value, int):
        return str(value)
    return "never" if value == timedelta.max else format_duration(value)
