"""Instants that stand for all others: one for each way in which some conditions of time hold together.

Between two changes of the clocks every week is as the next one. So a week after each of them, and the days around it,
show all that a year can; a year after each `until` shows all that comes before the next one. (A zone whose rule is
another one each year, as Morocco's, is looked at for that year.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

from broker.model import MIN_LEASE_LIFE
from broker.policy.windows import Daily, Phase, When

_YEAR = timedelta(days=400)
_WEEK = timedelta(days=9)
_AROUND = timedelta(days=2)
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_USUAL = datetime(2026, 1, 1, tzinfo=UTC)  # where nothing says when: any year does
_EARLIEST, _LATEST = datetime(10, 1, 1, tzinfo=UTC), datetime(9990, 1, 1, tzinfo=UTC)  # so that a year can be added

Span: TypeAlias = tuple[datetime, datetime]


def instants(whens: Iterable[When], since: datetime | None) -> tuple[datetime, ...]:
    """One for each cell of time from `since` on (None: of all time), in order."""
    since = None if since is None else min(max(since, _EARLIEST), _LATEST)
    kinds = sorted({(when.until, when.daily) for when in whens}, key=str)
    bare = [When(until=until, daily=daily) for until, daily in kinds]
    bounds = sorted({bound for bound in _bounds(bare, since) if since is None or bound >= since})
    between = [early + (late - early) / 2 for early, late in pairwise(bounds)]
    found: dict[tuple[object, ...], datetime] = {}
    for instant in (*bounds, *between):
        found.setdefault(cell_of(bare, instant), instant)
    return tuple(sorted(found.values()))


def cell_of(whens: list[When], instant: datetime) -> tuple[object, ...]:
    """How each condition lies to the instant, whether enough of it is left, and which ends before which."""
    looks = [when.look(instant) for when in whens]
    order = sorted({end for _, end in looks if end is not None})
    return tuple(
        (phase, False, -1) if end is None else (phase, end - instant < MIN_LEASE_LIFE, order.index(end))
        for phase, end in looks
    )


def _bounds(whens: list[When], since: datetime | None) -> Iterator[datetime]:
    """Every instant at which one of the conditions may change, and one before and after all."""
    untils = sorted({when.until for when in whens if when.until is not None and _EARLIEST < when.until < _LATEST})
    dailies = [when.daily for when in whens if when.daily is not None]
    start = since or (untils[0] - _YEAR if untils else _USUAL)
    cuts = [start, *(until for until in untils if until > start)]
    yield start
    yield cuts[-1] + _DAY
    for until in cuts[1:]:
        yield from (until, until - MIN_LEASE_LIFE)
    for number, cut in enumerate(cuts if dailies else ()):
        end = cuts[number + 1] if number + 1 < len(cuts) else None
        for daily in dailies:
            for span in _spans(cut, end, [one.tz for one in dailies]):
                yield from _openings(daily, span)
    for zone in {daily.tz for daily in dailies}:
        for cut in cuts:
            for change in clock_changes(zone, cut, cut + _YEAR):
                yield from (change, change - MIN_LEASE_LIFE)


def _spans(start: datetime, end: datetime | None, zones: list[tzinfo]) -> Iterator[Span]:
    """Pieces of time that together show every week of start … end."""
    last = start + _YEAR
    if end is not None:
        yield end - _AROUND, end
        last = min(last, end)
    yield start, min(start + _WEEK, last)
    for zone in {*zones}:
        for change in clock_changes(zone, start, last):
            yield change - _AROUND, min(change + _WEEK, last)


def _openings(daily: Daily, span: Span) -> Iterator[datetime]:
    """When it opens, closes, and is too close to closing; both readings of an hour that comes twice."""
    day, last = (instant.astimezone(daily.tz).date() for instant in span)
    day -= _DAY
    while day <= last + _DAY:
        for wall, closes in ((daily.start, False), (daily.end, True)):
            for fold in (0, 1):
                instant = datetime.combine(day, _folded(wall, fold), daily.tz).astimezone(UTC)
                yield instant
                if closes:
                    yield instant - MIN_LEASE_LIFE
        day += _DAY


def _folded(wall: time, fold: int) -> time:
    return wall.replace(fold=fold)


@lru_cache(maxsize=1024)
def clock_changes(zone: tzinfo, start: datetime, end: datetime) -> tuple[datetime, ...]:
    """The instants (whole seconds) at which the clocks of a zone are moved."""
    if zone is UTC:
        return ()
    found = []
    early = start.replace(microsecond=0)
    while early < end:
        late = early + _DAY
        if early.astimezone(zone).utcoffset() != late.astimezone(zone).utcoffset():
            found.append(_change(zone, early, late))
        early = late
    return tuple(found)


def _change(zone: tzinfo, early: datetime, late: datetime) -> datetime:
    before = early.astimezone(zone).utcoffset()
    while late - early > _SECOND:
        middle = early + timedelta(seconds=(late - early) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late


def usable(when: When, instant: datetime) -> bool:
    """Does a grant hold, with enough left for a lease?"""
    phase, end = when.look(instant)
    return phase is Phase.OPEN and (end is None or end - instant >= MIN_LEASE_LIFE)


def concerns(when: When, instant: datetime) -> bool:
    """Does a deny hold? Also when nobody can say."""
    return when.look(instant)[0] in (Phase.OPEN, Phase.UNKNOWN)
