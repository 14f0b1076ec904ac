"""Certificates that stand for all others: one for each way in which they can fit the patterns of some workloads.

A segment is one of the texts that occur there, or a text that occurs nowhere. Where several workloads bind the same
claim by different segments, the segments may be the same or not: so each text of one is tried in all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from broker.policy.patterns import BINDING, SEGMENT, Capture, Pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Fresh:
    """Texts that no map mentions."""

    prefix: str

    def text(self, what: object) -> str:
        """Fit for a template."""
        return f"{self.prefix}-{what}"

    def unfit(self, what: object) -> str:
        """Not fit for a template."""
        return f"{self.prefix}.{what}"


def fresh(mentioned: str) -> Fresh:
    """Such that none of its texts is a part of what is mentioned."""
    number = 0
    prefix = "any"
    while prefix in mentioned:
        number += 1
        prefix = f"any{number}x"
    return Fresh(prefix=prefix)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tied:
    """Positions that one claim ties together, and the claims that do."""

    positions: frozenset[int]
    names: frozenset[str]


class Identities:
    """Of one region (a pattern), that fit one of the `granted` patterns, and any of the `others`; all overlap the region."""

    def __init__(
        self,
        region: Pattern,
        granted: Iterable[Pattern],
        others: Iterable[Pattern],
        *,
        workflows: Collection[str],
        variables: Collection[str],
        fresh: Fresh,
    ) -> None:
        self._region = region
        self._granted = _distinct(granted)
        self._others = _distinct(others)
        patterns = (*self._granted, *self._others)
        self._workflows = [name for name in workflows if SEGMENT.fullmatch(name)]
        self._variables = frozenset(variables)
        self._fresh = fresh
        self._captured = [
            frozenset(one.name for pattern in patterns if isinstance(one := pattern.segments[place], Capture))
            for place in range(len(region.segments))
        ]
        self._tied = [self._ties(place) for place in range(len(region.segments))]

    def agents(self) -> Iterator[str]:
        """SPIFFE IDs, each once."""
        for parts in self._walk((), self._granted, self._others):
            yield f"spiffe://{self._region.trust_domain}/{'/'.join(parts)}"

    def _walk(
        self, chosen: tuple[str, ...], granted: tuple[Pattern, ...], others: tuple[Pattern, ...]
    ) -> Iterator[tuple[str, ...]]:
        place = len(chosen)
        if place == len(self._region.segments):
            yield chosen
            return
        only = self._region.segments[place]
        for text in [only] if isinstance(only, str) else self._texts(chosen, (*granted, *others)):
            if still := _fitting(granted, place, text):  # else nobody gives it anything
                yield from self._walk((*chosen, text), still, _fitting(others, place, text))

    def _texts(self, chosen: tuple[str, ...], alive: tuple[Pattern, ...]) -> list[str]:
        place = len(chosen)
        tied = self._tied[place]
        found: dict[str, None] = {}
        for other in sorted(tied.positions):
            if other < place:
                found[chosen[other]] = None
                continue
            here = (pattern.segments[other] for pattern in (self._region, *alive))
            found |= {segment: None for segment in here if isinstance(segment, str)}
        if "workflow" in tied.names:
            found |= dict.fromkeys(self._workflows)
        found[self._fresh.text(place + 1)] = None
        if any(self._captured[other] & self._variables for other in tied.positions):
            found[self._fresh.unfit(place + 1)] = None
        return [*found]

    def _ties(self, place: int) -> _Tied:
        """Grown until no claim adds a position."""
        names = self._captured[place] & {*BINDING}
        positions = frozenset({place})
        while names:
            reached = frozenset(other for other, captured in enumerate(self._captured) if captured & names)
            more = frozenset(name for other in reached for name in self._captured[other] & {*BINDING})
            if (positions, names) == (reached, more):
                break
            positions, names = reached, more
        return _Tied(positions=positions, names=names)


def _distinct(patterns: Iterable[Pattern]) -> tuple[Pattern, ...]:
    return tuple({pattern.segments: pattern for pattern in patterns}.values())


def _fitting(patterns: tuple[Pattern, ...], place: int, text: str) -> tuple[Pattern, ...]:
    return tuple(one for one in patterns if isinstance(one.segments[place], Capture) or one.segments[place] == text)
