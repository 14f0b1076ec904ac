"""Who may have how many calls in flight: one agent never takes the places that others need.

Calls that ask, and calls that give back, have rooms of their own: a house full of slow mints still takes heartbeats,
revocations and ends. So have streams, which stay for as long as their readers do.
"""

from __future__ import annotations

STREAMS = 32  # in-house bound: they are for people who watch
STREAMS_OF_ONE = 4


class Room:
    """So many places, shared fairly. For one event loop."""

    def __init__(self, places: int, most: int) -> None:
        """`most`: of one agent, also in an empty house."""
        self._places = places
        self._most = most
        self._kept = places // 4  # for agents that hold none
        self._held: dict[str, int] = {}  # of agents that hold some
        self._taken = 0  # the sum of `_held`, which is asked for on every call

    def take(self, agent: str) -> bool:
        """True when the agent gets one more place; it must be given back.

        1. Who holds none gets any place that is left.
        2. Who holds some gets more only while fewer are held than are left beyond those kept for rule 1: among n that
           want all they can get it is 1/(n+1) of them (dynamic thresholds: Choudhury and Hahne 1998), so the share
           shrinks as the house fills.

        So the house is full for a newcomer only when as many agents as places are kept are in it.
        """
        held, free = self._held.get(agent, 0), self._places - self._taken
        if held >= (min(self._most, free - self._kept) if held else free):
            return False
        self._held[agent] = held + 1
        self._taken += 1
        return True

    def give(self, agent: str) -> None:
        """One place back."""
        self._taken -= 1
        held = self._held[agent] - 1
        if held:
            self._held[agent] = held
        else:
            del self._held[agent]

    def __len__(self) -> int:
        return self._taken


class Places:
    """All rooms."""

    def __init__(self, *, room: int, most: int) -> None:
        self.asking = Room(room, most)
        self.giving_back = Room(room, most)
        self.streaming = Room(STREAMS, STREAMS_OF_ONE)

    def of(self, *, asks: bool, streams: bool = False) -> Room:
        """Where such a call takes its place."""
        return self.streaming if streams else self.asking if asks else self.giving_back
