from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.rpc.places import Places, Room


def grab(room: Room, *agents: str) -> dict[str, int]:
    """Everybody takes what there is, turn by turn, until nobody gets any more."""
    held = dict.fromkeys(agents, 0)
    while got := [agent for agent in agents if room.take(agent)]:
        for agent in got:
            held[agent] += 1
    return held


def test_alone_an_agent_gets_its_most() -> None:
    assert grab(Room(128, 48), "a") == {"a": 48}
    assert grab(Room(128, 128), "a") == {"a": 48}  # as many as are left, beyond the 32 kept for others


def test_the_share_shrinks_as_the_house_fills() -> None:
    for crowd in (1, 2, 3, 7, 20):
        shares = grab(Room(128, 128), *(str(number) for number in range(crowd))).values()
        assert {96 // (crowd + 1)} <= set(shares) <= {96 // (crowd + 1), 96 // (crowd + 1) + 1}


def test_one_after_the_other_the_greedy_leave_room_for_newcomers() -> None:
    """Without the places kept, eight agents fill a house of 128: 64, 32, 16, 8, 4, 2, 1 and 1."""
    room = Room(128, 128)
    taken = [grab(room, f"greedy{number}") for number in range(20)]
    assert sum(sum(one.values()) for one in taken) < 128
    assert [room.take(f"honest{number}") for number in range(12)] == [True] * 12


@given(
    places=st.integers(4, 40),
    most=st.integers(1, 30),
    calls=st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.integers(0, 9)), max_size=400),
)
def test_a_newcomer_is_refused_only_by_a_crowd(places: int, most: int, calls: list[tuple[str, int]]) -> None:
    room, held = Room(places, most), Counter[str]()
    for agent, dice in calls:
        if dice > 2:
            holders = sum(map(bool, held.values()))
            before, got = len(room), room.take(agent)
            if not held[agent]:
                assert got == (before < places)
                assert got or holders >= places // 4
            held[agent] += got
            assert held[agent] <= max(1, min(most, places - places // 4))
        elif held[agent]:
            room.give(agent)
            held[agent] -= 1
        assert len(room) == held.total() <= places


def test_the_rooms_are_apart_and_a_place_comes_back() -> None:
    places = Places(room=4, most=1)
    asking, giving, streaming = places.of(asks=True), places.of(asks=False), places.of(asks=True, streams=True)
    assert [room.take("a") for room in (asking, giving, streaming)] == [True, True, True]
    assert not asking.take("a")
    asking.give("a")
    giving.give("a")
    assert (len(places.asking), len(places.giving_back), len(places.streaming)) == (0, 0, 1)
    assert asking.take("a")
