"""Two answers to one question: which one lets more be done?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

from broker.model import Bind, JsonValue
from broker.policy.decision import Allowed, Concurrent
from broker.policy.durations import format_duration
from broker.policy.language.parts import TIER_ORDER

_PLACES = 20  # of a provider's block, in one line


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """One bound that differs. `texts`: false where they differ from question to question, so that they are no group."""

    attribute: str
    wider: bool
    before: str
    after: str
    texts: bool = True
    of_scope: bool = False  # said by the scope; else by the grant


def shifts(before: Allowed, after: Allowed, owners: tuple[frozenset[str], frozenset[str]]) -> Iterator[Shift]:
    """Every bound that differs; `owners`: of the workloads before and after."""
    for attribute in ("ttl", "max_ttl", "max_step"):
        old, new = getattr(before, attribute), getattr(after, attribute)
        if old != new:
            yield _span(attribute, old, new)
    if before.until != after.until:
        wider = before.until is not None and (after.until is None or after.until > before.until)
        yield Shift(
            attribute="until", wider=wider, before=_instant(before.until), after=_instant(after.until), texts=False
        )
    if before.approvals != after.approvals:
        wider = after.approvals < before.approvals
        yield Shift(attribute="approvals", wider=wider, before=str(before.approvals), after=str(after.approvals))
    if before.shared_hourly != after.shared_hourly:
        most = float("inf")
        wider = (after.shared_hourly or most) > (before.shared_hourly or most)
        old, new = (str(one.shared_hourly) if one.shared_hourly else "none" for one in (before, after))
        yield Shift(attribute="shared_hourly", wider=wider, before=old, after=new, of_scope=True)
    if before.concurrent is not after.concurrent:
        wider = after.concurrent is Concurrent.SUPERSEDE
        yield Shift(attribute="concurrent", wider=wider, before=before.concurrent.value, after=after.concurrent.value)
    if before.bind is not after.bind:
        wider = after.bind is Bind.IDENTITY
        yield Shift(attribute="bind", wider=wider, before=before.bind.value, after=after.bind.value)
    if before.tier is not after.tier:
        wider = TIER_ORDER[after.tier] < TIER_ORDER[before.tier]
        yield Shift(attribute="tier", wider=wider, before=before.tier.value, after=after.tier.value, of_scope=True)
    yield from _minted(before, after)
    if after.approvals and before.approvals and owners[0] != owners[1]:
        # An owner must not approve: with fewer owners, more people may.
        wider = not owners[0] <= owners[1]
        names = [", ".join(sorted(one)) or "none" for one in owners]
        yield Shift(attribute="owners", wider=wider, before=names[0], after=names[1])


def _minted(before: Allowed, after: Allowed) -> Iterator[Shift]:
    """No order is known of what a provider's parameters can do: another one is taken as wider."""
    old, new = before.revocability.value, after.revocability.value
    if old != new:
        yield Shift(attribute="revocability", wider=True, before=old, after=new, of_scope=True)
    if before.provider != after.provider:
        yield Shift(attribute="provider", wider=True, before=before.provider, after=after.provider, of_scope=True)
    elif before.params != after.params:
        places = [*_differences(before.params, after.params, "")]
        texts = [
            "; ".join(f"{place} {text}" for place, *pair in places[:_PLACES] for text in (pair[n],)) for n in (0, 1)
        ]
        more = f"; and {len(places) - _PLACES} more places" if len(places) > _PLACES else ""
        yield Shift(
            attribute="what is minted",
            wider=True,
            before=texts[0],
            after=texts[1] + more,
            texts=False,
            of_scope=True,
        )


def _differences(old: JsonValue, new: JsonValue, place: str) -> Iterator[tuple[str, str, str]]:
    """Where two blocks differ, as (place, before, after): a reviewer must see the very word that changed."""
    inside: Iterable[tuple[str | int, JsonValue, JsonValue]] = ()
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        inside = [(key, old.get(key), new.get(key)) for key in sorted({**old, **new})]
    elif isinstance(old, list) and isinstance(new, list):
        inside = [(n, a, b) for n, (a, b) in enumerate(zip_longest(old, new))]
    elif old != new:
        yield place, _text(old), _text(new)
    for key, was, is_now in inside:
        yield from _differences(was, is_now, f"{place}.{key}" if place else str(key))


def _text(value: JsonValue) -> str:
    return "none" if value is None else ascii(value) if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _span(attribute: str, old: timedelta, new: timedelta) -> Shift:
    return Shift(
        attribute=attribute,
        wider=new > old,
        before=format_duration(old),
        after=format_duration(new),
        of_scope=attribute != "max_step",
    )


def _instant(end: datetime | None) -> str:
    return "never" if end is None else end.isoformat(timespec="minutes")
