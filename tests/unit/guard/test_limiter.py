import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.guard.limiter import RateLimit, RequestLimiter


def passed(limiter: RequestLimiter, agent: str, now: float, times: int) -> int:
    return sum(limiter.wait(agent, now) == 0 for _ in range(times))


def test_a_burst_and_then_the_rate() -> None:
    limiter = RequestLimiter()
    assert passed(limiter, "a", 0, 1000) == 100
    assert passed(limiter, "a", 1, 1000) == 50
    assert passed(limiter, "a", 60, 1000) == 100


def test_the_wait_is_true() -> None:
    limiter = RequestLimiter(RateLimit(per_second=4, burst=1))
    assert limiter.wait("a", 0) == 0
    wait = limiter.wait("a", 0.1)
    assert wait == pytest.approx(0.15)
    assert limiter.wait("a", 0.1 + wait) == 0


def test_agents_do_not_share() -> None:
    limiter = RequestLimiter(RateLimit(per_second=1, burst=1))
    assert [limiter.wait(agent, 0) for agent in "abc"] == [0, 0, 0]


def test_a_crowd_of_names_neither_grows_the_table_nor_resets_a_bucket() -> None:
    limiter = RequestLimiter(RateLimit(per_second=1, burst=2, max_agents=10))
    assert passed(limiter, "runaway", 0, 5) == 2
    crowd = sum(limiter.wait(f"name-{n}", 0.5) == 0 for n in range(1000))
    assert crowd == 9 + 2  # nine found room, all others shared one bucket
    assert len(limiter) == 10
    assert limiter.wait("runaway", 0.5) > 0


def test_a_full_bucket_is_forgotten_for_a_new_agent() -> None:
    limiter = RequestLimiter(RateLimit(per_second=1, burst=2, max_agents=1))
    passed(limiter, "old", 0, 2)
    assert passed(limiter, "new", 2, 5) == 2
    assert passed(limiter, "old", 2, 5) == 2  # shared now
    assert len(limiter) == 1


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 3)), max_size=60))
def test_no_agent_ever_gets_more_than_burst_and_rate(events: list[tuple[str, float]]) -> None:
    limit = RateLimit(per_second=1, burst=2, max_agents=2)
    limiter, now, times = RequestLimiter(limit), 0.0, {name: [0.0][:0] for name in "abcdef"}
    for agent, pause in events:
        now += pause
        if limiter.wait(agent, now) == 0:
            times[agent].append(now)
    for mine in times.values():
        for first, begin in enumerate(mine):
            for last in range(first, len(mine)):
                # In its own bucket and, before or after, in the shared one: at most twice the burst.
                assert last - first + 1 <= 2 * (limit.burst + mine[last] - begin) + 1e-6


@pytest.mark.parametrize("wrong", [{"per_second": 0}, {"burst": 0}, {"max_agents": 0}])
def test_limits_that_let_nothing_pass_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="greater than zero"):
        RateLimit(**wrong)
