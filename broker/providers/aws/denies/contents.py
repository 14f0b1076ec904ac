"""What a policy should say: which sessions by name, which by a cut-off, and who has to wait for room. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from broker.providers.aws.denies.ages import Age
from broker.providers.aws.denies.book import Book, Place
from broker.providers.aws.denies.policy import Cut, Held, entries_in


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One session of a lease."""

    agent: str
    issued: datetime  # at the latest
    bound: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A cut-off of all that is older than now, and what lives on the role."""

    cut: Cut
    live: Mapping[str, Entry]  # by lease id


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """What the policy shall say next, and who gets a place by it. `waiting`: how many have no room."""

    entries: Mapping[str, datetime]
    cut: Cut | None
    placed: frozenset[str] = frozenset()
    waiting: int = 0
    live: Mapping[str, Entry] = field(default_factory=dict)

    def is_in(self, held: Held) -> bool:
        """Does the policy say it already?"""
        return self.entries.keys() <= held.names and (self.cut is None or self.cut == held.cut)


class Contents:
    """Of one role's policy in one epoch.

    What was ever sent stays in every later text until its bound is over, by name or by the cut-off: so a write that
    lands late takes away at most what was sent after it.
    """

    def __init__(self, book: Book, found: Callable[[str, Entry], bool]) -> None:
        self._book = book
        self._found = found  # does a predecessor's list say it?
        self.wanted: dict[str, Entry] = {}  # by lease id
        self._sent: set[str] = set()  # may be in the policy
        self.cut: Cut | None = None  # sent
        self._live: Mapping[str, Entry] = {}  # at the last cut-off

    def want(self, lease_id: str, entry: Entry) -> None:
        """Its end is asked for."""
        self.wanted[lease_id] = entry
        self._book.denied(lease_id)

    def covered(self, lease_id: str, cut: Cut | None, live: Mapping[str, Entry] | None = None) -> bool:
        """Does this cut-off deny it, as far as is known of it?"""
        entry = self.wanted.get(lease_id) or (self._live if live is None else live).get(lease_id)
        return cut is not None and entry is not None and cut.covers(entry.issued, entry.bound)

    def sweep(self, now: Age) -> None:
        """Forget what is over, and what would come too late."""
        for name, entry in list(self.wanted.items()):
            if now.over(entry.bound) or (name not in self._sent and now.too_late(entry.bound)):
                self.drop(name)
        if self.cut is not None and now.over(self.cut.until):
            self.cut = None
        self._book.sweep(now)

    def drop(self, lease_id: str) -> None:
        """It needs no entry, and no place."""
        self.wanted.pop(lease_id, None)
        self._sent.discard(lease_id)
        self._book.free(lease_id)

    def draft(self, room: int) -> Draft:
        """As things are. `room`: characters."""
        return self._fitting(room, self.cut, self._live)

    def cut_off(self, room: int, offer: Offer, plain: Draft) -> Draft | None:
        """With all that is older cut off, if that makes room for whoever waits and takes none from the rest."""
        cut = offer.cut if self.cut is None else offer.cut.after(self.cut)
        held = sum(not self.covered(name, cut, offer.live) for name in self._book)
        made = self._fitting(room, cut, offer.live)
        fits = max(held, len(made.entries)) <= entries_in(room, cut=True)
        return made if fits and made.waiting < plain.waiting else None

    def take(self, draft: Draft) -> None:
        """This is what is sent next: who has no place yet gets one."""
        for name in draft.placed:
            entry = self.wanted[name]
            self._book.hold(name, Place(agent=entry.agent, bound=entry.bound, denied=True))

    def went(self, draft: Draft) -> None:
        """It was sent, and not refused."""
        self._sent |= draft.entries.keys()
        self.cut, self._live = draft.cut, draft.live

    def cut_is_sure(self) -> None:
        """What it covers needs no name and no place any more."""
        for name in [name for name in (*self.wanted, *self._book) if self.covered(name, self.cut)]:
            self.drop(name)

    def _fitting(self, room: int, cut: Cut | None, live: Mapping[str, Entry]) -> Draft:
        """What was sent stays; then those with a place, the longest exposure first; then others while there is room."""
        capacity = entries_in(room, cut=cut is not None)
        named = {
            name: entry.bound
            for name, entry in self.wanted.items()
            if not self.covered(name, cut, live) and (name in self._sent or not self._found(name, entry))
        }
        unplaced = [name for name in named if name not in self._book and name not in self._sent]
        unplaced.sort(key=named.__getitem__, reverse=True)
        held = sum(not self.covered(name, cut, live) for name in self._book)
        placed = frozenset(unplaced[: max(0, capacity - held)])
        order = [name for name in named if name in self._book or name in self._sent or name in placed]
        order.sort(key=lambda name: (name in self._sent, named[name]), reverse=True)
        chosen = order[: max(capacity, sum(name in self._sent for name in order))]
        return Draft(
            entries={name: named[name] for name in chosen},
            cut=cut,
            placed=placed,
            waiting=len(named) - len(chosen),
            live=live,
        )
