"""The broker's own keys: replaced ahead of their end, by one fetch at a time, and nobody with good ones waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.providers.aws.login.identity import Identity, Keys, NoKeys
from broker.secret import Secret
from tests.fakes.clock import FakeClock

HOUR = 3600.0
SECRET = "throwAwaySecretKey"


class Source:
    """Gives keys that live for `life` seconds, or fails with `problem`; waits at `gate`."""

    def __init__(self, clock: FakeClock, life: float | None = HOUR) -> None:
        self.clock = clock
        self.life = life
        self.problem: Exception | None = None
        self.fetched = 0
        self.gate = threading.Event()
        self.gate.set()
        self.ends_at: datetime | None = None  # the same for ever, as of a cache

    def __call__(self) -> Keys:
        self.fetched += 1
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        ends_at = self.ends_at
        if ends_at is None and self.life is not None:
            ends_at = self.clock.now() + timedelta(seconds=self.life)
        return Keys(access_key_id=f"AKIA{self.fetched}", secret_access_key=Secret(SECRET), ends_at=ends_at)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def source(clock: FakeClock) -> Source:
    return Source(clock)


@pytest.fixture
def identity(source: Source, clock: FakeClock) -> Identity:
    return Identity(source, clock, patience=5)


def settle(identity: Identity) -> None:
    """Wait for the fetch under way, which nobody waits for."""
    fetching = identity._fetching
    if fetching is not None:
        fetching.result(10)


def test_keys_are_fetched_once_and_replaced_with_a_third_of_their_life_left(
    identity: Identity, source: Source, clock: FakeClock
) -> None:
    assert (identity.keys().access_key_id, identity.ends_at) == ("AKIA1", clock.now() + timedelta(hours=1))
    for _ in range(23):
        clock.advance(100)
        assert identity.keys().access_key_id == "AKIA1"
    assert source.fetched == 1
    clock.advance(101)
    assert identity.keys().access_key_id in ("AKIA1", "AKIA2")
    settle(identity)
    assert (identity.keys().access_key_id, source.fetched) == ("AKIA2", 2)


@pytest.mark.parametrize("life", [900.0, 899.0, 60.0, 5.0])
def test_a_short_life_is_no_reason_to_fetch_for_each_request(life: float, clock: FakeClock) -> None:
    source = Source(clock, life)
    identity = Identity(source, clock, patience=5)
    for _ in range(1000):  # within a tenth of their life
        identity.keys()
        clock.advance(life / 10_000)
    assert source.fetched == 1


def test_keys_without_an_end_are_fetched_once(clock: FakeClock) -> None:
    source = Source(clock, None)
    identity = Identity(source, clock, patience=5)
    for _ in range(5):
        identity.keys()
        clock.advance(100 * 24 * HOUR)
    assert (source.fetched, identity.left(), identity.ends_at) == (1, None, None)


def test_whoever_has_good_keys_does_not_wait_for_new_ones(identity: Identity, source: Source, clock: FakeClock) -> None:
    identity.keys()
    clock.advance(HOUR - 1)
    source.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(identity.keys) for _ in range(64)]
        assert {one.result(5).access_key_id for one in asked} == {"AKIA1"}  # while the fetch still hangs
    assert source.fetched == 2
    source.gate.set()
    settle(identity)
    assert identity.keys().access_key_id == "AKIA2"


def test_those_without_keys_wait_for_one_fetch(identity: Identity, source: Source) -> None:
    source.gate.clear()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(identity.keys) for _ in range(8)]
        source.gate.set()
        assert {one.result(5).access_key_id for one in asked} == {"AKIA1"}
    assert source.fetched == 1


def test_a_wait_has_an_end(source: Source, clock: FakeClock) -> None:
    identity = Identity(source, clock, patience=0.05)
    source.gate.clear()
    with pytest.raises(NoKeys, match="still being fetched"):
        identity.keys()
    source.gate.set()
    settle(identity)
    assert (identity.keys().access_key_id, source.fetched) == ("AKIA1", 1)


def test_a_failed_fetch_keeps_the_old_keys_until_their_end(
    identity: Identity, source: Source, clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    identity.keys()
    source.problem = NoKeys("the program is gone")
    clock.advance(HOUR * 0.7)
    while clock.now() < (identity.ends_at or clock.now()):
        assert identity.keys().access_key_id == "AKIA1"
        settle(identity)
        assert identity.problem == "the program is gone"
        clock.advance(10)
    assert 5 < source.fetched < 60  # 108 calls: it is not tried again at each
    with pytest.raises(NoKeys, match=r"have expired; the program is gone") as none:
        identity.keys()
    assert none.value.code == "BrokerCredentialsExpired"
    left = identity.left()
    assert left is not None
    assert left <= 0
    source.problem = None
    clock.advance(30)
    assert identity.keys().access_key_id.startswith("AKIA")
    assert identity.problem == ""
    assert capsys.readouterr().out.count("cannot be fetched") == 1  # said once, not at each attempt


def test_a_failure_is_the_answer_for_a_while(identity: Identity, source: Source, clock: FakeClock) -> None:
    source.problem = NoKeys("unreadable", "SecretKeyFileUnreadable")
    assert identity.left() is None or source.fetched  # it asks, and does not wait
    for _ in range(100):
        with pytest.raises(NoKeys, match="unreadable") as none:
            identity.keys()
        assert none.value.code == "SecretKeyFileUnreadable"
    assert (source.fetched, identity.left(), identity.ends_at) == (1, 0.0, None)
    source.problem = None
    clock.advance(1.1)
    assert identity.keys().access_key_id == "AKIA2"


@pytest.mark.parametrize("error", [RuntimeError(SECRET), KeyError(SECRET), OSError(SECRET)])
def test_what_a_source_says_of_its_own_is_not_repeated(
    identity: Identity, source: Source, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    source.problem = error
    with pytest.raises(NoKeys) as none:
        identity.keys()
    assert SECRET not in none.value.why + capsys.readouterr().out
    assert (none.value.__cause__, none.value.__context__) == (None, None)


def test_keys_that_were_dead_when_they_came_are_none(identity: Identity, source: Source) -> None:
    source.life = -1
    with pytest.raises(NoKeys, match="already expired"):
        identity.keys()


def test_what_the_service_refuses_is_fetched_anew_but_not_again_and_again(
    identity: Identity, source: Source, clock: FakeClock
) -> None:
    keys = identity.keys()
    identity.doubt(keys)  # just fetched
    assert (identity.keys(), source.fetched) == (keys, 1)
    clock.set_wall(clock.now() - timedelta(days=1))  # they look good for a day more
    clock.advance(6)
    identity.doubt(keys)
    identity.keys()
    settle(identity)
    assert identity.keys().access_key_id == "AKIA2"
    clock.advance(6)
    identity.doubt(keys)  # refused are those before
    identity.keys()
    assert source.fetched == 2


def test_asking_how_much_is_left_keeps_them_fresh(identity: Identity, source: Source, clock: FakeClock) -> None:
    assert identity.left() is None
    settle(identity)
    assert identity.left() == 1.0
    for _ in range(100):  # no call for 25 h
        clock.advance(900)
        identity.left()
        settle(identity)
        left = identity.left()
        assert left is not None
        assert left > 1 / 6, "the alert would fire though all is well"
    assert source.fetched > 20


def test_a_cache_that_gives_the_same_again_gives_no_new_life(
    identity: Identity, source: Source, clock: FakeClock
) -> None:
    source.ends_at = clock.now() + timedelta(hours=6)
    identity.keys()
    clock.advance(5.5 * HOUR)
    identity.keys()
    settle(identity)
    assert source.fetched == 2
    left = identity.left()
    assert left is not None
    assert left == pytest.approx(0.5 / 6)


def test_the_wall_clock_may_jump(identity: Identity, source: Source, clock: FakeClock) -> None:
    identity.keys()
    clock.set_wall(clock.now() + timedelta(hours=2))  # by it they have ended
    assert identity.keys().access_key_id == "AKIA2"
    assert source.fetched == 2


def test_no_thread_is_a_failure_like_others(
    identity: Identity, source: Source, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none)
        with pytest.raises(NoKeys, match="no thread"):
            identity.keys()
    clock.advance(2)
    assert identity.keys().access_key_id == "AKIA1"
    assert source.fetched == 1


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["pass", "fail", "work", "doubt", "ask"]), st.floats(min_value=0.1, max_value=2000)),
        max_size=30,
    )
)
def test_keys_that_are_given_have_not_ended(steps: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    source = Source(clock, 900)
    identity = Identity(source, clock, patience=5)
    acts: dict[str, Callable[[], None]] = {
        "fail": lambda: setattr(source, "problem", NoKeys("no")),
        "work": lambda: setattr(source, "problem", None),
        "ask": lambda: setattr(source, "asked", identity.left()),
    }
    for act, seconds in steps:
        clock.advance(seconds)
        acts.get(act, lambda: None)()
        try:
            keys = identity.keys()
        except NoKeys:
            assert source.problem is not None or identity.problem
        else:
            assert keys.ends_at is not None
            assert keys.ends_at > clock.now()
            if act == "doubt":
                identity.doubt(keys)
        settle(identity)


def test_many_threads_over_many_ends_never_get_a_dead_key() -> None:
    """In real time, with lives of 20 ms: whatever the threads do to each other."""
    from broker.clock import SystemClock

    clock, fetched = SystemClock(), [0]

    def fetch() -> Keys:
        fetched[0] += 1
        time.sleep(0.001)
        return Keys(
            access_key_id="A", secret_access_key=Secret(SECRET), ends_at=clock.now() + timedelta(milliseconds=20)
        )

    identity = Identity(fetch, clock, patience=5)

    def ask(_: int) -> bool:
        before = clock.now()
        try:
            keys = identity.keys()
        except NoKeys:  # a busy machine: they had ended before this thread ran again
            return True
        return keys.ends_at is not None and keys.ends_at > before

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(2000)))
