"""Who holds a place in a role's deny list. Pure.

Every live lease that promises DENY_POLICY has one, from before its mint: so that its end finds room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from broker.providers.aws.denies.ages import Age

SOONEST, LATEST = timedelta(seconds=1), timedelta(minutes=15)  # of what is said of when there may be room


class Lack(Enum):
    """Why a lease gets no place; the values are what the agent is told."""

    FULL = "the role's deny list has no room: one more session of it could not be ended early"
    SHARE = "this agent holds its share of the role's deny list: one more session could not be ended early"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """`denied`: its end was asked for, so that an entry may stand until the bound is over."""

    agent: str  # SPIFFE ID
    bound: datetime
    denied: bool = False


class Book:
    """Of one role in one epoch."""

    def __init__(self, share: float) -> None:
        self._share = share  # of the places, for one agent
        self._places: dict[str, Place] = {}  # by lease id

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, lease_id: str) -> bool:
        return lease_id in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def lack(self, agent: str, capacity: int) -> Lack | None:
        """Why this agent gets none now."""
        if len(self._places) >= capacity:
            return Lack.FULL
        held = sum(place.agent == agent for place in self._places.values())
        return Lack.SHARE if held >= max(1, math.floor(self._share * capacity)) else None

    def free_in(self, now: Age, agent: str = "") -> timedelta:
        """Until the earliest place, of this agent's if one is named, becomes free."""
        ends = [
            place.bound + (now.slack if place.denied else timedelta(0))
            for place in self._places.values()
            if agent in ("", place.agent)
        ]
        return min(max(min(ends, default=now.at) - now.at, SOONEST), LATEST)

    def hold(self, lease_id: str, place: Place) -> None:
        """Whatever room there is; a lease keeps the place that it has."""
        self._places.setdefault(lease_id, place)

    def denied(self, lease_id: str) -> None:
        """Its end was asked for."""
        if lease_id in self._places:
            self._places[lease_id] = replace(self._places[lease_id], denied=True)

    def free(self, lease_id: str) -> None:
        """It needs none any more."""
        self._places.pop(lease_id, None)

    def sweep(self, now: Age) -> None:
        """Free what time has freed: no entry is written after a bound, and one that is there stays a little longer."""
        self._places = {
            name: place
            for name, place in self._places.items()
            if not (now.over(place.bound) if place.denied else now.at > place.bound)
        }
